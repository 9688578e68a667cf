//! Services that are more than a ClusterIP, in the kernel: what the programs alone decide. What kube-proxy makes of the same
//! objects is the peer test's matter.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    thread::sleep,
    time::Duration,
};

use anyhow::Result;
use lb_tests::{
    AgentSpec, Guest, Node, Source, eventually,
    guest::{Proto, Traffic, errno},
    poll::PATIENCE,
};
use serde_json::{Value, json};

use crate::cluster::{Cluster, EVERY_TRAFFIC, POD_PORT, WEB4, WEB6, at, every_target};

const NODE_PORT: u16 = 30080;
const PODS: [&str; 3] = ["a", "b", "c"];

impl Cluster {
    /// `web` with all pods behind it and these fields in its spec.
    fn write_web(&self, fields: &Value) -> Result<()> {
        self.write_web_to(fields, |_| true)
    }

    /// The same, with those of the pods that are `listed`.
    fn write_web_to(&self, fields: &Value, listed: impl Fn(&str) -> bool) -> Result<()> {
        let mut spec = json!({
            "type": "ClusterIP",
            "clusterIP": WEB4,
            "clusterIPs": [WEB4, WEB6],
            "ports": [
                {"name": "http", "protocol": "TCP", "port": 80, "targetPort": POD_PORT},
                {"name": "datagrams", "protocol": "UDP", "port": 80, "targetPort": POD_PORT},
            ],
        });
        merge(&mut spec, fields);
        let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "namespace": "default"}, "spec": spec});
        let slices = [("IPv4", false), ("IPv6", true)].map(|(family, v6)| self.slice(family, v6, &listed));
        let objects = std::iter::once(service).chain(slices).map(|object| format!("{object:#}\n"));
        self.manifests.write_text("web", &objects.collect::<Vec<_>>().join("---\n"))
    }

    fn slice(&self, family: &str, v6: bool, listed: impl Fn(&str) -> bool) -> Value {
        let pods = self.pods.iter().filter(|pod| listed(pod.name()));
        let address = |pod: &lb_tests::Pod| -> IpAddr { if v6 { pod.v6().into() } else { pod.v4().into() } };
        json!({
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "name": format!("web-{}", family.to_lowercase()),
                "namespace": "default",
                "labels": {"kubernetes.io/service-name": "web"},
            },
            "addressType": family,
            "ports": [
                {"name": "http", "protocol": "TCP", "port": POD_PORT},
                {"name": "datagrams", "protocol": "UDP", "port": POD_PORT},
            ],
            "endpoints": pods.map(|pod| json!({"addresses": [address(pod)]})).collect::<Vec<_>>(),
        })
    }

    /// As [`Cluster::serving`], and an agent with NodePorts on the node's addresses and on loopback.
    fn with_node_ports(names: &[&str], args: &[&str]) -> Result<Self> {
        let mut cluster = Self::serving(names)?;
        cluster.agent.stop()?;
        let addresses = format!("{}/32,{}/128,127.0.0.0/8,::1/128", cluster.node.v4(), cluster.node.v6());
        let mut spec = AgentSpec::new(Source::Manifests(cluster.manifests.path().to_owned()));
        spec.args = ["--nodeport-addresses", &addresses].iter().chain(args).map(Into::into).collect();
        cluster.agent = cluster.node.start_agent_with(spec)?;
        cluster.agent.wait_ready()?;
        cluster.write_web(&json!({
            "type": "NodePort",
            "ports": [
                {"name": "http", "protocol": "TCP", "port": 80, "targetPort": POD_PORT, "nodePort": NODE_PORT},
                {"name": "datagrams", "protocol": "UDP", "port": 80, "targetPort": POD_PORT, "nodePort": NODE_PORT},
            ],
        }))?;
        eventually("the NodePort", PATIENCE, || {
            let answer = cluster.client.ask(Traffic::Tcp, node_port(cluster.node.v4()));
            Ok(answer.ok())
        })?;
        Ok(cluster)
    }
}

fn merge(into: &mut Value, fields: &Value) {
    for (name, value) in fields.as_object().into_iter().flatten() {
        into[name] = value.clone();
    }
}

fn node_port(ip: impl Into<IpAddr>) -> SocketAddr {
    SocketAddr::new(ip.into(), NODE_PORT)
}

fn affinity(seconds: u32) -> Value {
    json!({"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": seconds}}})
}

/// With affinity, seen to be in the maps: ten new sockets in a row went to one pod.
fn sticky(seconds: u32) -> Result<Cluster> {
    let cluster = Cluster::serving(&PODS)?;
    cluster.write_web(&affinity(seconds))?;
    eventually("affinity", PATIENCE, || {
        let answers = (0..10).map(|_| cluster.client.ask(Traffic::Tcp, at(WEB4))).collect::<Result<Vec<_>>>()?;
        Ok(answers.windows(2).all(|pair| pair[0] == pair[1]).then_some(()))
    })?;
    Ok(cluster)
}

#[test]
fn a_pod_keeps_its_backend_by_every_socket_and_other_pods_have_their_own() -> Result<()> {
    let mut cluster = sticky(10_000)?;
    let mut kept = BTreeMap::new();
    for target in every_target() {
        for traffic in EVERY_TRAFFIC {
            // Backends of each family are remembered apart, and a Service port is one protocol's.
            let port = (target.on_the_socket().ip().to_canonical().is_ipv4(), traffic == Traffic::Tcp);
            for _ in 0..5 {
                let answer = cluster.client.ask(traffic, target)?;
                assert_eq!(*kept.entry(port).or_insert(answer.clone()), answer, "{traffic:?} to {target:?}");
            }
        }
    }
    let others = (0..12).map(|pod| {
        let pod = cluster.node.pod(&format!("client{pod}"))?;
        pod.guest()?.ask(Traffic::Tcp, at(WEB4))
    });
    let others = others.collect::<Result<std::collections::BTreeSet<_>>>()?;
    assert!(others.len() > 1, "twelve pods were all sent to {others:?}");
    cluster.agent.stop()?;
    cluster.agent.restart()?;
    cluster.agent.wait_ready()?;
    assert_eq!(cluster.client.ask(Traffic::Tcp, at(WEB4))?, kept[&(true, true)], "also after a new agent has started");
    Ok(())
}

#[test]
fn affinity_ends_after_its_timeout() -> Result<()> {
    let cluster = sticky(1)?;
    let first = cluster.client.ask(Traffic::Tcp, at(WEB4))?;
    // The passing of time is what is tested. One of 20 choices among three is another but for once in 10^9 runs.
    let moved = (0..20).any(|_| {
        sleep(Duration::from_millis(2_100));
        cluster.client.ask(Traffic::Tcp, at(WEB4)).is_ok_and(|answer| answer != first)
    });
    assert!(moved, "always {first}");
    Ok(())
}

#[test]
fn a_client_whose_backend_goes_is_given_another_and_keeps_that_one() -> Result<()> {
    let cluster = sticky(10_000)?;
    let ask = || cluster.client.ask(Traffic::Tcp, at(WEB4));
    let gone = ask()?;
    cluster.write_web_to(&affinity(10_000), |pod| pod != gone)?;
    let kept = eventually("another backend", PATIENCE, || Ok(Some(ask()?).filter(|answer| *answer != gone)))?;
    for _ in 0..20 {
        assert_eq!(ask()?, kept, "chosen anew, and then remembered");
    }
    // It comes back, and nobody returns to it.
    cluster.write_web(&affinity(10_000))?;
    eventually("some pod to reach the one that came back", PATIENCE, || {
        let newcomer = cluster.node.pod("newcomer")?;
        Ok((newcomer.guest()?.ask(Traffic::Tcp, at(WEB4))? == gone).then_some(()))
    })?;
    assert_eq!(ask()?, kept);
    Ok(())
}

/// The chance that three equal backends differ more than this is one in a million (chi-square, two degrees of freedom).
const CHI_SQUARE: f64 = 27.6;

#[test]
fn new_connections_are_spread_evenly() -> Result<()> {
    let cluster = Cluster::serving(&PODS)?;
    for traffic in [Traffic::Tcp, Traffic::UdpUnconnected] {
        let mut answers = BTreeMap::new();
        for _ in 0..300 {
            *answers.entry(cluster.client.ask(traffic, at(WEB4))?).or_insert(0.0) += 1.0;
        }
        let expected = 300.0 / 3.0;
        let distance: f64 = answers.values().map(|seen: &f64| (seen - expected).powi(2) / expected).sum();
        assert_eq!(answers.len(), 3, "{answers:?}");
        assert!(distance < CHI_SQUARE, "{traffic:?}: {answers:?}, chi-square {distance}");
    }
    Ok(())
}

#[test]
fn an_unknown_port_of_a_service_refuses_and_other_addresses_are_left_alone() -> Result<()> {
    let cluster = Cluster::serving(&["a"])?;
    for address in [IpAddr::from(WEB4), WEB6.into()] {
        let unknown = SocketAddr::new(address, 81);
        assert_eq!(cluster.client.tcp(unknown).map(|_| ()).unwrap_err().to_string(), "connect: ECONNREFUSED");
        let udp = cluster.client.udp(unknown)?;
        assert_eq!(udp.connect(unknown).unwrap_err().to_string(), "connect: ECONNREFUSED");
        assert_eq!(udp.send_to(unknown).unwrap_err().to_string(), "sendto: ECONNREFUSED");
    }
    // Nobody has these addresses, and the hooks say nothing about them: a UDP socket connects.
    for address in [IpAddr::from(Ipv4Addr::new(10, 96, 0, 11)), Ipv4Addr::new(10, 244, 77, 1).into()] {
        let stranger = SocketAddr::new(address, 81);
        cluster.client.udp(stranger)?.connect(stranger)?;
    }
    Ok(())
}

#[test]
fn a_loopback_node_port_is_for_the_node_and_not_for_its_pods() -> Result<()> {
    let cluster = Cluster::with_node_ports(&["a"], &[])?;
    let host = cluster.node.host_process("kubelet")?;
    for address in [IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()] {
        for traffic in EVERY_TRAFFIC {
            assert_eq!(host.ask(traffic, node_port(address))?, "a", "{traffic:?} to {address}");
        }
        let error = cluster.client.tcp(node_port(address)).map(|_| ()).unwrap_err();
        assert_eq!(errno(&error), "ECONNREFUSED", "nobody listens in the pod");
        cluster.client.witness("own", Proto::Tcp, node_port(address))?;
        assert!(
            cluster.client.ask(Traffic::Tcp, node_port(address))?.starts_with("own"),
            "a pod's loopback is its own"
        );
    }
    for address in [IpAddr::from(cluster.node.v4()), cluster.node.v6().into()] {
        for guest in [&host, &cluster.client] {
            assert_eq!(guest.ask(Traffic::Tcp, node_port(address))?, "a", "{address}");
        }
    }
    Ok(())
}

/// What a bind comes to.
fn bind(guest: &Guest, proto: Proto, address: impl Into<IpAddr>, port: u16) -> String {
    match guest.witness("taker", proto, SocketAddr::new(address.into(), port)) {
        Ok(()) => "bound".to_owned(),
        Err(error) => error.to_string(),
    }
}

/// The addresses of the node at which its NodePorts answer, and those that stand for all.
fn protected(node: &Node) -> [IpAddr; 6] {
    let (any4, any6) = (Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into());
    [any4, any6, node.v4().into(), node.v6().into(), Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]
}

#[test]
fn nobody_on_the_node_takes_a_node_port_and_all_other_ports_are_free() -> Result<()> {
    let cluster = Cluster::with_node_ports(&["a"], &[])?;
    let host = cluster.node.host_process("kubelet")?;
    for address in protected(&cluster.node) {
        for proto in [Proto::Tcp, Proto::Udp] {
            assert_eq!(bind(&host, proto, address, NODE_PORT), "bind: EADDRINUSE", "{proto:?} {address}");
        }
    }
    // Another loopback address, other ports, the Service's own port, any port at all, and pods.
    assert_eq!(bind(&host, Proto::Tcp, [127, 0, 0, 2], NODE_PORT), "bound");
    for port in [NODE_PORT + 1, 80, 0] {
        assert_eq!(bind(&host, Proto::Tcp, Ipv4Addr::UNSPECIFIED, port), "bound", "port {port}");
    }
    assert_eq!(bind(&cluster.client, Proto::Tcp, Ipv4Addr::UNSPECIFIED, NODE_PORT), "bound", "in a pod");
    cluster.write_web(&json!({}))?;
    eventually("the port to be free", PATIENCE, || {
        Ok((bind(&host, Proto::Tcp, Ipv6Addr::UNSPECIFIED, NODE_PORT) == "bound").then_some(()))
    })
}

#[test]
fn bind_protection_can_be_turned_off() -> Result<()> {
    let cluster = Cluster::with_node_ports(&["a"], &["--nodeport-bind-protection", "false"])?;
    let host = cluster.node.host_process("kubelet")?;
    assert_eq!(bind(&host, Proto::Tcp, Ipv4Addr::UNSPECIFIED, NODE_PORT), "bound");
    assert_eq!(cluster.client.ask(Traffic::Tcp, node_port(cluster.node.v4()))?, "a", "the Service stays reachable");
    Ok(())
}
