//! `lb-agent connections`: who talks to which Service through the packet layer, and where that leads.
//!
//! Pure but for what it reads, over [`FlowStores`] and the names. The programs go on meanwhile: a connection that ends or
//! begins just then may be shown or not.

use std::{collections::HashMap, net::SocketAddr};

use lb_common::{
    abi::{Family, Flow, FlowKey, NameKey, Proto, V4, V6, flow_flags, flow_seen},
    logic::flow::age_s,
};
use serde::Serialize;

use super::{
    Failure, ListArgs, Output, installed, print, table,
    view::{Filter, protocol, service_name},
};
use crate::{
    clock,
    datapath::{
        flows::{FlowStore, FlowStores, partner},
        store::{MapStore as _, StoreError},
    },
};

/// One connection.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
struct Connection {
    /// `namespace/name` or `namespace/name:port-name`.
    service: String,
    /// `TCP` or `UDP`.
    protocol: &'static str,
    /// Who began it.
    client: SocketAddr,
    /// What the client talks to.
    frontend: SocketAddr,
    /// Who answers.
    backend: SocketAddr,
    /// Where the packets seem to come from, to the backend, if not from the client.
    source: Option<SocketAddr>,
    /// See [`state`].
    state: &'static str,
    /// Since when there has been such a connection, in seconds.
    age_s: u32,
    /// Since when there was no packet, in seconds.
    idle_s: u32,
}

/// Runs the command.
pub(super) fn run(args: &ListArgs) -> Result<(), Failure> {
    let filter = Filter::new(args.namespace.as_deref(), args.service.as_deref()).map_err(Failure::usage)?;
    let reader = installed::open(&args.tool.place)?;
    let names: HashMap<NameKey, String> = reader.store().names().map_err(installed::map_failure)?.into_iter().collect();
    let wanted = |service| Some(service_name(&names, service)).filter(|name| filter.wants(name));
    let rows = connections(&mut reader.flows()?, wanted, clock::monotonic_s()).map_err(installed::map_failure)?;
    installed::warn_unless_agent_runs(&reader);
    match args.output() {
        Output::Table => print(&text(&rows)),
        Output::Json => print(&super::json(&rows)?),
    }
}

/// All connections of Service ports for which `wanted` has a name, sorted by that.
fn connections(
    store: &mut impl FlowStores,
    wanted: impl Fn(u32) -> Option<String>,
    now_s: u32,
) -> Result<Vec<Connection>, StoreError> {
    let mut rows = Vec::new();
    of_family::<V4>(store, &wanted, now_s, &mut rows)?;
    of_family::<V6>(store, &wanted, now_s, &mut rows)?;
    rows.sort();
    Ok(rows)
}

fn of_family<F: Family>(
    store: &mut impl FlowStore<F>,
    wanted: &impl Fn(u32) -> Option<String>,
    now_s: u32,
    rows: &mut Vec<Connection>,
) -> Result<(), StoreError> {
    let (mut cursor, mut slice) = (None, Vec::new());
    loop {
        cursor = store.read_flows(cursor, &mut slice)?;
        for (key, half) in slice.iter().filter(|(key, half)| half.is_of(key) && !half.is_reply()) {
            if let Some(service) = wanted(half.service) {
                let reply = partner(store, key, half)?;
                rows.push(connection(service, key, half, reply.as_ref(), now_s));
            }
        }
        if cursor.is_none() {
            return Ok(());
        }
    }
}

/// `half` is the client's.
fn connection<F: Family>(
    service: String,
    key: &FlowKey<F>,
    half: &Flow<F>,
    reply: Option<&Flow<F>>,
    now_s: u32,
) -> Connection {
    let address = |addr, port| SocketAddr::new(F::to_ip(addr), port);
    let client = address(key.src_addr, key.src_port);
    let idle_s = age_s(now_s, half.last_seen_s);
    let is_replaced = half.flags & flow_flags::SNAT != 0;
    Connection {
        service,
        protocol: protocol(key.proto),
        client,
        frontend: address(key.dst_addr, key.dst_port),
        backend: address(half.dst_addr, half.dst_port),
        source: is_replaced.then(|| address(half.src_addr, half.src_port)),
        state: reply.map_or("broken", |reply| state(key.proto, half.seen, reply.seen)),
        age_s: age_s(now_s, half.created_s),
        idle_s: reply.map_or(idle_s, |reply| idle_s.min(age_s(now_s, reply.last_seen_s))),
    }
}

/// How far a connection is; each has a timeout of its own (`lb_common::logic::flow::timeout_s`).
fn state(proto: u8, forward: u16, reply: u16) -> &'static str {
    let (either, both) = (forward | reply, forward & reply);
    let answered = reply & flow_seen::PACKET != 0;
    if proto != Proto::Tcp.number() {
        return if answered { "answered" } else { "unanswered" };
    }
    match () {
        () if either & flow_seen::RST != 0 => "reset",
        () if both & flow_seen::FIN != 0 => "closed",
        () if either & flow_seen::FIN != 0 => "half-closed",
        () if !answered => "syn-sent",
        () if forward & flow_seen::ACK == 0 => "syn-received",
        () => "established",
    }
}

/// One line for each.
fn text(rows: &[Connection]) -> String {
    let ago = |seconds: u32| clock::ago(u64::from(seconds) * 1_000, 0);
    table::render(
        ["SERVICE", "PROTO", "CLIENT", "FRONTEND", "BACKEND", "SOURCE", "STATE", "AGE", "IDLE"],
        rows.iter().map(|row| {
            [
                row.service.clone(),
                row.protocol.to_owned(),
                row.client.to_string(),
                row.frontend.to_string(),
                row.backend.to_string(),
                row.source.map_or_else(|| "-".to_owned(), |source| source.to_string()),
                row.state.to_owned(),
                ago(row.age_s),
                ago(row.idle_s),
            ]
        }),
    )
}

#[cfg(test)]
#[path = "connections_tests.rs"]
mod tests;
