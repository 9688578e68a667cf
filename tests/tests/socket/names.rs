//! A process sees the Service that it talks to, never the pod behind it: by getpeername and as the sender of datagrams.

use std::net::SocketAddr;

use anyhow::Result;
use lb_tests::guest::{Target, Traffic};

use crate::cluster::{Cluster, POD_PORT, WEB4, at, every_target};

#[test]
fn getpeername_shows_the_service() -> Result<()> {
    let cluster = Cluster::serving(&["a", "b", "c"])?;
    for target in every_target() {
        let connection = cluster.client.tcp(target)?;
        assert_eq!(connection.names()?.peer, Some(target.on_the_socket()), "TCP to {target:?}");
        let socket = cluster.client.udp(target)?;
        socket.connect(target.on_the_socket())?;
        assert_eq!(socket.names()?.peer, Some(target.on_the_socket()), "UDP to {target:?}");
    }
    Ok(())
}

#[test]
fn datagrams_come_from_the_service() -> Result<()> {
    let cluster = Cluster::serving(&["a", "b", "c"])?;
    for target in every_target() {
        let to = target.on_the_socket();
        let unconnected = cluster.client.udp(target)?;
        unconnected.send_to(to)?;
        assert_eq!(unconnected.receive()?.from, Some(to), "sendto to {target:?}");
        let connected = cluster.client.udp(target)?;
        connected.connect(to)?;
        connected.send()?;
        assert_eq!(connected.receive()?.from, Some(to), "connect to {target:?}");
    }
    Ok(())
}

#[test]
fn an_unconnected_socket_stays_with_its_pod_while_others_choose_anew() -> Result<()> {
    let cluster = Cluster::serving(&["a", "b", "c"])?;
    let to = at(WEB4);
    let socket = cluster.client.udp(to)?;
    socket.send_to(to)?;
    let first = socket.receive()?.name;
    for _ in 0..20 {
        socket.send_to(to)?;
        assert_eq!(socket.receive()?.name, first);
    }
    assert_eq!(cluster.answers(Traffic::UdpUnconnected, to.into())?.len(), 3);
    Ok(())
}

#[test]
fn a_connected_socket_that_connects_elsewhere_shows_its_new_peer() -> Result<()> {
    let cluster = Cluster::serving(&["a", "b"])?;
    let cases: [(Target, SocketAddr); 2] =
        [(at(WEB4).into(), cluster.pods[1].at4(POD_PORT)), (every_target()[1], cluster.pods[1].at6(POD_PORT))];
    for (service, pod) in cases {
        let socket = cluster.client.udp(service)?;
        socket.connect(service.on_the_socket())?;
        socket.connect(pod)?;
        assert_eq!(socket.names()?.peer, Some(pod));
        socket.send()?;
        let answer = socket.receive()?;
        assert_eq!((answer.name.as_str(), answer.from), ("b", Some(pod)));
        socket.connect(service.on_the_socket())?;
        assert_eq!(socket.names()?.peer, Some(service.on_the_socket()));
    }
    Ok(())
}

/// Not from IPv4 to IPv6: Linux 6.18 then loses the answers, without any agent too.
#[test]
fn an_ipv6_socket_that_changes_to_ipv4_shows_its_new_peer() -> Result<()> {
    let cluster = Cluster::serving(&["a"])?;
    let [_, v6, v4_in_v6] = every_target();
    let socket = cluster.client.udp(v6)?;
    for target in [v6, v4_in_v6, Target::v4_in_v6(cluster.pods[0].at4(POD_PORT))] {
        let to = target.on_the_socket();
        socket.connect(to)?;
        assert_eq!(socket.names()?.peer, Some(to));
        socket.send()?;
        assert_eq!(socket.receive()?.from, Some(to));
        // It keeps its source address otherwise, which the other family cannot use (EAFNOSUPPORT).
        socket.disconnect()?;
    }
    Ok(())
}

#[test]
fn a_socket_connected_to_the_pod_that_a_service_chose_shows_the_pod() -> Result<()> {
    let cluster = Cluster::serving(&["a"])?;
    let pod = cluster.pods[0].at4(POD_PORT);
    let socket = cluster.client.udp(pod)?;
    socket.connect(at(WEB4))?;
    socket.connect(pod)?;
    assert_eq!(socket.names()?.peer, Some(pod));
    socket.send()?;
    assert_eq!(socket.receive()?.from, Some(pod));
    Ok(())
}

#[test]
fn a_disconnected_socket_has_no_peer_and_can_be_used_anew() -> Result<()> {
    let cluster = Cluster::serving(&["a", "b"])?;
    let pod = cluster.pods[1].at4(POD_PORT);
    let socket = cluster.client.udp(pod)?;
    socket.connect(at(WEB4))?;
    socket.disconnect()?;
    assert_eq!(socket.names()?.peer, None);
    socket.send_to(pod)?;
    assert_eq!(socket.receive()?.from, Some(pod));
    socket.send_to(at(WEB4))?;
    assert_eq!(socket.receive()?.from, Some(at(WEB4)));
    Ok(())
}
