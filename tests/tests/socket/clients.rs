//! Who may be the client, and who the endpoint: the pod itself, the node, machines outside the cluster.

use anyhow::Result;

use crate::cluster::{Cluster, EVERY_TRAFFIC, WEB4, WEB6, at, every_target, serve, web};

#[test]
fn a_pod_reaches_itself_through_its_service() -> Result<()> {
    let cluster = Cluster::serving(&["a"])?;
    let itself = cluster.pods[0].guest()?;
    for traffic in EVERY_TRAFFIC {
        for target in every_target() {
            assert_eq!(itself.ask(traffic, target)?, "a", "{traffic:?} to {target:?}");
        }
    }
    assert_eq!(itself.tcp(at(WEB4))?.names()?.peer, Some(at(WEB4)));
    Ok(())
}

#[test]
fn a_process_of_the_node_reaches_a_service() -> Result<()> {
    let cluster = Cluster::serving(&["a", "b", "c"])?;
    let host = cluster.node.host_process("kubelet")?;
    for traffic in EVERY_TRAFFIC {
        for target in every_target() {
            let answer = host.ask(traffic, target)?;
            assert!(["a", "b", "c"].contains(&answer.as_str()), "{traffic:?} to {target:?}: {answer}");
        }
    }
    Ok(())
}

#[test]
fn a_service_leads_to_an_endpoint_outside_the_cluster() -> Result<()> {
    let cluster = Cluster::serving(&["a"])?;
    let external = cluster.node.external("database", [10, 124, 142, 43].into(), "fd00:124::43".parse()?)?;
    let _serving = serve(&external)?;
    cluster.manifests.write("web", &[&web(&[&external])])?;
    cluster.wait_until_answered_by(&["database"])?;
    for traffic in EVERY_TRAFFIC {
        for address in [at(WEB4), at(WEB6)] {
            assert_eq!(cluster.client.ask(traffic, address)?, "database", "{traffic:?} to {address}");
        }
    }
    Ok(())
}

#[test]
fn a_process_outside_the_nodes_cgroup_is_not_served() -> Result<()> {
    let cluster = Cluster::serving(&["a"])?;
    let outside = lb_tests::Cgroup::new("outside")?;
    let stranger = lb_tests::Guest::spawn("stranger", cluster.client_pod.netns(), &outside)?;
    assert!(stranger.ask(lb_tests::guest::Traffic::Tcp, at(WEB4)).is_err());
    Ok(())
}
