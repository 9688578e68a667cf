//! One node with one proxy, and all that its clients may reach: pods on it, a process of its own, the pods of another
//! node, and a host outside the cluster. Knows no objects and no cases.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::{Context as _, Result};
use lb_common::abi::{V4, V6};

use super::probe::Client;
use crate::{
    agent::{Agent, AgentSpec, Source},
    control_plane::ControlPlane,
    flows,
    guest::{Guest, Proto},
    kube_proxy,
    node::{Layout, Node},
    pod::Pod,
    process::Process,
};

/// The name of the node, on every island.
pub(super) const NODE: &str = "n1";

/// The ports of every witness, by TCP and UDP.
pub(super) const PORTS: [u16; 2] = [8080, 8081];

/// The TCP ports at which `world` answers, at every address that is nobody's.
const WORLD_PORTS: [u16; 3] = [25, 80, 81];

/// The ports at which pod `a` answers for the marker (see `marker.rs`).
pub(super) const MARKER_PORTS: std::ops::Range<u16> = 7000..7016;

/// Which proxy an island has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proxy {
    /// kube-proxy in nftables mode.
    KubeProxy,
    /// The agent.
    Agent,
}

/// Somebody who answers at [`PORTS`], with name and addresses, on every island the same.
#[derive(Clone, Copy, Debug)]
pub(super) struct Witness {
    /// What cases call it, and what it answers.
    pub(super) name: &'static str,
    /// Its IPv4 address.
    pub(super) v4: Ipv4Addr,
    /// Its IPv6 address.
    pub(super) v6: Ipv6Addr,
    /// The node it is on, none outside the cluster.
    pub(super) node: Option<&'static str>,
}

const fn pod_v6(node: u16, number: u16) -> Ipv6Addr {
    Ipv6Addr::new(0xfd00, 0x10, 0x244, node, 0, 0, 0, number)
}

/// Pods `a`, `b` and `v` on the node, of which the last is the client `vm`, `h` a process of the node itself, `c` and
/// `d` pods of another node, `n2` a process of that node, `e` and `f` pods of a third one, `x` a host outside the cluster.
pub(super) const WITNESSES: [Witness; 10] = [
    Witness { name: "a", v4: Ipv4Addr::new(10, 244, 1, 2), v6: pod_v6(1, 2), node: Some(NODE) },
    Witness { name: "b", v4: Ipv4Addr::new(10, 244, 1, 3), v6: pod_v6(1, 3), node: Some(NODE) },
    Witness { name: "v", v4: Ipv4Addr::new(10, 244, 1, 4), v6: pod_v6(1, 4), node: Some(NODE) },
    Witness {
        name: "h",
        v4: Ipv4Addr::new(172, 18, 0, 1),
        v6: Ipv6Addr::new(0xfd00, 0x172, 0x18, 0, 0, 0, 0, 1),
        node: Some(NODE),
    },
    Witness { name: "c", v4: Ipv4Addr::new(10, 244, 2, 2), v6: pod_v6(2, 2), node: Some("n2") },
    Witness { name: "d", v4: Ipv4Addr::new(10, 244, 2, 3), v6: pod_v6(2, 3), node: Some("n2") },
    Witness {
        name: "n2",
        v4: Ipv4Addr::new(172, 18, 0, 2),
        v6: Ipv6Addr::new(0xfd00, 0x172, 0x18, 0, 0, 0, 0, 2),
        node: Some("n2"),
    },
    Witness { name: "e", v4: Ipv4Addr::new(10, 244, 3, 2), v6: pod_v6(3, 2), node: Some("n3") },
    Witness { name: "f", v4: Ipv4Addr::new(10, 244, 3, 3), v6: pod_v6(3, 3), node: Some("n3") },
    Witness {
        name: "x",
        v4: Ipv4Addr::new(192, 0, 2, 10),
        v6: Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x10),
        node: None,
    },
];

/// A further address of the node, which its Node object does not name unless a case says so.
const SECOND: Ipv4Addr = Ipv4Addr::new(172, 20, 0, 1);

/// The client `out`.
const OUTSIDE: (Ipv4Addr, Ipv6Addr) = (Ipv4Addr::new(192, 0, 2, 20), Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x20));

/// The witness of that name.
pub(super) fn witness(name: &str) -> Option<&'static Witness> {
    WITNESSES.iter().find(|witness| witness.name == name)
}

/// A node with its proxy. The fields are dropped in this order: processes before their namespaces.
pub struct Island {
    proxy: Option<Running>,
    clients: [Guest; 5],
    _servers: Vec<Guest>,
    addresses: [(Ipv4Addr, Ipv6Addr); 5],
    _pods: Vec<Pod>,
    uplinks: String,
    node: Node,
}

enum Running {
    KubeProxy(Process),
    Agent(Box<Agent>),
}

impl Island {
    /// The node with everything around it, and a way to the control plane on `hub`, but without its proxy yet.
    /// `number` tells islands apart where they must be: on that way, which no case uses.
    pub fn new(hub: &Node, control_plane: &ControlPlane, number: u8) -> Result<Self> {
        let node = Node::with(NODE, 1, Layout::PointToPoint)?;
        node.netns().ip([format!("addr add {SECOND}/32 dev lo")])?;
        control_plane.link(hub, &node, number)?;
        let (beyond, aside) = (Beyond::new(&node)?, Aside::new(&node)?);
        let outside = node.external("out", OUTSIDE.0, OUTSIDE.1)?;
        let (a, b, v, p) = (node.pod("a")?, node.pod("b")?, node.pod_without_hook("v")?, node.pod("p")?);
        for netns in [node.netns(), beyond.0.netns(), aside.0.netns(), a.netns(), b.netns(), v.netns(), p.netns()] {
            // Every refusal is to be told, however many there are.
            netns.sysctl("net/ipv4/icmp_ratelimit", "0")?;
            netns.sysctl("net/ipv4/icmp_msgs_per_sec", "1000000")?;
            netns.sysctl("net/ipv4/icmp_msgs_burst", "1000000")?;
            netns.sysctl("net/ipv6/icmp/ratelimit", "0")?;
        }
        let (pod, endpoint, host) = (p.guest()?, a.guest()?, node.host_process("host")?);
        let (beside, far, third) = (b.guest()?, beyond.0.guest()?, aside.0.guest()?);
        let (machine, vm) = (outside.guest()?, v.guest()?);
        for witness in &WITNESSES {
            serve(
                witness,
                match witness.name {
                    "a" => &endpoint,
                    "b" => &beside,
                    "h" => &host,
                    "v" => &vm,
                    "e" | "f" => &third,
                    _ => &far,
                },
            )?;
        }
        for port in WORLD_PORTS {
            far.serve("world", Proto::Tcp, port)?;
        }
        for port in MARKER_PORTS {
            endpoint.serve(&format!("marker-{port}"), Proto::Tcp, port)?;
        }
        Ok(Self {
            proxy: None,
            addresses: [(p.v4(), p.v6()), (node.v4(), node.v6()), (a.v4(), a.v6()), OUTSIDE, (v.v4(), v.v6())],
            clients: [pod, host, endpoint, machine, vm],
            _servers: vec![beside, far, third],
            uplinks: [&beyond.0, &aside.0, &outside].map(Pod::device).join(","),
            _pods: vec![a, b, v, p, beyond.0, aside.0, outside],
            node,
        })
    }

    /// Starts the proxy, in the place of one that runs; [`super::Rig::settle`] waits until it works.
    /// `node_ports` is its flag `--nodeport-addresses`.
    pub fn start(&mut self, proxy: Proxy, control_plane: &ControlPlane, node_ports: &str) -> Result<()> {
        // One that runs ends first.
        self.proxy = None;
        self.proxy = Some(match proxy {
            Proxy::KubeProxy => Running::KubeProxy(start_kube_proxy(&self.node, control_plane, node_ports)?),
            Proxy::Agent => {
                let source = Source::Kubeconfig(control_plane.agent_kubeconfig()?);
                let args = ["--pod-devices", "veth*", "--nodeport-addresses", node_ports].map(Into::into).into();
                let spec = AgentSpec { args, ..AgentSpec::new(source).on_devices(&self.uplinks) };
                let mut agent = self.node.start_agent_with(spec)?;
                agent.wait_ready()?;
                Running::Agent(Box::new(agent))
            }
        });
        Ok(())
    }

    /// A client.
    pub fn client(&self, client: Client) -> &Guest {
        &self.clients[client.index()]
    }

    /// A client's own address of the same family as `like`.
    pub fn address(&self, client: Client, like: IpAddr) -> IpAddr {
        let (v4, v6) = self.addresses[client.index()];
        if like.is_ipv4() { v4.into() } else { v6.into() }
    }

    /// The node.
    pub fn node(&self) -> &Node {
        &self.node
    }

    /// The agent, where there is one.
    pub fn agent(&self) -> Option<&Agent> {
        match &self.proxy {
            Some(Running::Agent(agent)) => Some(agent),
            _ => None,
        }
    }

    /// Forgets tracked connections, so that a source port that comes again is no part of an older conversation.
    pub fn forget_connections(&self) -> Result<()> {
        match self.proxy {
            Some(Running::Agent(_)) => {
                let bpffs = self.node.bpffs().path();
                flows::forget(&mut flows::table::<V4>(bpffs)?)?;
                flows::forget(&mut flows::table::<V6>(bpffs)?)
            }
            _ => self.node.netns().output("conntrack", &["-F"]).map(|_| ()),
        }
    }

    /// Where the proxy's log is.
    pub fn log(&self) -> String {
        match &self.proxy {
            None => "no proxy".to_owned(),
            Some(Running::KubeProxy(process)) => process.log_path().display().to_string(),
            Some(Running::Agent(agent)) => agent.process().log_path().display().to_string(),
        }
    }
}

fn serve(witness: &Witness, guest: &Guest) -> Result<()> {
    for port in PORTS {
        // An answer from the second port shows that it is one.
        let name = if port == PORTS[0] { witness.name.to_owned() } else { format!("{}:{port}", witness.name) };
        for ip in [IpAddr::V4(witness.v4), IpAddr::V6(witness.v6)] {
            for proto in [Proto::Tcp, Proto::Udp] {
                let at = SocketAddr::new(ip, port);
                guest.witness(&name, proto, at).with_context(|| format!("cannot serve at {at}"))?;
            }
        }
    }
    Ok(())
}

/// The node's default gateway, in the place of the rest of the world except for the client `out`: it has the addresses
/// of another node, of its pods and of a host outside. At any other address `world` answers: so a client sees that a
/// proxy let it pass.
struct Beyond(Pod);

impl Beyond {
    fn new(node: &Node) -> Result<Self> {
        let at = |name| witness(name).with_context(|| format!("no witness {name}"));
        let gateway = at("n2")?;
        let machine = node.external("beyond", gateway.v4, gateway.v6)?;
        let others = [at("c")?, at("d")?, at("x")?];
        machine.netns().ip(others.iter().flat_map(|other| {
            [format!("addr add {}/32 dev lo", other.v4), format!("addr add {}/128 dev lo nodad", other.v6)]
        }))?;
        machine.netns().ip([
            "route add 10.244.1.0/24 via 169.254.1.1".to_owned(),
            format!("route add {} via 169.254.1.1", node.v4()),
            format!("route add {SECOND} via 169.254.1.1"),
            format!("route add {} via 169.254.1.1", OUTSIDE.0),
            "route del default".to_owned(),
            // Every other address is its own as well.
            "route add local default dev lo table main".to_owned(),
            "route add fd00:10:244:1::/64 via fe80::1 dev eth0".to_owned(),
            format!("route add {} via fe80::1 dev eth0", node.v6()),
            format!("route add {} via fe80::1 dev eth0", OUTSIDE.1),
            "route del ::/0".to_owned(),
            "route add local ::/0 dev lo table main".to_owned(),
        ])?;
        node.netns().ip([
            format!("route add default via {} src {}", gateway.v4, node.v4()),
            format!("route add default via {} src {}", gateway.v6, node.v6()),
        ])?;
        Ok(Self(machine))
    }
}

/// A third node, by a link of its own at which the node has two networks. The way to its pods is in the second one of them; the
/// route to `f` prefers an address that the link does not have.
struct Aside(Pod);

impl Aside {
    fn new(node: &Node) -> Result<Self> {
        let at = |name| witness(name).with_context(|| format!("no witness {name}"));
        let (e, f) = (at("e")?, at("f")?);
        let machine = node.external("aside", "172.21.0.2".parse()?, "fd00:172:21::2".parse()?)?;
        machine.netns().ip(["addr add 172.22.0.2/32 dev eth0", "addr add fd00:172:22::2/128 dev eth0 nodad"])?;
        machine.netns().ip([e, f].iter().flat_map(|pod| {
            [format!("addr add {}/32 dev lo", pod.v4), format!("addr add {}/128 dev lo nodad", pod.v6)]
        }))?;
        let link = machine.device();
        node.netns().ip([
            format!("addr add 172.21.0.1/24 dev {link}"),
            format!("addr add 172.22.0.1/24 dev {link}"),
            format!("addr add fd00:172:21::1/64 dev {link} nodad"),
            format!("addr add fd00:172:22::1/64 dev {link} nodad"),
            format!("route add {} via 172.22.0.2", e.v4),
            format!("route add {} via fd00:172:22::2", e.v6),
            format!("route add {} via 172.22.0.2 src {SECOND}", f.v4),
            format!("route add {} via fd00:172:22::2 src {}", f.v6, node.v6()),
        ])?;
        Ok(Self(machine))
    }
}

fn start_kube_proxy(node: &Node, control_plane: &ControlPlane, node_ports: &str) -> Result<Process> {
    let flags = [
        "--proxy-mode=nftables",
        "--cluster-cidr=10.244.0.0/16,fd00:10:244::/48",
        "--nodeport-addresses",
        node_ports,
        // Sets the period for nftables as well, in spite of its name (processV1Alpha1Flags); the default is a second.
        "--iptables-min-sync-period=10ms",
        // A step may take longer than the usual 30 s after one datagram each way.
        "--conntrack-udp-timeout=30m",
        "--conntrack-udp-timeout-stream=30m",
    ];
    kube_proxy::start(node, control_plane, &flags)
}
