//! `spec.loadBalancerSourceRanges` for clients of the node itself: who may use a load balancer's address, and what else of
//! the Service is open to everybody.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::{Context as _, Result};
use lb_tests::{
    Guest, bpftool, eventually,
    guest::{Proto, Target, Traffic, errno},
    manifests::Service,
    poll::PATIENCE,
};
use serde_json::json;

use crate::cluster::{Cluster, EVERY_TRAFFIC, POD_PORT};

const INGRESS4: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 80);
const INGRESS6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x80, 0, 0, 0, 0, 0x80);
const CLUSTER_IP: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 80);
const CLUSTER_IP6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x10, 0x96, 0, 0, 0, 0, 0x80);

fn at(ip: impl Into<IpAddr>) -> SocketAddr {
    SocketAddr::new(ip.into(), 80)
}

fn ingress() -> [Target; 3] {
    [at(INGRESS4).into(), at(INGRESS6).into(), Target::v4_in_v6(at(INGRESS4))]
}

/// The Service `public` with these ranges (none at all: open to everybody) and the first pod as its endpoint.
fn publish(cluster: &Cluster, ranges: &[String]) -> Result<()> {
    let service = Service::new("public", &[CLUSTER_IP.into(), CLUSTER_IP6.into()])
        .port("tcp", Proto::Tcp, 80, POD_PORT)
        .port("udp", Proto::Udp, 80, POD_PORT)
        .ingress(&[INGRESS4.into(), INGRESS6.into()])
        .with(&json!({"loadBalancerSourceRanges": ranges}))
        .to(&[&cluster.pods[0]]);
    cluster.manifests.write("public", &[&service])
}

/// Every way to the load balancer's addresses leads to the pod, or is refused.
fn every_way(guest: &Guest, served: bool) -> Result<()> {
    for traffic in EVERY_TRAFFIC {
        for target in ingress() {
            match guest.ask(traffic, target) {
                Ok(name) => assert!(served && name == "a", "{traffic:?} to {target:?}: {name}"),
                Err(error) => {
                    assert!(!served && errno(&error) == "ECONNREFUSED", "{traffic:?} to {target:?}: {error:#}");
                }
            }
        }
    }
    Ok(())
}

fn wait_until_served(guest: &Guest) -> Result<()> {
    for target in ingress() {
        eventually(&format!("{target:?} to answer"), PATIENCE, || Ok(guest.ask(Traffic::Tcp, target).ok()))?;
    }
    Ok(())
}

/// Entries of a pinned map.
fn entries(cluster: &Cluster, map: &str) -> Result<usize> {
    let pin = cluster.node.bpffs().path().join("lb/maps").join(map);
    let shown = bpftool::shown(&[&"map", &"dump", &"pinned", &pin])?;
    Ok(shown.as_array().with_context(|| format!("no list: {shown}"))?.len())
}

#[test]
fn only_clients_in_the_ranges_reach_the_load_balancers_address_and_all_reach_the_cluster_ip() -> Result<()> {
    let cluster = Cluster::serving(&["a"])?;
    let outside_pod = cluster.node.pod("outside")?;
    let outside = outside_pod.guest()?;
    let host = cluster.node.host_process("host")?;
    let pod = &cluster.client_pod;
    publish(&cluster, &[format!("{}/32", pod.v4()), format!("{}/128", pod.v6())])?;
    wait_until_served(&cluster.client)?;
    every_way(&cluster.client, true)?;
    every_way(&outside, false)?;
    every_way(&host, false)?;
    for guest in [&cluster.client, &outside, &host] {
        for address in [at(CLUSTER_IP), at(CLUSTER_IP6)] {
            assert_eq!(guest.ask(Traffic::Tcp, address)?, "a");
        }
    }
    let node = &cluster.node;
    publish(&cluster, &[format!("{}/32", node.v4()), format!("{}/128", node.v6())])?;
    wait_until_served(&host)?;
    every_way(&host, true)?;
    every_way(&cluster.client, false)
}

#[test]
fn a_pod_that_starts_later_is_known_and_one_that_is_gone_is_forgotten() -> Result<()> {
    let cluster = Cluster::serving(&["a"])?;
    publish(&cluster, &["10.244.0.0/16".to_owned(), "fd00:10:244::/48".to_owned()])?;
    wait_until_served(&cluster.client)?;
    let before = entries(&cluster, "lb_clients4")?;
    let pod = cluster.node.pod("later")?;
    let later = pod.guest()?;
    wait_until_served(&later)?;
    assert_eq!(entries(&cluster, "lb_clients4")?, before + 1);
    drop((later, pod));
    eventually("the pod to be forgotten", PATIENCE, || {
        Ok((entries(&cluster, "lb_clients4")? == before && entries(&cluster, "lb_clients6")? == before).then_some(()))
    })
}

#[test]
fn clients_stay_known_without_an_agent_and_are_kept_only_while_a_service_has_ranges() -> Result<()> {
    let mut cluster = Cluster::serving(&["a"])?;
    assert_eq!(entries(&cluster, "lb_clients4")?, 0);
    publish(&cluster, &["10.244.0.0/16".to_owned(), "fd00:10:244::/48".to_owned()])?;
    wait_until_served(&cluster.client)?;
    cluster.agent.kill9()?;
    every_way(&cluster.client, true)?;
    cluster.agent.restart()?;
    cluster.agent.wait_ready()?;
    every_way(&cluster.client, true)?;
    publish(&cluster, &[])?;
    for map in ["lb_clients4", "lb_clients6"] {
        eventually(&format!("{map} to be empty"), PATIENCE, || Ok((entries(&cluster, map)? == 0).then_some(())))?;
    }
    every_way(&cluster.client, true)
}
