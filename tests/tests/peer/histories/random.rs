//! Random histories: what could be written by hand as a case, and never is. The same seed gives the same history.

use std::collections::{BTreeMap, BTreeSet};

use fastrand::Rng;
use lb_tests::peer::{Case, Step};
use serde_json::{Value, json};

const STEPS: u64 = 3;

/// Two Services that may take each other's place, each with addresses and NodePorts of one of two places.
const SERVICES: [&str; 2] = ["one", "two"];

/// Ports of Services and slices, by name, with number at the Service and protocol.
const PORTS: [(&str, u16, &str); 3] = [("t", 80, "tcp"), ("u", 80, "udp"), ("alt", 81, "tcp")];

/// Endpoints of a Service's first slice and of its second: an endpoint that says two things at once has no meaning that
/// could be compared.
const WITNESSES: [&[&str]; 2] = [&["a", "b", "c"], &["d", "h", "v", "x", "n2"]];

/// Who asks.
const CLIENTS: [&str; 5] = ["pod", "host", "a", "out", "vm"];

/// Of these, those that are never endpoints.
const NO_ENDPOINTS: [&str; 3] = ["pod", "host", "out"];

/// The zone of the node in each step, none for a node without.
pub(super) fn zones(seed: u64) -> Vec<Option<&'static str>> {
    let mut rng = Rng::with_seed(!seed);
    (0..STEPS).map(|_| pick(&mut rng, &[None, None, Some("za"), Some("zb")])).collect()
}

/// What is asked after the changes of each step.
#[derive(Clone, Copy, Debug)]
pub(super) enum Asking {
    /// Each time by new sockets.
    Anew,
    /// By sockets that are kept from then on.
    Kept,
}

/// A history.
pub(super) fn history(seed: u64, zones: &[Option<&str>], asking: Asking) -> Case {
    let mut rng = Rng::with_seed(seed);
    let mut cluster = Cluster::default();
    let steps = zones.iter().map(|zone| cluster.step(&mut rng, *zone, asking)).collect();
    Case { name: format!("history-{seed}"), alone: false, steps }
}

/// What is there, as far as it decides what may come next.
#[derive(Default)]
struct Cluster {
    services: BTreeMap<&'static str, Service>,
}

/// What of a Service stays as long as it exists.
#[derive(Clone, Copy)]
struct Service {
    /// Which addresses and NodePorts it has.
    place: usize,
    families: Families,
    has_affinity: bool,
    /// Whether it is of type ExternalName now, and so has no address.
    is_elsewhere: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Families {
    V4,
    V6,
    Both,
}

impl Cluster {
    fn step(&mut self, rng: &mut Rng, zone: Option<&str>, asking: Asking) -> Step {
        let mut step = Step::default();
        let labels = zone.map_or_else(|| json!({}), |zone| json!({"topology.kubernetes.io/zone": zone}));
        step.apply.insert("node".to_owned(), labels);
        for name in SERVICES {
            if self.services.contains_key(name) && chance(rng, 20) {
                self.services.remove(name);
                step.delete.push(format!("service/{name}"));
            }
        }
        for name in SERVICES {
            let is_deleted = step.delete.contains(&format!("service/{name}"));
            // A Service that comes back at once is the same one to kube-proxy's flows; ours end with it.
            if !(is_deleted && matches!(asking, Asking::Kept)) {
                self.change_service(rng, name, &mut step);
            }
            change_slices(rng, name, &mut step, asking);
        }
        let asked = self.services.values().flat_map(Service::asked);
        match asking {
            Asking::Anew => {
                let chosen: Vec<_> = asked.filter(|_| chance(rng, 60)).collect();
                step.probe = chosen.into_iter().map(|asked| asked.probe(rng)).collect();
            }
            Asking::Kept => {
                let chosen: Vec<_> = asked.filter(|asked| asked.can_be_kept() && chance(rng, 40)).collect();
                step.keep = chosen.into_iter().map(|asked| asked.keep(rng)).collect();
            }
        }
        step
    }

    fn change_service(&mut self, rng: &mut Rng, name: &'static str, step: &mut Step) {
        let service = match self.services.get(name) {
            Some(_) if chance(rng, 40) => return,
            Some(service) => Service { is_elsewhere: chance(rng, 5), ..*service },
            None if chance(rng, 15) => return,
            None => {
                let taken = self.services.values().next().map(|service| service.place);
                Service {
                    place: taken.map_or_else(|| rng.usize(1..3), |place| 3 - place),
                    families: pick(rng, &[Families::V4, Families::V4, Families::V6, Families::Both]),
                    has_affinity: chance(rng, 20),
                    is_elsewhere: chance(rng, 5),
                }
            }
        };
        self.services.insert(name, service);
        step.apply.insert(format!("service/{name}"), service.object(rng));
    }
}

impl Service {
    fn object(self, rng: &mut Rng) -> Value {
        let place = self.place;
        if self.is_elsewhere {
            return json!({"spec": {"type": "ExternalName", "externalName": "elsewhere.example"}});
        }
        let kind = pick(rng, &["ClusterIP", "NodePort", "NodePort", "LoadBalancer", "LoadBalancer"]);
        let ports = some_ports(rng).into_iter().map(|number| {
            let (name, port, protocol) = PORTS[number];
            let node_port = if kind == "ClusterIP" { String::new() } else { format!(":$np{}", 3 * place + number - 2) };
            format!("{name}={port}{node_port}/{protocol}")
        });
        let mut spec = json!({"type": kind, "ports": ports.collect::<Vec<_>>()});
        self.add_addresses(&mut spec);
        if chance(rng, 30) {
            spec["internalTrafficPolicy"] = "Local".into();
        }
        if kind != "ClusterIP" && chance(rng, 40) {
            spec["externalTrafficPolicy"] = "Local".into();
            if kind == "LoadBalancer" {
                // One that is not left to chance, since another case may need that number.
                spec["healthCheckNodePort"] = self.health_check().into();
            }
        }
        if chance(rng, 30) {
            spec["externalIPs"] = self.addresses("ext").into();
        }
        if self.has_affinity {
            spec["sessionAffinity"] = "ClientIP".into();
        }
        if kind != "LoadBalancer" {
            return json!({"spec": spec});
        }
        if chance(rng, 40) {
            let ranges = [
                json!(["10.244.0.0/16", "fd00:10:244::/48"]),
                json!(["172.18.0.0/16"]),
                json!(["192.0.2.0/24", "2001:db8::/64"]),
            ];
            spec["loadBalancerSourceRanges"] = pick(rng, &ranges);
        }
        let mode = pick(rng, &["VIP", "VIP", "VIP", "Proxy"]);
        let ingress: Vec<Value> = self.addresses("lb").iter().map(|ip| json!({"ip": ip, "ipMode": mode})).collect();
        json!({"spec": spec, "status": {"loadBalancer": {"ingress": ingress}}})
    }

    fn add_addresses(self, spec: &mut Value) {
        let ips = self.addresses("vip");
        spec["clusterIP"] = ips[0].clone().into();
        spec["clusterIPs"] = ips.into();
        spec["ipFamilies"] = match self.families {
            Families::V4 => json!(["IPv4"]),
            Families::V6 => json!(["IPv6"]),
            Families::Both => json!(["IPv4", "IPv6"]),
        };
        let policy = if self.families == Families::Both { "RequireDualStack" } else { "SingleStack" };
        spec["ipFamilyPolicy"] = policy.into();
    }

    /// Its tokens of this name, in each of its families.
    fn addresses(self, token: &str) -> Vec<String> {
        let v4 = format!("${token}{}", self.place);
        let v6 = format!("{v4}v6");
        match self.families {
            Families::V4 => vec![v4],
            Families::V6 => vec![v6],
            Families::Both => vec![v4, v6],
        }
    }

    /// The port of its health checks, where they are served.
    fn health_check(self) -> String {
        format!("$np{}", 6 + self.place)
    }

    /// Every address that it may have, at every port, also where there is nothing now. More than one step needs.
    /// But no ClusterIP that nobody has: what that leads to is one matter, and a case.
    fn asked(&self) -> Vec<Asked> {
        let nodes = match self.families {
            Families::V4 => vec!["$node"],
            Families::V6 => vec!["$nodev6"],
            Families::Both => vec!["$node", "$nodev6"],
        };
        let mut all = vec![format!("http $node:{}", self.health_check())];
        let tokens: &[&str] = if self.is_elsewhere { &["ext", "lb"] } else { &["vip", "ext", "lb"] };
        for address in tokens.iter().flat_map(|token| self.addresses(token)) {
            all.extend(["tcp", "udp"].map(|traffic| format!("{traffic} {address}:80")));
            all.push(format!("tcp {address}:81"));
        }
        for node in nodes {
            for (number, (_, _, protocol)) in PORTS.iter().enumerate() {
                all.push(format!("{protocol} {node}:$np{}", 3 * self.place + number - 2));
            }
        }
        all.into_iter().map(|what| Asked { what, of_affinity: self.has_affinity }).collect()
    }
}

/// A probe without its clients.
struct Asked {
    /// How, and where.
    what: String,
    of_affinity: bool,
}

impl Asked {
    fn can_be_kept(&self) -> bool {
        !self.what.starts_with("http ")
    }

    /// By one client, on connected sockets. Affinity decides nothing once they are connected.
    fn keep(&self, rng: &mut Rng) -> String {
        format!("{} {}", pick(rng, &CLIENTS), self.what.replacen("udp ", "udpc ", 1))
    }

    /// By one client, or two.
    fn probe(&self, rng: &mut Rng) -> String {
        // A client that chooses once meets the same on both sides only if it does not reach itself.
        let (clients, expected) = if self.of_affinity { (&NO_ENDPOINTS[..], "one of ?") } else { (&CLIENTS[..], "?") };
        let asking: BTreeSet<&str> = (0..2).map(|_| pick(rng, clients)).collect();
        let asking: Vec<&str> = asking.into_iter().collect();
        format!("{} {} = {expected}", asking.join(","), self.what)
    }
}

fn change_slices(rng: &mut Rng, service: &str, step: &mut Step, asking: Asking) {
    for family in ["slice", "slice6"] {
        for (part, names) in WITNESSES.iter().enumerate() {
            if chance(rng, 35) {
                continue;
            }
            let chosen: Vec<&&str> = names.iter().filter(|_| rng.bool()).collect();
            let endpoints: Vec<String> = chosen.into_iter().map(|name| endpoint(rng, name, asking)).collect();
            let ports = some_ports(rng).into_iter().map(|number| {
                let (name, _, protocol) = PORTS[number];
                format!("{name}={}/{protocol}", pick(rng, &[8080, 8080, 8081]))
            });
            let slice = json!({"ports": ports.collect::<Vec<_>>(), "endpoints": endpoints});
            step.apply.insert(format!("{family}/{service}.{part}"), slice);
        }
    }
}

fn endpoint(rng: &mut Rng, name: &str, asking: Asking) -> String {
    let published = match asking {
        Asking::Anew => "published",
        // Whatever else changes, kube-proxy forgets the UDP flows to an endpoint that is ready and does not serve.
        Asking::Kept => "",
    };
    let condition = pick(rng, &["", "", "", "notready", "terminating", "dying", "unknown", published]);
    let hint = pick(rng, &["", "hint=za", "hint=za", "hint=zb", "hint=za,zb"]);
    let node_hint = pick(rng, &["", "", "nodehint=n1", "nodehint=n2"]);
    format!("{name} {condition} {hint} {node_hint}").split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Most of the ports, at least one.
fn some_ports(rng: &mut Rng) -> Vec<usize> {
    let chosen: Vec<usize> = (0..PORTS.len()).filter(|_| chance(rng, 75)).collect();
    if chosen.is_empty() { vec![0] } else { chosen }
}

fn chance(rng: &mut Rng, percent: u8) -> bool {
    rng.u8(..100) < percent
}

fn pick<T: Clone>(rng: &mut Rng, choices: &[T]) -> T {
    choices[rng.usize(..choices.len())].clone()
}

#[test]
fn one_seed_gives_one_history() {
    for asking in [Asking::Anew, Asking::Kept] {
        let text = |seed| serde_json::to_string(&history(seed, &zones(seed), asking)).unwrap_or_default();
        assert_eq!(text(7), text(7));
        assert_ne!(text(7), text(8));
    }
}
