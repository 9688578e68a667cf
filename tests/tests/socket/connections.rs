//! The connections of the packet layer, as the agent and the operator treat them: shown by name, ended with their backend.
//! Written into the map as the programs would; how those do it is tested elsewhere.

use std::net::SocketAddr;

use anyhow::{Context as _, Result, ensure};
use aya::maps::{HashMap, Map, MapData};
use lb_agent::{
    clock,
    datapath::{bpf::Reader, store::FamilyStore},
};
use lb_common::abi::{Backend, Flow, FlowKey, Proto, V4, flow_flags, flow_seen};
use lb_tests::{Agent, eventually, poll::PATIENCE};
use serde_json::Value;

use crate::cluster::{Cluster, PORT, WEB4};

const CLIENT: [u8; 4] = [203, 0, 113, 9];
const NODE: [u8; 4] = [192, 0, 2, 7];

/// The backend of `web` at this pod.
fn backend(cluster: &Cluster, pod: usize, proto: Proto) -> Result<(u32, Backend<V4>)> {
    let addr = cluster.pods[pod].v4().octets();
    let reader = Reader::open(cluster.node.bpffs().path())?;
    let all: Vec<(u32, Backend<V4>)> = reader.store().backends()?;
    let found = all.into_iter().find(|(_, backend)| backend.addr == addr && backend.proto == proto.number());
    found.with_context(|| format!("no {proto:?} backend at {addr:?}"))
}

/// A connection from outside to this pod, by an address of the node's, that had a packet just now.
fn connect(cluster: &Cluster, client_port: u16, pod: usize, proto: Proto) -> Result<()> {
    let (id, backend) = backend(cluster, pod, proto)?;
    let key = FlowKey::<V4> {
        src_addr: CLIENT,
        src_port: client_port,
        dst_addr: WEB4.octets(),
        dst_port: PORT,
        proto: proto.number(),
        reserved: [0; 3],
    };
    let half = Flow {
        src_addr: NODE,
        src_port: 61_000 + client_port,
        dst_addr: backend.addr,
        dst_port: backend.port,
        service: backend.service,
        backend: id,
        created_s: clock::monotonic_s(),
        last_seen_s: clock::monotonic_s(),
        seen: flow_seen::PACKET | flow_seen::ACK,
        flags: flow_flags::SNAT,
        ..Flow::default()
    };
    let at = half.partner(&key);
    let (src_addr, src_port, flags) = (key.dst_addr, key.dst_port, half.flags | flow_flags::REPLY);
    let reply = Flow { src_addr, src_port, dst_addr: CLIENT, dst_port: client_port, flags, ..half };
    let map = MapData::from_pin(cluster.node.bpffs().path().join("lb/maps/lb_conns4"))?;
    let mut map: HashMap<_, FlowKey<V4>, Flow<V4>> = Map::HashMap(map).try_into()?;
    map.insert(at, reply.sealed(&at), 0)?;
    Ok(map.insert(key, half.sealed(&key), 0)?)
}

fn connections(agent: &Agent, filter: &[&str]) -> Result<Vec<Value>> {
    let (status, stdout, stderr) = agent.cli(&[&["connections", "-o", "json"], filter].concat())?;
    ensure!(status.success(), "{status}: {stderr}");
    Ok(serde_json::from_str(&stdout)?)
}

/// The ports of the clients, sorted.
fn client_ports(rows: &[Value]) -> Vec<u16> {
    let client = |row: &Value| row["client"].as_str()?.parse::<SocketAddr>().ok();
    let mut ports: Vec<u16> = rows.iter().filter_map(client).map(|client| client.port()).collect();
    ports.sort_unstable();
    ports
}

#[test]
fn connections_are_shown_with_names_also_without_an_agent() -> Result<()> {
    let mut cluster = Cluster::serving(&["a"])?;
    connect(&cluster, 1, 0, Proto::Tcp)?;
    connect(&cluster, 2, 0, Proto::Udp)?;
    cluster.agent.kill9()?;
    let rows = connections(&cluster.agent, &["default/web"])?;
    assert_eq!(client_ports(&rows), [1, 2]);
    let tcp = rows.iter().find(|row| row["protocol"] == "TCP").context("no TCP row")?;
    assert_eq!((&tcp["service"], &tcp["client"]), (&"default/web:http".into(), &"203.0.113.9:1".into()));
    assert_eq!((&tcp["frontend"], &tcp["source"]), (&"10.96.0.10:80".into(), &"192.0.2.7:61001".into()));
    assert_eq!(tcp["backend"], format!("{}:8080", cluster.pods[0].v4()));
    assert_eq!(tcp["state"], "established");
    assert_eq!(client_ports(&connections(&cluster.agent, &["web:datagrams"])?), [2]);
    assert_eq!(connections(&cluster.agent, &["-n", "other"])?.len(), 0);
    let (_, table, stderr) = cluster.agent.cli(&["connections"])?;
    assert!(table.starts_with("SERVICE") && table.lines().count() == 3, "{table}");
    assert!(stderr.contains("no agent is running"), "{stderr}");
    Ok(())
}

#[test]
fn flows_of_a_gone_backend_end_at_once_for_udp_and_stay_for_tcp() -> Result<()> {
    let cluster = Cluster::serving(&["a", "b"])?;
    for (client_port, pod, proto) in [(1, 0, Proto::Udp), (2, 1, Proto::Udp), (3, 0, Proto::Tcp)] {
        connect(&cluster, client_port, pod, proto)?;
    }
    cluster.list(&[1])?;
    eventually("the UDP flow of the gone backend to end", PATIENCE, || {
        Ok((client_ports(&connections(&cluster.agent, &[])?) == [2, 3]).then_some(()))
    })?;
    eventually("the metrics to count it", PATIENCE, || {
        let page = cluster.agent.metrics()?;
        Ok(page.contains("lb_connections_ended_total{reason=\"backend_gone\"} 1\n").then_some(()))
    })
}

#[test]
fn flows_of_a_backend_that_went_while_no_agent_ran_end_when_the_next_one_is_in_sync() -> Result<()> {
    let mut cluster = Cluster::serving(&["a", "b"])?;
    connect(&cluster, 1, 0, Proto::Udp)?;
    connect(&cluster, 2, 1, Proto::Udp)?;
    cluster.agent.kill9()?;
    cluster.manifests.write("web", &[&crate::cluster::web(&[&cluster.pods[1]])])?;
    cluster.agent.restart()?;
    cluster.agent.wait_ready()?;
    eventually("the flow of the gone backend to end", PATIENCE, || {
        Ok((client_ports(&connections(&cluster.agent, &[])?) == [2]).then_some(()))
    })
}
