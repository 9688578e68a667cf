//! An administrator of the cluster: what a test uses in the place of kubectl. Blocking, as the tests are.

use std::{
    fmt,
    path::Path,
    sync::{Mutex, PoisonError},
};

use anyhow::{Context as _, Result};
use futures::{StreamExt as _, stream};
use kube::{
    Api, Client, Config,
    api::{DeleteParams, DynamicObject, Patch, PatchParams},
    config::{KubeConfigOptions, Kubeconfig},
    core::{ApiResource, GroupVersionKind},
};
use serde_json::{Value, json};
use tokio::runtime::{Builder, Runtime};

use crate::netns::NetNs;

/// How many requests are under way at a time where many are made.
const SIDE_BY_SIDE: usize = 32;

/// What is to become of an object.
#[derive(Clone, Debug)]
pub enum Change {
    /// It is created or changed, with its status where it has one.
    Apply(Value),
    /// It goes, at once, if it is there.
    Delete(Value),
}

/// A client whose connections are made inside a network namespace.
pub struct Admin {
    netns: NetNs,
    /// Of the current-thread kind: it runs, and makes its sockets, in the thread that waits for it, and that thread is
    /// in the namespace.
    runtime: Mutex<Runtime>,
    client: Client,
}

impl Admin {
    pub(super) fn new(netns: &NetNs, kubeconfig: &Path) -> Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build().context("cannot make a tokio runtime")?;
        let kubeconfig = Kubeconfig::read_from(kubeconfig)?;
        let client = runtime.block_on(async {
            let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
            anyhow::Ok(Client::try_from(config)?)
        })?;
        Ok(Self { netns: netns.clone(), runtime: Mutex::new(runtime), client })
    }

    /// Carries out what `request` makes of the client.
    ///
    /// # Errors
    /// As the API server answers.
    pub fn call<T, F>(&self, request: impl FnOnce(Client) -> F + Send) -> Result<T>
    where
        T: Send,
        F: Future<Output = kube::Result<T>>,
    {
        let client = self.client.clone();
        let answer = self.netns.run(|| {
            let runtime = self.runtime.lock().unwrap_or_else(PoisonError::into_inner);
            runtime.block_on(request(client))
        })?;
        Ok(answer?)
    }

    /// Creates or changes an object, as `kubectl apply --server-side` does.
    pub fn apply(&self, object: &Value) -> Result<()> {
        let named = self.find(object)?;
        self.call(|_| named.apply(object)).with_context(|| format!("cannot apply {object}"))
    }

    /// As [`Self::apply`], all at the same time.
    pub fn apply_all(&self, objects: &[Value]) -> Result<()> {
        let find = |object| Ok((self.find(object)?, object));
        let named = objects.iter().map(find).collect::<Result<Vec<(Named, &Value)>>>()?;
        self.call(|_| futures::future::try_join_all(named.iter().map(|(at, object)| at.apply(object))))
            .context("cannot apply several objects")?;
        Ok(())
    }

    /// Sets the status of an object that exists.
    pub fn set_status(&self, object: &Value) -> Result<()> {
        let named = self.find(object)?;
        self.call(|_| named.set_status(object)).with_context(|| format!("cannot set the status of {object}"))
    }

    /// Deletes an object, at once. That it is not there is fine.
    pub fn delete(&self, object: &Value) -> Result<()> {
        let named = self.find(object)?;
        self.call(|_| named.delete()).with_context(|| format!("cannot delete {object}"))
    }

    /// Makes the changes of each list in their order, and the lists side by side. One result a list, which ends at the
    /// first change that cannot be made.
    pub fn change_all(&self, lists: &[Vec<Change>]) -> Result<Vec<Result<()>>> {
        let lists = lists.iter().map(|list| async move {
            for change in list {
                self.change(change).await.with_context(|| format!("cannot {change}"))?;
            }
            Ok(())
        });
        self.call(|_| async { Ok(stream::iter(lists).buffered(SIDE_BY_SIDE).collect().await) })
    }

    async fn change(&self, change: &Change) -> Result<()> {
        match change {
            Change::Delete(object) => self.find(object)?.delete().await?,
            Change::Apply(object) => {
                let named = self.find(object)?;
                match named.apply(object).await {
                    Err(error) if is_of_a_taken_address(&error) => {
                        self.free_addresses(object).await?;
                        named.apply(object).await?;
                    }
                    applied => applied?,
                }
                if object.get("status").is_some() {
                    named.set_status(object).await?;
                }
            }
        }
        Ok(())
    }

    /// Frees ClusterIPs that Services had who are gone. A busy API server deletes a Service and, some few times in ten
    /// thousand, not its IPAddress, which it finds out minutes later.
    async fn free_addresses(&self, service: &Value) -> Result<()> {
        let ips = service["spec"]["clusterIPs"].as_array().into_iter().flatten();
        for ip in ips {
            let metadata = json!({"name": ip});
            let address = json!({"apiVersion": "networking.k8s.io/v1", "kind": "IPAddress", "metadata": metadata});
            let at = self.find(&address)?;
            let Some(address) = at.api.get_opt(&at.name).await? else { continue };
            let parent = &address.data["spec"]["parentRef"];
            let metadata = json!({"namespace": parent["namespace"], "name": parent["name"]});
            let owner = self.find(&json!({"apiVersion": "v1", "kind": "Service", "metadata": metadata}))?;
            if owner.api.get_opt(&owner.name).await?.is_none() {
                at.delete().await?;
            }
        }
        Ok(())
    }

    /// Creates or changes the objects of a YAML text.
    pub fn apply_yaml(&self, text: &str) -> Result<()> {
        let objects: Vec<Value> = serde_saphyr::from_multiple(text).context("not the YAML of Kubernetes objects")?;
        objects.iter().try_for_each(|object| self.apply(object))
    }

    fn find(&self, object: &Value) -> Result<Named> {
        let parsed: DynamicObject = serde_json::from_value(object.clone()).context("not a Kubernetes object")?;
        let types = parsed.types.context("an object without apiVersion and kind")?;
        let resource = ApiResource::from_gvk(&GroupVersionKind::try_from(&types)?);
        let client = self.client.clone();
        let api = match &parsed.metadata.namespace {
            Some(namespace) => Api::namespaced_with(client, namespace, &resource),
            None => Api::all_with(client, &resource),
        };
        Ok(Named { api, name: parsed.metadata.name.context("an object without a name")? })
    }
}

fn is_of_a_taken_address(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.message.contains("provided IP is already allocated"))
}

/// Where an object is.
struct Named {
    api: Api<DynamicObject>,
    name: String,
}

impl Named {
    async fn apply(&self, object: &Value) -> kube::Result<()> {
        let params = PatchParams::apply("lb-tests").force();
        self.api.patch(&self.name, &params, &Patch::Apply(object)).await.map(|_| ())
    }

    /// By a merge patch, since server-side apply takes no Node with two addresses of one type.
    async fn set_status(&self, object: &Value) -> kube::Result<()> {
        self.api.patch_status(&self.name, &PatchParams::default(), &Patch::Merge(object)).await.map(|_| ())
    }

    async fn delete(&self) -> kube::Result<()> {
        match self.api.delete(&self.name, &DeleteParams::default().grace_period(0)).await {
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
            other => other.map(|_| ()),
        }
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Apply(object) => write!(f, "apply {object}"),
            Self::Delete(object) => write!(f, "delete {object}"),
        }
    }
}
