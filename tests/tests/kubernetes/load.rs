//! Two hundred random changes a second under traffic: nobody who can be served is turned away, nobody goes astray.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::Result;
use fastrand::Rng;
use lb_tests::{
    Guest, Node, Pod, eventually,
    guest::{LoadSpec, Proto, Traffic},
    poll::PATIENCE,
};
use serde_json::{Value, json};

use crate::{Cluster, objects::TARGET_PORT};

const N_SERVICES: u8 = 10;

/// The pods that Services lead to; another one serves as well and is never listed.
const LISTED: [&str; 5] = ["a", "b", "c", "d", "e"];

/// How a connected UDP socket is ended whose endpoint went between its connect(2) and its answer. The application's next
/// socket is given another endpoint.
const ENDED: &str = "ECONNABORTED";

/// 200 a second for 20 seconds, in the pace that the beat gives: a machine that is too slow takes longer.
const N_BEATS: u32 = 500;
const CHANGES_PER_BEAT: usize = 8;
const BEAT: Duration = Duration::from_millis(40);

#[test]
fn no_connection_fails_or_goes_astray_under_two_hundred_random_changes_a_second() -> Result<()> {
    let seed = fastrand::u64(..);
    println!("the changes of seed {seed}");
    let mut rng = Rng::with_seed(seed);
    let cluster = Cluster::start()?;
    let admin = cluster.control_plane.admin();
    let pods = Pods::start(&cluster.node)?;
    let mut services: Vec<Changing> = (0..N_SERVICES).map(Changing::new).collect();
    for service in &mut services {
        admin.apply_all(&[service.object(&mut rng), service.slice(&mut rng, &pods)])?;
    }
    let _agent = cluster.start_agent()?;
    let pod = cluster.node.pod("client")?;
    let clients = [pod.guest()?, cluster.node.host_process("client")?];
    for service in &services {
        service.wait_for_endpoints(&clients[0])?;
    }
    let loads = clients.iter().flat_map(|client| services.iter().map(move |service| (client, service.load())));
    let loads = loads.map(|(client, spec)| Ok((spec.traffic, client.load(spec)?))).collect::<Result<Vec<_>>>()?;

    let start = Instant::now();
    for beat in 1..=N_BEATS {
        // Of different Services, since changes that are sent together have no order.
        rng.shuffle(&mut services);
        let changed = services.iter_mut().take(CHANGES_PER_BEAT);
        admin.apply_all(&changed.map(|service| service.change(&mut rng, &pods)).collect::<Vec<_>>())?;
        sleep((BEAT * beat).saturating_sub(start.elapsed()));
    }
    println!("{} changes in {:?}", u64::from(N_BEATS) * CHANGES_PER_BEAT as u64, start.elapsed());

    for (traffic, load) in loads {
        let report = load.stop()?;
        let is_failure = |error: &&String| !(traffic == Traffic::UdpConnected && error.ends_with(ENDED));
        assert!(report.attempts > 0 && report.errors.keys().find(is_failure).is_none(), "{traffic:?}: {report:?}");
        assert!(report.answers.keys().all(|name| LISTED.contains(&name.as_str())), "{report:?}");
    }
    services.iter().try_for_each(|service| service.wait_for_endpoints(&clients[0]))
}

struct Pods {
    listed: Vec<Pod>,
    _never_listed: Pod,
    _servers: Vec<Guest>,
}

impl Pods {
    fn start(node: &Node) -> Result<Self> {
        let listed = LISTED.iter().map(|name| node.pod(name)).collect::<Result<Vec<_>>>()?;
        let never_listed = node.pod("never-listed")?;
        let servers = listed.iter().chain([&never_listed]).map(|pod| {
            let guest = pod.guest()?;
            for proto in [Proto::Tcp, Proto::Udp] {
                guest.serve(pod.name(), proto, TARGET_PORT)?;
            }
            Ok(guest)
        });
        Ok(Self { _servers: servers.collect::<Result<_>>()?, listed, _never_listed: never_listed })
    }
}

/// A Service that changes all the time and is never without an endpoint. Its first port is what traffic uses.
struct Changing {
    number: u8,
    endpoints: BTreeSet<String>,
}

impl Changing {
    fn new(number: u8) -> Self {
        Self { number, endpoints: BTreeSet::new() }
    }

    fn traffic(&self) -> Traffic {
        [Traffic::Tcp, Traffic::UdpConnected, Traffic::UdpUnconnected][usize::from(self.number % 3)]
    }

    fn address(&self) -> SocketAddr {
        SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 96, 7, self.number)), 80)
    }

    fn load(&self) -> LoadSpec {
        LoadSpec { traffic: self.traffic(), target: self.address().into(), per_second: 30, threads: 1 }
    }

    /// Of the Service or of its slice.
    fn change(&mut self, rng: &mut Rng, pods: &Pods) -> Value {
        if rng.u8(..3) == 0 { self.object(rng) } else { self.slice(rng, pods) }
    }

    /// With another type, other ports besides the first two, and affinity or not.
    fn object(&self, rng: &mut Rng) -> Value {
        let mut ports = vec![
            json!({"name": "t", "port": 80, "protocol": "TCP"}),
            json!({"name": "u", "port": 80, "protocol": "UDP"}),
        ];
        for port in 81..83 {
            if rng.bool() {
                ports.push(json!({"name": format!("p{port}"), "port": port, "protocol": "TCP"}));
            }
        }
        json!({
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": self.name(), "namespace": "default"},
            "spec": {
                "type": if rng.bool() { "NodePort" } else { "ClusterIP" },
                "clusterIP": self.address().ip(),
                "sessionAffinity": if rng.bool() { "ClientIP" } else { "None" },
                "internalTrafficPolicy": if rng.bool() { "Local" } else { "Cluster" },
                "ports": ports,
            },
        })
    }

    /// With other endpoints, at least one of them ready.
    fn slice(&mut self, rng: &mut Rng, pods: &Pods) -> Value {
        let certain = rng.usize(..pods.listed.len());
        self.endpoints.clear();
        let mut endpoints = Vec::new();
        for (number, pod) in pods.listed.iter().enumerate() {
            let condition = if number == certain { 0 } else { rng.u8(..4) };
            endpoints.push(match condition {
                0 => json!({"addresses": [pod.v4()], "nodeName": "n1", "conditions": {"ready": true}}),
                1 => json!({"addresses": [pod.v4()], "nodeName": "n1", "conditions": {"ready": false}}),
                2 => json!({
                    "addresses": [pod.v4()],
                    "nodeName": "n1",
                    "conditions": {"ready": false, "serving": true, "terminating": true},
                }),
                _ => continue,
            });
            if condition == 0 {
                self.endpoints.insert(pod.name().to_owned());
            }
        }
        let ports = [("t", "TCP"), ("u", "UDP")]
            .map(|(name, protocol)| json!({"name": name, "port": TARGET_PORT, "protocol": protocol}));
        json!({
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "name": self.name(),
                "namespace": "default",
                "labels": {"kubernetes.io/service-name": self.name()},
            },
            "addressType": "IPv4",
            "ports": ports,
            "endpoints": endpoints,
        })
    }

    fn name(&self) -> String {
        format!("changing-{}", self.number)
    }

    /// Waits until a new connection leads to one of the endpoints that are ready now, and many of them to no other.
    fn wait_for_endpoints(&self, client: &Guest) -> Result<()> {
        eventually(&format!("{} to lead to {:?} only", self.name(), self.endpoints), PATIENCE, || {
            let answers = (0..20).map(|_| client.ask(self.traffic(), self.address()));
            let answers: Result<BTreeSet<String>> = answers.collect();
            Ok(answers.is_ok_and(|answers| answers.is_subset(&self.endpoints)).then_some(()))
        })
    }
}
