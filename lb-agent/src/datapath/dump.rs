//! The contents of the maps as lines of text for people and tests: names instead of ids, sorted, so that two
//! installations that mean the same print the same.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
};

use lb_common::abi::{
    Backend, Family, Frontend, FrontendKey, NameKey, Proto, backend_state, frontend_flags, name_kind, scope,
};

use super::snapshot::{FamilySnapshot, Snapshot};

/// One line for each frontend, each backend and each name that nothing refers to:
///
/// ```text
/// default/web 10.96.0.10:80/TCP -> 10.244.1.5:8080 10.244.2.6:8080
/// default/web 10.96.0.11:80/TCP refuses
/// default/web backend 10.244.1.5:8080/TCP ready on n1
/// unused name default/old
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
        for (key, frontend) in &snapshot.frontends {
            self.frontend(snapshot, key, frontend);
        }
        for (id, backend) in &snapshot.backends {
            self.backend(*id, backend);
        }
    }

    fn frontend<F: Family>(&mut self, snapshot: &FamilySnapshot<F>, key: &FrontendKey<F>, frontend: &Frontend) {
        let service = self.name(NameKey { kind: name_kind::SERVICE, id: frontend.service });
        let at = address::<F>(key.addr, key.port, key.proto);
        let mut leads = match snapshot.slots_of(frontend) {
            None => "leads outside the slots".to_owned(),
            Some([]) => "refuses".to_owned(),
            Some(slots) => {
                let to: Vec<_> = slots.iter().map(|slot| socket::<F>(slot.addr, slot.port).to_string()).collect();
                format!("-> {}", to.join(" "))
            }
        };
        if key.scope != scope::INTERNAL {
            leads.push_str(" (external clients)");
        }
        if frontend.flags != frontend_flags::NONE || frontend.affinity_s != 0 {
            leads.push_str(&format!(" (flags {:#x}, affinity {} s)", frontend.flags, frontend.affinity_s));
        }
        self.lines.insert(format!("{service} {at} {leads}"));
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
        if id == 0 || !self.lines.insert(line.clone()) {
            self.lines.insert(format!("{line} (again, as backend {id})"));
        }
    }

    fn name(&mut self, key: NameKey) -> String {
        self.used.insert((key.kind, key.id));
        self.names.get(&(key.kind, key.id)).map_or_else(|| format!("nameless-{}", key.id), |name| (*name).to_owned())
    }
}

fn socket<F: Family>(addr: F::Addr, port: u16) -> SocketAddr {
    SocketAddr::new(F::to_ip(addr), port)
}

fn address<F: Family>(addr: F::Addr, port: u16, proto: u8) -> String {
    let proto = match Proto::from_number(proto) {
        Some(Proto::Tcp) => "TCP".to_owned(),
        Some(Proto::Udp) => "UDP".to_owned(),
        None => format!("protocol {proto}"),
    };
    format!("{}/{proto}", socket::<F>(addr, port))
}
