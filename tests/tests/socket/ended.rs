//! A backend is gone: the sockets that a Service gave it to are ended at once, and no others.

use std::{
    fs,
    net::{IpAddr, SocketAddr},
    os::unix::fs::MetadataExt as _,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use lb_tests::{
    Agent, AgentSpec, Cgroup, Guest, Manifests, NetNs, Source, eventually,
    guest::{Target, Traffic, UdpSocket, errno},
    poll::PATIENCE,
};

use crate::cluster::{Cluster, POD_PORT, PORT, WEB4, at, every_target, web};

/// A socket of the client that is connected to `web` and was answered by the pod of that name.
fn connected<'c>(guest: &'c Guest, target: Target, expected: &str) -> Result<UdpSocket<'c>> {
    let socket = guest.udp(target)?;
    socket.connect(target.on_the_socket())?;
    assert_eq!(ask(&socket)?, expected);
    Ok(socket)
}

fn ask(socket: &UdpSocket<'_>) -> Result<String> {
    socket.send()?;
    Ok(socket.receive()?.name)
}

/// Waits until the socket has no peer any more. Does not take its error away.
fn wait_until_ended(socket: &UdpSocket<'_>) -> Result<Duration> {
    let start = Instant::now();
    eventually("the socket to be ended", PATIENCE, || Ok(socket.names()?.peer.is_none().then_some(())))?;
    Ok(start.elapsed())
}

/// Ends a socket of `web`, which must have just pod `from`, by listing `to` instead. When that has happened, a pass has
/// looked at all sockets of the client.
fn replace(cluster: &Cluster, from: usize, to: usize) -> Result<()> {
    let marker = connected(&cluster.client, at(WEB4).into(), cluster.pods[from].name())?;
    cluster.list(&[to])?;
    wait_until_ended(&marker).map(drop)
}

#[test]
fn a_connected_udp_socket_fails_at_once_and_its_next_connect_reaches_another_backend() -> Result<()> {
    let cluster = Cluster::with(&["a", "b"], 1)?;
    let sockets = every_target().map(|target| (target, connected(&cluster.client, target, "a")));
    cluster.list(&[1])?;
    for (target, socket) in sockets {
        let socket = socket?;
        let took = wait_until_ended(&socket)?;
        println!("{target:?}: ended {took:?} after new connections went elsewhere");
        // What waits for an answer is told why; sending needs a peer now.
        assert_eq!(errno(&socket.receive().unwrap_err()), "ECONNABORTED", "{target:?}");
        assert_eq!(errno(&socket.send().unwrap_err()), "EDESTADDRREQ", "{target:?}");
        socket.connect(target.on_the_socket())?;
        assert_eq!(ask(&socket)?, "b", "{target:?}");
    }
    let metrics = cluster.agent.metrics()?;
    assert!(metrics.contains("lb_sockets_terminated_total{protocol=\"UDP\"} 3"), "{metrics}");
    assert!(metrics.contains("lb_socket_termination_failures_total 0"), "{metrics}");
    Ok(())
}

#[test]
fn a_socket_that_is_bound_to_an_interface_or_a_port_is_found_too() -> Result<()> {
    let cluster = Cluster::with(&["a", "b"], 1)?;
    let to_interface = cluster.client.udp(at(WEB4))?;
    to_interface.bind_device("eth0")?;
    let to_port = cluster.client.udp(at(WEB4))?;
    to_port.bind(SocketAddr::from(([0, 0, 0, 0], 5353)))?;
    for socket in [&to_interface, &to_port] {
        socket.connect(at(WEB4))?;
        assert_eq!(ask(socket)?, "a");
    }
    cluster.list(&[1])?;
    wait_until_ended(&to_interface)?;
    wait_until_ended(&to_port).map(drop)
}

#[test]
fn the_agent_does_not_stay_in_the_namespaces_that_it_looks_into() -> Result<()> {
    let cluster = Cluster::with(&["a", "b"], 1)?;
    replace(&cluster, 0, 1)?;
    let home = fs::metadata(cluster.node.netns().path())?.ino();
    let process = format!("/proc/{}", cluster.agent.process().pid());
    eventually("the agent's threads to be at home, with no other namespace open", PATIENCE, || {
        let threads = fs::read_dir(format!("{process}/task"))?.map(|task| Ok(task?.path().join("ns/net")));
        let files = fs::read_dir(format!("{process}/fd"))?.map(|file| Ok(file?.path()));
        for path in threads.chain(files).collect::<std::io::Result<Vec<_>>>()? {
            // A thread or file that has just gone is in no namespace.
            let namespace = fs::read_link(&path).is_ok_and(|target| target.to_string_lossy().starts_with("net:"));
            if namespace && fs::metadata(&path).is_ok_and(|found| found.ino() != home) {
                return Ok(None);
            }
        }
        Ok(Some(()))
    })
}

#[test]
fn a_waiting_receive_is_woken() -> Result<()> {
    let cluster = Cluster::with(&["a", "b"], 1)?;
    let socket = connected(&cluster.client, at(WEB4).into(), "a")?;
    let woken = std::thread::scope(|scope| {
        let waiting = scope.spawn(|| socket.receive());
        cluster.manifests.write("web", &[&web(&[&cluster.pods[1]])])?;
        waiting.join().map_err(|_| anyhow::anyhow!("the thread panicked"))
    })?;
    assert_eq!(errno(&woken.unwrap_err()), "ECONNABORTED", "and not EAGAIN after its timeout");
    Ok(())
}

#[test]
fn sockets_that_no_service_sent_to_the_gone_backend_live_on() -> Result<()> {
    let cluster = Cluster::with(&["a", "b", "c"], 1)?;
    let pod_a = cluster.pods[0].at4(POD_PORT);
    let outside = Cgroup::new("outside")?;
    let stranger = Guest::spawn("stranger", cluster.client_pod.netns(), &outside)?;
    let mut directly = Vec::new();
    for (guest, target) in [
        (&cluster.client, Target::from(pod_a)),
        (&cluster.client, Target::v4_in_v6(pod_a)),
        (&cluster.client, cluster.pods[0].at6(POD_PORT).into()),
        (&stranger, pod_a.into()),
    ] {
        directly.push(connected(guest, target, "a")?);
    }
    replace(&cluster, 0, 1)?;
    let at_b = connected(&cluster.client, at(WEB4).into(), "b")?;
    cluster.list(&[1, 2])?;
    for socket in &directly {
        assert_eq!(ask(socket)?, "a");
    }
    assert_eq!(ask(&at_b)?, "b", "its endpoint still serves");
    Ok(())
}

#[test]
fn an_unconnected_udp_socket_lives_on_and_keeps_its_port() -> Result<()> {
    let cluster = Cluster::with(&["a", "b"], 1)?;
    let unconnected = cluster.client.udp(at(WEB4))?;
    unconnected.send_to(at(WEB4))?;
    assert_eq!(unconnected.receive()?.name, "a");
    // It was connected to the Service, which its storage still says, and is no more. It keeps a port that it asked for.
    let disconnected = cluster.client.udp(at(WEB4))?;
    disconnected.bind(SocketAddr::from(([0, 0, 0, 0], 5353)))?;
    disconnected.connect(at(WEB4))?;
    assert_eq!(ask(&disconnected)?, "a");
    disconnected.disconnect()?;
    let ports = || -> Result<_> { Ok([unconnected.names()?.local.port(), disconnected.names()?.local.port()]) };
    let before = ports()?;
    replace(&cluster, 0, 1)?;
    assert_eq!(ports()?, before);
    for socket in [&unconnected, &disconnected] {
        socket.send_to(at(WEB4))?;
        assert_eq!(socket.receive()?.name, "b");
    }
    Ok(())
}

#[test]
fn the_socket_of_an_endpoint_that_terminates_and_still_serves_lives_until_the_endpoint_is_gone() -> Result<()> {
    let cluster = Cluster::with(&["a", "b"], 1)?;
    let socket = connected(&cluster.client, at(WEB4).into(), "a")?;
    let (a, b) = (&cluster.pods[0], &cluster.pods[1]);
    cluster.manifests.write("web", &[&web(&[b]).and_terminating(&[a])])?;
    cluster.wait_until_answered_by(&["b"])?;
    // Something else goes meanwhile, so that a pass is made.
    let other = lb_tests::manifests::Service::new("other", &[[10, 96, 0, 30].into()]).port(
        "",
        lb_tests::guest::Proto::Udp,
        80,
        POD_PORT,
    );
    cluster.manifests.write("other", &[&other.clone().to(&[b])])?;
    let other_at = SocketAddr::from(([10, 96, 0, 30], 80));
    eventually("the other Service", PATIENCE, || Ok(cluster.client.ask(Traffic::UdpConnected, other_at).ok()))?;
    let marker = connected(&cluster.client, other_at.into(), "b")?;
    cluster.manifests.write("other", &[&other.to(&[a])])?;
    wait_until_ended(&marker)?;
    assert_eq!(ask(&socket)?, "a");
    cluster.list(&[1])?;
    wait_until_ended(&socket)?;
    Ok(())
}

#[test]
fn the_socket_of_a_service_that_is_replaced_by_one_with_the_same_address_and_endpoint_lives_on() -> Result<()> {
    let cluster = Cluster::with(&["a", "b"], 2)?;
    let sockets = eventually("a socket at each pod", PATIENCE, || {
        let socket = || -> Result<_> {
            let socket = cluster.client.udp(at(WEB4))?;
            socket.connect(at(WEB4))?;
            Ok((ask(&socket)?, socket))
        };
        let (first, second) = (socket()?, socket()?);
        let both = (first.0 == "a" && second.0 == "b").then_some((first.1, second.1));
        Ok(both)
    })?;
    let renamed =
        lb_tests::manifests::Service::new("site", &[WEB4.into()]).port("", lb_tests::guest::Proto::Udp, PORT, POD_PORT);
    cluster.manifests.write("web", &[&renamed.to(&[&cluster.pods[0]])])?;
    wait_until_ended(&sockets.1)?;
    assert_eq!(ask(&sockets.0)?, "a");
    Ok(())
}

#[test]
fn the_socket_of_a_service_that_is_deleted_is_ended_though_the_pod_still_serves() -> Result<()> {
    let cluster = Cluster::with(&["a"], 1)?;
    let socket = connected(&cluster.client, at(WEB4).into(), "a")?;
    let directly = connected(&cluster.client, cluster.pods[0].at4(POD_PORT).into(), "a")?;
    cluster.manifests.remove("web")?;
    wait_until_ended(&socket)?;
    assert_eq!(errno(&socket.receive().unwrap_err()), "ECONNABORTED");
    assert_eq!(ask(&directly)?, "a");
    Ok(())
}

#[test]
fn the_socket_of_a_service_that_gave_its_address_away_stays_with_its_backend_while_that_serves() -> Result<()> {
    let udp = |name: &str, ip: IpAddr| {
        let service = lb_tests::manifests::Service::new(name, &[ip]);
        service.port("datagrams", lb_tests::guest::Proto::Udp, PORT, POD_PORT)
    };
    let cluster = Cluster::with(&["a", "b"], 1)?;
    let socket = connected(&cluster.client, at(WEB4).into(), "a")?;
    let elsewhere: IpAddr = [10, 96, 0, 40].into();
    let (moved, heir) = (udp("web", elsewhere), udp("heir", WEB4.into()).to(&[&cluster.pods[1]]));
    cluster.manifests.write("web", &[&moved.clone().to(&[&cluster.pods[0]]), &heir])?;
    eventually("the address to be the other Service's", PATIENCE, || {
        let who = cluster.client.ask(Traffic::UdpConnected, at(WEB4)).ok();
        Ok((who.as_deref() == Some("b")).then_some(()))
    })?;
    assert_eq!(ask(&socket)?, "a");
    cluster.manifests.write("web", &[&moved.to(&[&cluster.pods[1]]), &heir])?;
    wait_until_ended(&socket).map(drop)
}

#[test]
fn the_socket_of_a_lone_backend_waits_until_another_one_serves() -> Result<()> {
    let cluster = Cluster::with(&["a", "b"], 1)?;
    let socket = connected(&cluster.client, at(WEB4).into(), "a")?;
    let list = |pods: &[&lb_tests::Pod]| -> Result<()> {
        cluster.manifests.write("web", &[&web(pods)])?;
        let expected = pods.first().map(|pod| pod.name().to_owned());
        eventually("new connections to show the change", PATIENCE, || {
            Ok((cluster.client.ask(Traffic::UdpConnected, at(WEB4)).ok() == expected).then_some(()))
        })
    };
    // A socket of another Service with the same gone backend shows that a pass was made.
    let other_at = SocketAddr::from(([10, 96, 0, 31], PORT));
    let other = |pod: &lb_tests::Pod| -> Result<()> {
        let service = lb_tests::manifests::Service::new("other", &[other_at.ip()]);
        let udp = lb_tests::guest::Proto::Udp;
        cluster.manifests.write("other", &[&service.port("", udp, PORT, POD_PORT).to(&[pod])])?;
        eventually("the other Service", PATIENCE, || {
            Ok((cluster.client.ask(Traffic::UdpConnected, other_at).ok().as_deref() == Some(pod.name())).then_some(()))
        })
    };
    let a_pass_is_over = || -> Result<()> {
        other(&cluster.pods[0])?;
        let marker = connected(&cluster.client, other_at.into(), "a")?;
        other(&cluster.pods[1])?;
        wait_until_ended(&marker).map(drop)
    };
    list(&[])?;
    a_pass_is_over()?;
    assert_eq!(ask(&socket)?, "a");
    list(&[&cluster.pods[0]])?;
    assert_eq!(ask(&socket)?, "a", "it was back in time");
    list(&[])?;
    a_pass_is_over()?;
    list(&[&cluster.pods[1]])?;
    wait_until_ended(&socket).map(drop)
}

#[test]
fn tcp_connections_are_reset_where_the_operator_wants_it() -> Result<()> {
    let mut cluster = Cluster::with(&["a", "b"], 1)?;
    terminate_tcp(&mut cluster.agent, &cluster.manifests)?;
    let connections = every_target().map(|target| cluster.client.tcp(target));
    let directly = cluster.client.tcp(cluster.pods[0].at4(POD_PORT))?;
    cluster.list(&[1])?;
    for (connection, target) in connections.into_iter().zip(every_target()) {
        let connection = connection?;
        let error = eventually("the connection to fail", PATIENCE, || Ok(connection.ask().err()))?;
        assert_eq!(errno(&error), "ECONNABORTED", "{target:?}");
    }
    assert_eq!(directly.ask()?, "a");
    Ok(())
}

fn terminate_tcp(agent: &mut Agent, manifests: &Manifests) -> Result<()> {
    let mut spec = AgentSpec::new(Source::Manifests(manifests.path().to_owned()));
    spec.args = vec!["--terminate-tcp".into(), "gone".into()];
    agent.stop()?;
    agent.restart_with(spec)?;
    agent.wait_ready()
}

#[test]
fn an_agent_ends_at_its_start_what_an_earlier_one_left_whose_backend_is_in_no_map_any_more() -> Result<()> {
    let mut cluster = Cluster::with(&["a", "b"], 1)?;
    let left = cluster.client.tcp(at(WEB4))?;
    cluster.list(&[1])?;
    let serving = cluster.client.tcp(at(WEB4))?;
    assert_eq!(left.ask()?, "a", "TCP connections are left alone unless the operator wants it otherwise");
    terminate_tcp(&mut cluster.agent, &cluster.manifests)?;
    let error = eventually("the connection to fail", PATIENCE, || Ok(left.ask().err()))?;
    assert_eq!(errno(&error), "ECONNABORTED");
    assert_eq!(serving.ask()?, "b");
    Ok(())
}

#[test]
fn sockets_whose_backend_went_while_no_agent_ran_are_ended_by_the_next_one() -> Result<()> {
    let mut cluster = Cluster::with(&["a", "b", "c"], 2)?;
    let mut at_a = None;
    let mut at_b = None;
    while at_a.is_none() || at_b.is_none() {
        let socket = cluster.client.udp(at(WEB4))?;
        socket.connect(at(WEB4))?;
        let slot = if ask(&socket)? == "a" { &mut at_a } else { &mut at_b };
        slot.get_or_insert(socket);
    }
    let (at_a, at_b) = (at_a.context("a socket at a")?, at_b.context("a socket at b")?);
    cluster.agent.kill9()?;
    // b goes and comes back: what matters is what is so when the agent is there again.
    for listed in [&[2][..], &[1, 2]] {
        let pods: Vec<_> = listed.iter().map(|index| &cluster.pods[*index]).collect();
        cluster.manifests.write("web", &[&web(&pods)])?;
    }
    cluster.agent.restart()?;
    cluster.agent.wait_ready()?;
    wait_until_ended(&at_a)?;
    replace_after_restart(&cluster)?;
    assert_eq!(ask(&at_b)?, "b");
    Ok(())
}

/// As `replace`, with an endpoint that is neither of the sockets' above.
fn replace_after_restart(cluster: &Cluster) -> Result<()> {
    let marker = eventually("a socket at c", PATIENCE, || {
        let socket = cluster.client.udp(at(WEB4))?;
        socket.connect(at(WEB4))?;
        Ok((ask(&socket)? == "c").then_some(socket))
    })?;
    cluster.list(&[1])?;
    wait_until_ended(&marker).map(drop)
}

#[test]
fn ten_thousand_sockets_in_two_hundred_namespaces_are_ended_in_one_pass() -> Result<()> {
    const NAMESPACES: usize = 200;
    const SOCKETS: usize = 50;
    let cluster = Cluster::with(&["a", "b"], 1)?;
    let mut netns = Vec::new();
    let mut cgroups = Vec::new();
    let mut guests = Vec::new();
    for number in 0..NAMESPACES {
        let name = format!("many-{number}");
        let namespace = NetNs::new(&name)?;
        // Connecting takes a route, and nobody has to answer.
        namespace.ip(["route add 10.0.0.0/8 dev lo"])?;
        let cgroup = cluster.node.cgroup().child(&name)?;
        guests.push(Guest::spawn(&name, &namespace, &cgroup)?);
        netns.push(namespace);
        cgroups.push(cgroup);
    }
    let mut sockets = Vec::new();
    for guest in &guests {
        for _ in 0..SOCKETS {
            let socket = guest.udp(at(WEB4))?;
            socket.connect(at(WEB4))?;
            sockets.push(socket);
        }
    }
    let start = Instant::now();
    cluster.list(&[1])?;
    let ended = format!("lb_sockets_terminated_total{{protocol=\"UDP\"}} {}", NAMESPACES * SOCKETS);
    eventually("all sockets to be ended", PATIENCE, || Ok(cluster.agent.metrics()?.contains(&ended).then_some(())))?;
    println!("{} sockets in {NAMESPACES} namespaces ended {:?} after the change", sockets.len(), start.elapsed());
    for line in cluster.agent.process().log()?.lines().filter(|line| line.contains("ended the sockets")) {
        println!("{line}");
    }
    for socket in [sockets.first(), sockets.last()].into_iter().flatten() {
        assert_eq!(socket.names()?.peer, None);
    }
    drop(sockets);
    drop((guests, cgroups, netns));
    Ok(())
}
