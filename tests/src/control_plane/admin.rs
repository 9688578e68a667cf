//! An administrator of the cluster: what a test uses in the place of kubectl. Blocking, as the tests are.

use std::{
    path::Path,
    sync::{Mutex, PoisonError},
};

use anyhow::{Context as _, Result};
use kube::{
    Api, Client, Config,
    api::{DeleteParams, DynamicObject, Patch, PatchParams},
    config::{KubeConfigOptions, Kubeconfig},
    core::{ApiResource, GroupVersionKind},
};
use serde_json::Value;
use tokio::runtime::{Builder, Runtime};

use crate::netns::NetNs;

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
        let params = PatchParams::apply("lb-tests").force();
        let Named { api, name } = self.find(object)?;
        self.call(|_| async move { api.patch(&name, &params, &Patch::Apply(object)).await })
            .with_context(|| format!("cannot apply {object}"))?;
        Ok(())
    }

    /// As [`Self::apply`], all at the same time.
    pub fn apply_all(&self, objects: &[Value]) -> Result<()> {
        let params = PatchParams::apply("lb-tests").force();
        let find = |object: &Value| Ok((self.find(object)?, Patch::Apply(object.clone())));
        let named = objects.iter().map(find).collect::<Result<Vec<_>>>()?;
        self.call(|_| {
            futures::future::try_join_all(named.iter().map(|(at, patch)| at.api.patch(&at.name, &params, patch)))
        })
        .context("cannot apply several objects")?;
        Ok(())
    }

    /// Sets the status of an object that exists. By a merge patch, since server-side apply takes no Node with two
    /// addresses of one type.
    pub fn set_status(&self, object: &Value) -> Result<()> {
        let Named { api, name } = self.find(object)?;
        self.call(|_| async move { api.patch_status(&name, &PatchParams::default(), &Patch::Merge(object)).await })
            .with_context(|| format!("cannot set the status of {object}"))?;
        Ok(())
    }

    /// Deletes an object, at once. That it is not there is fine.
    pub fn delete(&self, object: &Value) -> Result<()> {
        let Named { api, name } = self.find(object)?;
        let params = DeleteParams::default().grace_period(0);
        match self.call(|_| async move { Ok(api.delete(&name, &params).await) })? {
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
            other => other.map(|_| ()).with_context(|| format!("cannot delete {object}")),
        }
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

/// Where an object is.
struct Named {
    api: Api<DynamicObject>,
    name: String,
}
