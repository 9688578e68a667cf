//! Every kind of socket reaches the pods of a Service, and only what is a Service is touched.

use std::collections::BTreeSet;

use anyhow::Result;
use lb_tests::{
    guest::{LoadSpec, Target, Traffic},
    manifests::Service,
};

use crate::cluster::{Cluster, EVERY_TRAFFIC, POD_PORT, WEB4, at, every_target, load, web};

#[test]
fn every_kind_of_socket_reaches_all_pods_of_a_service() -> Result<()> {
    let cluster = Cluster::serving(&["a", "b", "c"])?;
    let all = BTreeSet::from(["a", "b", "c"].map(String::from));
    for traffic in EVERY_TRAFFIC {
        for target in every_target() {
            assert_eq!(cluster.answers(traffic, target)?, all, "{traffic:?} to {target:?}");
        }
    }
    Ok(())
}

#[test]
fn connections_are_spread_evenly_over_three_pods() -> Result<()> {
    let cluster = Cluster::serving(&["a", "b", "c"])?;
    for traffic in [Traffic::Tcp, Traffic::UdpUnconnected] {
        let load = cluster.client.load(LoadSpec { per_second: 1000, ..load(traffic, at(WEB4)) })?;
        load.wait_for(300)?;
        let report = load.stop()?;
        assert!(report.errors.is_empty(), "{report:?}");
        assert_eq!(report.answers.len(), 3, "{report:?}");
        // A third of n, give or take 5 standard deviations: sqrt(n 1/3 2/3) for n = 300 is 8.2.
        let n = report.attempts;
        assert!(report.answers.values().all(|count| count.abs_diff(n / 3) < 41 * n / 300), "{report:?}");
    }
    Ok(())
}

#[test]
fn a_service_with_several_ports_leads_each_to_its_own() -> Result<()> {
    use lb_tests::guest::Proto;
    let cluster = Cluster::serving(&["a"])?;
    cluster.servers[0].serve("metrics of a", Proto::Tcp, 9090)?;
    cluster.servers[0].serve("dns of a", Proto::Udp, 5353)?;
    let several = Service::new("several", &[[10, 96, 0, 20].into()])
        .port("http", Proto::Tcp, 80, POD_PORT)
        .port("metrics", Proto::Tcp, 9090, 9090)
        .port("dns", Proto::Udp, 53, 5353)
        .to(&[&cluster.pods[0]]);
    cluster.manifests.write("web", &[&web(&[&cluster.pods[0]]), &several])?;
    let port = |port: u16| -> Target { std::net::SocketAddr::from(([10, 96, 0, 20], port)).into() };
    lb_tests::eventually("the second Service to answer", lb_tests::poll::PATIENCE, || {
        Ok(cluster.client.ask(Traffic::UdpConnected, port(53)).ok())
    })?;
    assert_eq!(cluster.client.ask(Traffic::Tcp, port(80))?, "a");
    assert_eq!(cluster.client.ask(Traffic::Tcp, port(9090))?, "metrics of a");
    assert_eq!(cluster.client.ask(Traffic::UdpUnconnected, port(53))?, "dns of a");
    assert!(cluster.client.ask(Traffic::Tcp, port(53)).is_err(), "UDP's port is not TCP's");
    Ok(())
}

#[test]
fn what_is_not_a_service_is_left_alone() -> Result<()> {
    let cluster = Cluster::serving(&["a", "b"])?;
    let pod = &cluster.pods[1];
    for traffic in EVERY_TRAFFIC {
        for target in [pod.at4(POD_PORT).into(), pod.at6(POD_PORT).into(), Target::v4_in_v6(pod.at4(POD_PORT))] {
            assert_eq!(cluster.client.ask(traffic, target)?, "b", "{traffic:?} to {target:?}");
        }
    }
    let connection = cluster.client.tcp(pod.at4(POD_PORT))?;
    assert_eq!(connection.names()?.peer, Some(pod.at4(POD_PORT)));
    Ok(())
}
