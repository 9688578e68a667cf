//! What the scheduler and a node's kubelet do to the objects of pods, done when a test asks for it.
//!
//! A pod becomes a network namespace on the node ([`Pod`]). Its containers are servers that answer with the pod's name
//! at each of their `containerPort`s, as `agnhost serve-hostname` does; what a test wants to run instead it starts
//! itself in a pod from [`Kubelet::run_pod`]. There are no probes: a pod is ready as soon as its servers listen.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use k8s_openapi::api::core::v1;
use kube::{
    Api, ResourceExt as _,
    api::{DeleteParams, ListParams, PostParams},
};
use serde_json::{Value, json};

use super::Admin;
use crate::{
    guest::{Guest, Proto},
    node::Node,
    pod::Pod,
    poll::{PATIENCE, eventually},
};

/// The scheduler and the kubelet of a cluster with one node, for the pods of the namespace `default`.
pub struct Kubelet<'a> {
    node: &'a Node,
    admin: &'a Admin,
    running: BTreeMap<String, Running>,
}

/// A pod with what runs in it.
struct Running {
    pod: Pod,
    _servers: Guest,
}

impl<'a> Kubelet<'a> {
    /// Registers the node, with its addresses.
    pub fn register(node: &'a Node, admin: &'a Admin) -> Result<Self> {
        let object = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": node.name()}});
        admin.apply(&object)?;
        let addresses =
            [node.v4().to_string(), node.v6().to_string()].map(|ip| json!({"type": "InternalIP", "address": ip}));
        let mut status = object;
        status["status"] = json!({
            "addresses": addresses,
            "conditions": [{"type": "Ready", "status": "True"}],
        });
        admin.set_status(&status)?;
        Ok(Self { node, admin, running: BTreeMap::new() })
    }

    /// Does what there is to do until exactly `n` pods run and have been told so to the API server.
    pub fn sync_until_running(&mut self, n: usize) -> Result<()> {
        let what = format!("{n} running pods");
        eventually(&what, PATIENCE, || {
            self.sync()?;
            Ok((self.running.len() == n).then_some(()))
        })
    }

    /// The names of the pods that run.
    pub fn pod_names(&self) -> Vec<String> {
        self.running.keys().cloned().collect()
    }

    /// The pods that run.
    pub fn pods(&self) -> impl Iterator<Item = &Pod> {
        self.running.values().map(|running| &running.pod)
    }

    /// Makes a pod of its own, without controller, in any namespace: `start` is called in the place of starting its
    /// containers, and what it gives is handed back with the pod.
    pub fn run_pod<T>(&self, object: &Value, start: impl FnOnce(&Pod) -> Result<T>) -> Result<(Pod, T)> {
        let name = object["metadata"]["name"].as_str().context("a pod without a name")?;
        let mut object = object.clone();
        object["spec"]["nodeName"] = self.node.name().into();
        self.admin.apply(&object)?;
        let pod = self.node.pod(name)?;
        let started = start(&pod)?;
        let namespace = object["metadata"]["namespace"].as_str().unwrap_or("default");
        self.report_ready(namespace, &pod)?;
        Ok((pod, started))
    }

    /// Deletes the object of a pod. With a grace period of 0 it is gone at once; otherwise it is terminating until then.
    pub fn delete_pod(&self, namespace: &str, name: &str, grace_period_s: u32) -> Result<()> {
        let deleted = self.admin.call(|client| async move {
            let pods: Api<v1::Pod> = Api::namespaced(client, namespace);
            pods.delete(name, &DeleteParams::default().grace_period(grace_period_s)).await
        });
        deleted.with_context(|| format!("cannot delete pod {namespace}/{name}"))?;
        Ok(())
    }

    /// Starts the pods that are new and ends those that were deleted.
    pub fn sync(&mut self) -> Result<()> {
        let pods = self.list()?;
        self.follow(&pods)
    }

    /// The pods as the API server has them now.
    pub fn list(&self) -> Result<Vec<v1::Pod>> {
        let pods = self.admin.call(|client| async move {
            let pods: Api<v1::Pod> = Api::default_namespaced(client);
            pods.list(&ListParams::default()).await
        })?;
        Ok(pods.items)
    }

    /// Starts and ends pods by a list of them, which may be old by now: that a pod is gone meanwhile is no error, for a
    /// kubelet neither.
    pub fn follow(&mut self, pods: &[v1::Pod]) -> Result<()> {
        self.running.retain(|name, _| pods.iter().any(|pod| pod.name_any() == *name));
        for pod in pods {
            let name = pod.name_any();
            if pod.metadata.deletion_timestamp.is_some() {
                unless_gone(self.finish(&name))?;
            } else if !self.running.contains_key(&name) {
                unless_gone(self.start(pod))?;
            }
        }
        Ok(())
    }

    fn start(&mut self, object: &v1::Pod) -> Result<()> {
        let name = object.name_any();
        self.bind(&name)?;
        let pod = self.node.pod(&name)?;
        let servers = pod.guest()?;
        for container in object.spec.iter().flat_map(|spec| &spec.containers) {
            for port in container.ports.iter().flatten() {
                let proto = if port.protocol.as_deref() == Some("UDP") { Proto::Udp } else { Proto::Tcp };
                servers.serve(&name, proto, u16::try_from(port.container_port)?)?;
            }
        }
        self.report_ready("default", &pod)?;
        self.running.insert(name, Running { pod, _servers: servers });
        Ok(())
    }

    /// As the scheduler does it.
    fn bind(&self, name: &str) -> Result<()> {
        let binding = json!({
            "apiVersion": "v1",
            "kind": "Binding",
            "metadata": {"name": name},
            "target": {"apiVersion": "v1", "kind": "Node", "name": self.node.name()},
        });
        let bound = self.admin.call(|client| async move {
            let pods: Api<v1::Pod> = Api::default_namespaced(client);
            pods.create_subresource::<_, Value>("binding", name, &PostParams::default(), &binding).await
        });
        bound.with_context(|| format!("cannot bind pod {name} to node {}", self.node.name()))?;
        Ok(())
    }

    fn report_ready(&self, namespace: &str, pod: &Pod) -> Result<()> {
        let conditions = ["PodScheduled", "Initialized", "ContainersReady", "Ready"]
            .map(|condition| json!({"type": condition, "status": "True"}));
        self.admin.set_status(&json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": pod.name(), "namespace": namespace},
            "status": {
                "phase": "Running",
                "podIP": pod.v4(),
                "podIPs": [{"ip": pod.v4()}, {"ip": pod.v6()}],
                "conditions": conditions,
            },
        }))
    }

    /// Ends a pod that was deleted: first its servers, then the object, as a kubelet does.
    fn finish(&mut self, name: &str) -> Result<()> {
        self.running.remove(name);
        self.delete_pod("default", name, 0)
    }
}

/// Takes the API server's "there is no such object" for an answer, and that it is about to be none.
fn unless_gone(done: Result<()>) -> Result<()> {
    match done {
        Err(e) if e.chain().any(is_gone) => Ok(()),
        other => other,
    }
}

fn is_gone(cause: &(dyn std::error::Error + 'static)) -> bool {
    let Some(kube::Error::Api(status)) = cause.downcast_ref() else { return false };
    // A pod is bound to no node any more once it is being deleted: a conflict, as is one that another has bound.
    status.code == 404 || status.code == 409 && status.message.contains("is being deleted")
}
