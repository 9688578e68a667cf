//! Endpoints and manifests change: what is listed is served, nobody is turned away meanwhile.

use std::time::Instant;

use anyhow::Result;
use lb_tests::guest::{LoadReport, Traffic};

use crate::cluster::{Cluster, EVERY_TRAFFIC, WEB4, WEB6, at, load, web};

#[test]
fn an_edit_of_a_manifest_changes_the_next_connections() -> Result<()> {
    let cluster = Cluster::with(&["a", "b", "c"], 1)?;
    cluster.wait_until_answered_by(&["a"])?;
    let mut slowest = std::time::Duration::ZERO;
    for listed in ["b", "c", "a", "b", "c", "a"] {
        let pod = cluster.pods.iter().find(|pod| pod.name() == listed);
        let written = Instant::now();
        cluster.manifests.write("web", &[&web(&pod.into_iter().collect::<Vec<_>>())])?;
        while cluster.client.ask(Traffic::Tcp, at(WEB4))? != listed {
            assert!(written.elapsed() < lb_tests::poll::PATIENCE, "{listed} is listed, but does not answer");
        }
        slowest = slowest.max(written.elapsed());
    }
    println!("slowest of 6 edits: the first connection that followed it ended {slowest:?} after the file was written");
    Ok(())
}

#[test]
fn no_connection_fails_and_none_goes_astray_while_endpoints_change() -> Result<()> {
    let cluster = Cluster::with(&["a", "b", "c", "never-listed"], 2)?;
    let loads = EVERY_TRAFFIC
        .iter()
        .flat_map(|traffic| [at(WEB4), at(WEB6)].map(|address| load(*traffic, address)))
        .map(|spec| cluster.client.load(spec))
        .collect::<Result<Vec<_>>>()?;
    for listed in [[1, 2], [2, 0], [0, 1], [1, 2], [2, 0], [0, 1]] {
        cluster.list(&listed)?;
        loads[0].wait_for(20)?;
    }
    for load in loads {
        let report = load.stop()?;
        assert!(report.errors.is_empty(), "{report:?}");
        assert_eq!(names(&report), ["a", "b", "c"], "{report:?}");
    }
    Ok(())
}

#[test]
fn a_pod_that_is_no_endpoint_any_more_gets_no_new_connections_and_keeps_the_old() -> Result<()> {
    let cluster = Cluster::with(&["a", "b"], 1)?;
    let held = cluster.client.hold(crate::cluster::hold(Traffic::Tcp, at(WEB4)))?;
    cluster.list(&[1])?;
    for traffic in EVERY_TRAFFIC {
        let load = cluster.client.load(load(traffic, at(WEB4)))?;
        load.wait_for(50)?;
        assert_eq!(names(&load.stop()?), ["b"], "{traffic:?}");
    }
    held.wait_for(5)?;
    let report = held.stop()?;
    assert!(report.breaks.is_empty() && report.moves.is_empty(), "{report:?}");
    Ok(())
}

#[test]
fn datagrams_of_an_unconnected_socket_leave_a_pod_that_is_no_endpoint_any_more() -> Result<()> {
    let cluster = Cluster::with(&["a", "b"], 1)?;
    let socket = cluster.client.udp(at(WEB4))?;
    socket.send_to(at(WEB4))?;
    assert_eq!(socket.receive()?.name, "a");
    cluster.list(&[1])?;
    socket.send_to(at(WEB4))?;
    let answer = socket.receive()?;
    assert_eq!((answer.name.as_str(), answer.from), ("b", Some(at(WEB4))));
    Ok(())
}

#[test]
fn a_bad_edit_keeps_what_was_good_and_later_edits_work() -> Result<()> {
    let cluster = Cluster::with(&["a", "b", "c"], 2)?;
    cluster.manifests.write_text("web", "apiVersion: v1\nkind: Service\nmetadata: {name: web, namespace: default\n")?;
    // A good file that is written later shows that the bad one was read.
    let other = lb_tests::manifests::Service::new("other", &[[10, 96, 0, 30].into()])
        .port("", lb_tests::guest::Proto::Tcp, 80, crate::cluster::POD_PORT)
        .to(&[&cluster.pods[2]]);
    cluster.manifests.write("other", &[&other])?;
    lb_tests::eventually("the good file to take effect", lb_tests::poll::PATIENCE, || {
        Ok(cluster.client.ask(Traffic::Tcp, std::net::SocketAddr::from(([10, 96, 0, 30], 80))).ok())
    })?;
    assert_eq!(cluster.answers(Traffic::Tcp, at(WEB4).into())?, ["a", "b"].map(String::from).into());
    let log = cluster.agent.process().log()?;
    assert!(log.contains("web.yaml"), "the log does not name the file:\n{log}");
    cluster.list(&[2])
}

fn names(report: &LoadReport) -> Vec<&str> {
    report.answers.keys().map(String::as_str).collect()
}
