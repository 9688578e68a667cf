//! API servers that die, come back, refuse or have forgotten: none of it costs a connection.

use std::net::{IpAddr, SocketAddr};

use anyhow::Result;
use k8s_openapi::api::core::v1::Service;
use kube::{Api, api::DeleteParams};
use lb_tests::{
    Agent, ControlPlane, Guest, Pod, eventually,
    guest::{HoldSpec, LoadSpec, Proto, Traffic},
    poll::PATIENCE,
};
use serde_json::{Value, json};

use crate::{
    Cluster,
    objects::{TARGET_PORT, apply_service_by_hand},
    wait_for_answers_from,
};

#[test]
fn connections_succeed_while_the_api_server_is_gone_and_changes_are_followed_afterwards() -> Result<()> {
    let mut cluster = Cluster::start()?;
    let backends = Backends::start(&cluster)?;
    apply_service_by_hand(cluster.control_plane.admin(), "web", WEB, &[&backends.a])?;
    let _agent = cluster.start_agent()?;
    let pod = cluster.node.pod("client")?;
    let client = pod.guest()?;
    let load = client.load(LoadSpec { traffic: Traffic::Tcp, target: at(WEB).into(), per_second: 200, threads: 2 })?;
    let hold = client.hold(HoldSpec { traffic: Traffic::Tcp, target: at(WEB).into(), sockets: 10, interval_ms: 10 })?;

    cluster.control_plane.kill_api_server(0)?;
    load.wait_for(200)?;
    cluster.control_plane.restart_api_server(0)?;
    load.wait_for(200)?;
    apply_service_by_hand(cluster.control_plane.admin(), "web", WEB, &[&backends.b])?;
    wait_for_answers_from(&["b".to_owned()], &client, Traffic::Tcp, at(WEB))?;

    let (load, hold) = (load.stop()?, hold.stop()?);
    assert!(load.errors.is_empty(), "{load:?}");
    assert!(hold.breaks.is_empty() && hold.moves.is_empty(), "{hold:?}");
    Ok(())
}

#[test]
fn an_exec_plugin_s_token_is_a_way_into_the_cluster() -> Result<()> {
    let cluster = Cluster::start()?;
    let backends = Backends::start(&cluster)?;
    apply_service_by_hand(cluster.control_plane.admin(), "web", WEB, &[&backends.a])?;
    cluster.control_plane.agent_kubeconfig()?;
    let mut agent = cluster.start_agent_with(cluster.control_plane.plugin_kubeconfig()?, &[])?;
    agent.wait_ready()?;
    let pod = cluster.node.pod("client")?;
    wait_for_answers_from(&["a".to_owned()], &pod.guest()?, Traffic::Tcp, at(WEB))
}

#[test]
fn agent_goes_on_with_another_api_server_when_its_own_is_dead() -> Result<()> {
    let mut cluster = Cluster::start()?;
    let backends = Backends::start(&cluster)?;
    let second = cluster.control_plane.add_api_server()?;
    apply_service_by_hand(cluster.control_plane.admin(), "web", WEB, &[&backends.a])?;
    let nobody = format!("https://{}:7443", cluster.control_plane.machine().v4());
    let servers = [nobody, cluster.control_plane.url(0), cluster.control_plane.url(second)].join(",");
    let mut agent =
        cluster.start_agent_with(cluster.control_plane.agent_kubeconfig()?, &["--api-servers", &servers])?;
    agent.wait_ready()?;
    let pod = cluster.node.pod("client")?;
    let client = pod.guest()?;
    wait_for_answers_from(&["a".to_owned()], &client, Traffic::Tcp, at(WEB))?;

    cluster.control_plane.kill_api_server(0)?;
    apply_service_by_hand(cluster.control_plane.admin_of(second), "web", WEB, &[&backends.b])?;
    wait_for_answers_from(&["b".to_owned()], &client, Traffic::Tcp, at(WEB))
}

#[test]
fn changes_that_the_api_server_has_forgotten_are_found_by_listing_again() -> Result<()> {
    let mut cluster = Cluster::start()?;
    let backends = Backends::start(&cluster)?;
    let second = cluster.control_plane.add_api_server()?;
    let admin = cluster.control_plane.admin();
    apply_service_by_hand(admin, "web", WEB, &[&backends.a])?;
    apply_service_by_hand(admin, "gone", GONE, &[&backends.a])?;
    let agent = cluster.start_agent()?;
    let pod = cluster.node.pod("client")?;
    let client = pod.guest()?;
    wait_for_answers_from(&["a".to_owned()], &client, Traffic::Tcp, at(GONE))?;

    let seen = version(&cluster.control_plane)?;
    cluster.control_plane.kill_api_server(0)?;
    let other = cluster.control_plane.admin_of(second);
    apply_service_by_hand(other, "web", WEB, &[&backends.b])?;
    delete_service(other, "gone")?;
    cluster.control_plane.compact()?;
    cluster.control_plane.restart_api_server(0)?;
    assert_eq!(watch_from(&cluster.control_plane, &seen)?, 410, "the agent's watch has nothing to complain of");

    wait_for_answers_from(&["b".to_owned()], &client, Traffic::Tcp, at(WEB))?;
    wait_until_unknown(&agent, "default/gone")
}

#[test]
fn refusal_by_the_api_server_shows_in_status_until_the_right_is_granted() -> Result<()> {
    let cluster = Cluster::start()?;
    let backends = Backends::start(&cluster)?;
    let admin = cluster.control_plane.admin();
    apply_service_by_hand(admin, "web", WEB, &[&backends.a])?;
    let name = json!({"name": "lb-agent", "namespace": "kube-system"});
    admin.apply(&json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": name}))?;
    let kubeconfig =
        cluster.control_plane.service_account_kubeconfig("kube-system", "lb-agent", &cluster.control_plane.url(0))?;
    let mut agent = cluster.start_agent_with(kubeconfig, &[])?;

    eventually("status to tell of the refusal", PATIENCE, || {
        let (_, text, _) = agent.cli(&["status"])?;
        Ok((text.contains("403") && text.contains("services is forbidden")).then_some(()))
    })?;
    assert_ne!(agent.healthz()?, Some(200));

    cluster.control_plane.agent_kubeconfig()?;
    agent.wait_ready()?;
    let pod = cluster.node.pod("client")?;
    let client = pod.guest()?;
    wait_for_answers_from(&["a".to_owned()], &client, Traffic::Tcp, at(WEB))
}

pub(crate) const WEB: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 96, 0, 100));
const GONE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 96, 0, 101));

pub(crate) fn at(cluster_ip: IpAddr) -> SocketAddr {
    SocketAddr::new(cluster_ip, 80)
}

/// Two pods that answer with their names, `a` and `b`.
pub(crate) struct Backends {
    pub(crate) a: Pod,
    b: Pod,
    _servers: [Guest; 2],
}

impl Backends {
    pub(crate) fn start(cluster: &Cluster) -> Result<Self> {
        let (a, b) = (cluster.node.pod("a")?, cluster.node.pod("b")?);
        let servers = [a.guest()?, b.guest()?];
        servers[0].serve("a", Proto::Tcp, TARGET_PORT)?;
        servers[1].serve("b", Proto::Tcp, TARGET_PORT)?;
        Ok(Self { a, b, _servers: servers })
    }
}

fn delete_service(admin: &lb_tests::control_plane::Admin, name: &str) -> Result<()> {
    admin.call(|client| async move {
        Api::<Service>::default_namespaced(client).delete(name, &DeleteParams::default()).await
    })?;
    Ok(())
}

/// The resource version that the list of Services has now.
fn version(control_plane: &ControlPlane) -> Result<String> {
    let list = control_plane.admin().call(|client| async move {
        Api::<Service>::all(client).list_metadata(&kube::api::ListParams::default()).await
    })?;
    Ok(list.metadata.resource_version.unwrap_or_default())
}

/// The status that a watch of Services from `version` on begins with, 200 if with an ordinary event.
fn watch_from(control_plane: &ControlPlane, version: &str) -> Result<i64> {
    let path = format!("/api/v1/services?watch=true&timeoutSeconds=1&resourceVersion={version}");
    let request = http::Request::get(path).body(Vec::new())?;
    let text = control_plane.admin().call(|client| async move { client.request_text(request).await })?;
    let first: Value = serde_json::from_str(text.lines().next().unwrap_or("{}"))?;
    Ok(if first["type"] == "ERROR" { first["object"]["code"].as_i64().unwrap_or_default() } else { 200 })
}

fn wait_until_unknown(agent: &Agent, service: &str) -> Result<()> {
    eventually(&format!("the maps to be without {service}"), PATIENCE, || {
        let (status, table, errors) = agent.cli(&["services"])?;
        anyhow::ensure!(status.success(), "lb-agent services: {errors}");
        Ok((!table.contains(service)).then_some(()))
    })
}
