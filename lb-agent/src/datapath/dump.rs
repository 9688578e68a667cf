//! The contents of the maps as lines of text for people and tests: names instead of ids, sorted, so that two
//! installations that mean the same print the same.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
};

use lb_common::abi::{
    Backend, ClusterIps, Family, Frontend, FrontendKey, NameKey, Proto, backend_state, endpoint_sets, frontend_flags,
    name_kind, scope,
};

use super::snapshot::{FamilySnapshot, Snapshot};

/// One line for each frontend, each backend, each name and range of clients that nothing refers to, and for the prefix
/// of the guards. What is as with any plain Service is not said: all clients, no restriction, slots for the policy Cluster
/// where an endpoint is ready.
///
/// ```text
/// default/web 10.96.0.10:80/TCP -> 10.244.1.5:8080 10.244.2.6:8080
/// default/web 10.96.0.11:80/TCP refuses
/// default/web 10.96.0.10 any other port refuses
/// default/web 127.0.0.1:30080/TCP -> 10.244.1.5:8080 (host, local, affinity 60 s, from 10.0.0.0/8 192.168.0.0/16)
/// default/web 192.0.2.1:80/TCP -> 10.244.1.5:8080 10.244.2.6:8080 (inside)
/// default/web 192.0.2.1:80/TCP refuses (outside, local, packets dropped)
/// default/web 0.0.0.0:30080/TCP may not be bound
/// default/web backend 10.244.1.5:8080/TCP ready on n1
/// default/web backend 10.244.1.6:8080/TCP terminating on n1 (slots: cluster local)
/// guards lie within 10.96.0.0/28
/// unused name default/old
/// unused range 10.0.0.0/8 of default/web
/// ```
pub fn dump(snapshot: &Snapshot) -> Vec<String> {
    let names: BTreeMap<(u32, u32), &str> =
        snapshot.names.iter().map(|(key, name)| ((key.kind, key.id), name.as_str())).collect();
    let mut page = Page { names, used: BTreeSet::new(), lines: BTreeSet::new() };
    page.family(&snapshot.v4);
    page.family(&snapshot.v6);
    for (key, name) in &page.names {
        if !page.used.contains(key) {
            page.lines.insert(format!("unused name {name}"));
        }
    }
    page.lines.into_iter().collect()
}

struct Page<'a> {
    names: BTreeMap<(u32, u32), &'a str>,
    used: BTreeSet<(u32, u32)>,
    lines: BTreeSet<String>,
}

impl Page<'_> {
    fn family<F: Family>(&mut self, snapshot: &FamilySnapshot<F>) {
        let mut sources: BTreeMap<u32, BTreeSet<String>> = BTreeMap::new();
        for (key, prefix_len) in &snapshot.sources {
            sources.entry(key.service).or_default().insert(range::<F>(key.addr, *prefix_len));
        }
        for (key, frontend) in &snapshot.frontends {
            self.frontend(snapshot, key, frontend, sources.get(&frontend.service));
        }
        for (id, backend) in &snapshot.backends {
            self.backend(*id, backend);
        }
        let restricted = |frontend: &Frontend| frontend.flags & frontend_flags::SOURCES != 0;
        let used: BTreeSet<u32> =
            snapshot.frontends.iter().filter(|(_, f)| restricted(f)).map(|(_, f)| f.service).collect();
        for (service, ranges) in sources.iter().filter(|(service, _)| !used.contains(service)) {
            let service = self.name(NameKey { kind: name_kind::SERVICE, id: *service });
            self.lines.extend(ranges.iter().map(|range| format!("unused range {range} of {service}")));
        }
        self.prefix(&snapshot.cluster_ips);
    }

    fn prefix<F: Family>(&mut self, ClusterIps { prefix, mask }: &ClusterIps<F>) {
        let bits: u32 = mask.as_ref().iter().map(|byte| byte.count_ones()).sum();
        let nobodys = *prefix == F::Addr::default() && mask.as_ref().iter().all(|byte| *byte == 0xff);
        if !nobodys {
            self.lines.insert(format!("guards lie within {}/{bits}", F::to_ip(*prefix)));
        }
    }

    fn frontend<F: Family>(
        &mut self,
        snapshot: &FamilySnapshot<F>,
        key: &FrontendKey<F>,
        frontend: &Frontend,
        sources: Option<&BTreeSet<String>>,
    ) {
        let service = self.name(NameKey { kind: name_kind::SERVICE, id: frontend.service });
        let at = address::<F>(key.addr, key.port, key.proto);
        let leads = match snapshot.slots_of(frontend) {
            None => "leads outside the slots".to_owned(),
            Some([]) if key.scope == scope::BIND => "may not be bound".to_owned(),
            Some([]) => "refuses".to_owned(),
            Some(slots) => {
                let to: Vec<_> = slots.iter().map(|slot| socket::<F>(slot.addr, slot.port).to_string()).collect();
                format!("-> {}", to.join(" "))
            }
        };
        let details = details(key.scope, frontend, sources);
        let details = if details.is_empty() { String::new() } else { format!(" ({})", details.join(", ")) };
        self.lines.insert(format!("{service} {at} {leads}{details}"));
    }

    fn backend<F: Family>(&mut self, id: u32, backend: &Backend<F>) {
        let service = self.name(NameKey { kind: name_kind::SERVICE, id: backend.service });
        let at = address::<F>(backend.addr, backend.port, backend.proto);
        let state = match backend.state {
            backend_state::READY => "ready".to_owned(),
            backend_state::TERMINATING => "terminating".to_owned(),
            backend_state::NOT_READY => "not ready".to_owned(),
            other => format!("in state {other}"),
        };
        let mut line = format!("{service} backend {at} {state}");
        if backend.node != 0 {
            let node = self.name(NameKey { kind: name_kind::NODE, id: backend.node });
            line.push_str(&format!(" on {node}"));
        }
        // Which node this is, the maps do not say otherwise: whether an endpoint is on it goes without saying.
        let in_sets = backend.sets & !endpoint_sets::ON_NODE;
        let plain = if backend.state == backend_state::READY { endpoint_sets::CLUSTER } else { 0 };
        if in_sets != plain {
            line.push_str(&format!(" (slots: {})", sets(in_sets)));
        }
        if id == 0 || !self.lines.insert(line.clone()) {
            self.lines.insert(format!("{line} (again, as backend {id})"));
        }
    }

    fn name(&mut self, key: NameKey) -> String {
        self.used.insert((key.kind, key.id));
        self.names.get(&(key.kind, key.id)).map_or_else(|| format!("nameless-{}", key.id), |name| (*name).to_owned())
    }
}

const KNOWN_FLAGS: u32 =
    frontend_flags::LOCAL | frontend_flags::SOURCES | frontend_flags::EXTERNAL_DIFFERS | frontend_flags::DROP;

/// What is special about a frontend.
fn details(scope: u8, frontend: &Frontend, sources: Option<&BTreeSet<String>>) -> Vec<String> {
    let mut details = Vec::new();
    if frontend.flags & frontend_flags::EXTERNAL_DIFFERS != 0 {
        details.push("inside".to_owned());
    }
    match scope {
        scope::INTERNAL | scope::BIND => {}
        scope::EXTERNAL => details.push("outside".to_owned()),
        scope::HOST => details.push("host".to_owned()),
        other => details.push(format!("scope {other}")),
    }
    if frontend.flags & frontend_flags::LOCAL != 0 {
        details.push("local".to_owned());
    }
    if frontend.affinity_s != 0 {
        details.push(format!("affinity {} s", frontend.affinity_s));
    }
    if frontend.flags & frontend_flags::SOURCES != 0 {
        let ranges: Vec<_> = sources.into_iter().flatten().map(String::as_str).collect();
        details.push(if ranges.is_empty() { "from nowhere".to_owned() } else { format!("from {}", ranges.join(" ")) });
    }
    if frontend.flags & frontend_flags::DROP != 0 {
        details.push("packets dropped".to_owned());
    }
    let unknown = frontend.flags & !KNOWN_FLAGS;
    if unknown != 0 {
        details.push(format!("flags {unknown:#x}"));
    }
    details
}

fn sets(sets: u32) -> String {
    let known = [(endpoint_sets::CLUSTER, "cluster"), (endpoint_sets::LOCAL, "local")];
    let words: Vec<_> = known.into_iter().filter(|(bit, _)| sets & bit != 0).map(|(_, word)| word).collect();
    if words.is_empty() { "none".to_owned() } else { words.join(" ") }
}

/// A range of clients; the prefix length counts the Service port's id too.
fn range<F: Family>(addr: F::Addr, prefix_len: u32) -> String {
    format!("{}/{}", F::to_ip(addr), prefix_len.saturating_sub(u32::BITS))
}

fn socket<F: Family>(addr: F::Addr, port: u16) -> SocketAddr {
    SocketAddr::new(F::to_ip(addr), port)
}

fn address<F: Family>(addr: F::Addr, port: u16, proto: u8) -> String {
    if (port, proto) == (0, 0) {
        return format!("{} any other port", F::to_ip(addr));
    }
    let proto = match Proto::from_number(proto) {
        Some(Proto::Tcp) => "TCP".to_owned(),
        Some(Proto::Udp) => "UDP".to_owned(),
        None => format!("protocol {proto}"),
    };
    format!("{}/{proto}", socket::<F>(addr, port))
}
