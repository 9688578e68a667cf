//! A Service that nobody serves refuses at once, as a closed port would, instead of letting clients wait.

use std::net::SocketAddr;

use anyhow::Result;
use lb_tests::{
    eventually,
    guest::{Traffic, errno},
    poll::PATIENCE,
};

use crate::cluster::{Cluster, WEB4, at, every_target, web};

#[test]
fn a_service_without_endpoints_refuses_every_kind_of_socket() -> Result<()> {
    let cluster = Cluster::with(&["a"], 0)?;
    for target in every_target() {
        let to = target.on_the_socket();
        let tcp = cluster.client.tcp(target).map(|_| ()).unwrap_err();
        assert_eq!(tcp.to_string(), "connect: ECONNREFUSED", "TCP to {target:?}");
        let udp = cluster.client.udp(target)?;
        assert_eq!(udp.connect(to).unwrap_err().to_string(), "connect: ECONNREFUSED", "UDP to {target:?}");
        assert_eq!(udp.send_to(to).unwrap_err().to_string(), "sendto: ECONNREFUSED", "UDP to {target:?}");
    }
    Ok(())
}

#[test]
fn a_refused_connect_leaves_a_socket_with_the_service_that_it_has() -> Result<()> {
    let cluster = Cluster::serving(&["a"])?;
    let socket = cluster.client.udp(at(WEB4))?;
    socket.connect(at(WEB4))?;
    let unknown_port = SocketAddr::new(WEB4.into(), 81);
    assert_eq!(socket.connect(unknown_port).unwrap_err().to_string(), "connect: ECONNREFUSED");
    assert_eq!(socket.names()?.peer, Some(at(WEB4)));
    socket.send()?;
    assert_eq!(socket.receive()?.name, "a");
    Ok(())
}

#[test]
fn a_service_refuses_when_its_last_endpoint_goes_and_serves_when_one_comes() -> Result<()> {
    let cluster = Cluster::serving(&["a"])?;
    assert_eq!(cluster.client.ask(Traffic::Tcp, at(WEB4))?, "a");
    cluster.manifests.write("web", &[&web(&[])])?;
    eventually("the Service to refuse", PATIENCE, || match cluster.client.tcp(at(WEB4)) {
        Ok(_) => Ok(None),
        Err(error) if errno(&error) == "ECONNREFUSED" => Ok(Some(())),
        Err(error) => Err(error),
    })?;
    cluster.manifests.write("web", &[&web(&[&cluster.pods[0]])])?;
    eventually("the Service to serve again", PATIENCE, || match cluster.client.ask(Traffic::Tcp, at(WEB4)) {
        Ok(name) => {
            assert_eq!(name, "a");
            Ok(Some(()))
        }
        Err(error) if errno(&error) == "ECONNREFUSED" => Ok(None),
        Err(error) => Err(error),
    })
}
