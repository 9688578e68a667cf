//! Pods that their annotation excludes from the socket layer. Who asks at the Service's address without translation meets
//! nobody here: there is no packet layer.

use anyhow::Result;
use lb_tests::{Cgroup, Guest, Pod, eventually, guest::Traffic, poll::PATIENCE};
use serde_json::{Value, json};

use crate::{
    Cluster,
    api_server::{Backends, WEB, at},
    objects::apply_service_by_hand,
};

const ANNOTATION: &str = "lb-agent/socket-lb-exclude";

fn object(name: &str, node: &str, annotation: Option<&str>) -> Value {
    let annotations = annotation.map_or(json!({}), |value| json!({ANNOTATION: value}));
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": "default", "annotations": annotations},
        "spec": {
            "nodeName": node, "automountServiceAccountToken": false,
            "containers": [{"name": "c", "image": "none"}],
        },
    })
}

/// A pod of the API and a process in a cgroup named as the kubelet would name it.
struct Workload {
    client: Guest,
    _cgroup: Cgroup,
    _pod: Pod,
}

impl Workload {
    fn new(cluster: &Cluster, name: &str, node: &str, cgroup: impl Fn(&str) -> String) -> Result<Self> {
        let admin = cluster.control_plane.admin();
        admin.apply(&object(name, node, None))?;
        let get = |client| async move {
            kube::Api::<k8s_openapi::api::core::v1::Pod>::default_namespaced(client).get(name).await
        };
        let uid = admin.call(get)?.metadata.uid.unwrap_or_default();
        let pod = cluster.node.pod(name)?;
        let cgroup = cluster.node.cgroup().child(&cgroup(&uid))?;
        let client = Guest::spawn(name, pod.netns(), &cgroup)?;
        Ok(Self { client, _cgroup: cgroup, _pod: pod })
    }

    /// Waits until its connections are translated, or are not.
    fn wait_until_served(&self, served: bool) -> Result<()> {
        eventually(&format!("a workload to be served by the socket layer: {served}"), PATIENCE, || {
            Ok((self.client.ask(Traffic::Tcp, at(WEB)).is_ok() == served).then_some(()))
        })
    }
}

#[test]
fn a_pods_annotation_excludes_it_and_is_followed() -> Result<()> {
    let cluster = Cluster::start()?;
    let backends = Backends::start(&cluster)?;
    let admin = cluster.control_plane.admin();
    apply_service_by_hand(admin, "web", WEB, &[&backends.a])?;
    let agent = cluster.start_agent()?;
    // Both of the kubelet's cgroup drivers, and one that is on another node by the API's word.
    let cgroupfs = Workload::new(&cluster, "cgroupfs", "n1", |uid| format!("pod{uid}"))?;
    let systemd = |uid: &str| format!("kubepods-besteffort-pod{}.slice", uid.replace('-', "_"));
    let systemd = Workload::new(&cluster, "systemd", "n1", systemd)?;
    let elsewhere = Workload::new(&cluster, "elsewhere", "n2", |uid| format!("pod{uid}"))?;
    for workload in [&cgroupfs, &systemd, &elsewhere] {
        workload.wait_until_served(true)?;
    }

    let set = |name: &str, node: &str, value| admin.apply(&object(name, node, Some(value)));
    set("elsewhere", "n2", "true")?;
    set("cgroupfs", "n1", "true")?;
    set("systemd", "n1", "true")?;
    cgroupfs.wait_until_served(false)?;
    systemd.wait_until_served(false)?;
    elsewhere.wait_until_served(true)?;

    set("systemd", "n1", "yes")?;
    eventually("status to name Pod and annotation", PATIENCE, || {
        let (_, text, _) = agent.cli(&["status"])?;
        Ok((text.contains("Pod default/systemd") && text.contains(ANNOTATION)).then_some(()))
    })?;
    systemd.wait_until_served(false)?;
    set("systemd", "n1", "false")?;
    systemd.wait_until_served(true)?;
    admin.delete(&object("cgroupfs", "n1", None))?;
    cgroupfs.wait_until_served(true)
}

#[test]
fn what_an_annotation_excluded_stays_so_while_the_agent_restarts_without_the_api_server() -> Result<()> {
    let mut cluster = Cluster::start()?;
    let backends = Backends::start(&cluster)?;
    apply_service_by_hand(cluster.control_plane.admin(), "web", WEB, &[&backends.a])?;
    let mut agent = cluster.start_agent()?;
    let workload = Workload::new(&cluster, "mesh", "n1", |uid| format!("pod{uid}"))?;
    cluster.control_plane.admin().apply(&object("mesh", "n1", Some("true")))?;
    workload.wait_until_served(false)?;

    agent.kill9()?;
    cluster.control_plane.kill_api_server(0)?;
    agent.restart()?;
    eventually("the agent to say that it waits", PATIENCE, || {
        let (_, text, _) = agent.cli(&["status"])?;
        Ok(text.contains("not in sync").then_some(()))
    })?;
    workload.wait_until_served(false)?;
    cluster.control_plane.restart_api_server(0)?;
    agent.wait_ready()?;
    workload.wait_until_served(false)
}
