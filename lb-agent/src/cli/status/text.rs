//! `status` as text: what is wrong first, then the facts. Pure.

use super::{
    super::table,
    facts::{AgentFacts, Facts},
};
use crate::clock::{ago, utc};

/// The whole page.
pub(super) fn render(facts: &Facts, problems: &[String]) -> String {
    let mut page = String::new();
    if problems.is_empty() {
        page.push_str("OK: no problem found\n");
    }
    for problem in problems {
        page.push_str(&format!("PROBLEM: {problem}\n"));
    }
    for section in [agent(facts), maps(facts), programs(facts), devices(facts), counters(facts)] {
        page.push('\n');
        page.push_str(&section);
    }
    page
}

fn agent(facts: &Facts) -> String {
    // What is wrong among the rest is on the page as problems.
    let AgentFacts {
        running,
        pid,
        started_ms,
        synced_ms,
        changed_ms,
        error_ms,
        version,
        source,
        last_error,
        services,
        ..
    } = &facts.agent;
    let since = |ms: u64| match ms {
        0 => "never".to_owned(),
        ms => format!("{} ({} ago)", utc(ms), ago(facts.now_ms, ms)),
    };
    let rows = [
        ("running", if *running { format!("yes, pid {pid}") } else { "no".to_owned() }),
        ("started", since(*started_ms)),
        ("version", version.clone()),
        ("source", source.clone()),
        ("in sync since", if *synced_ms == 0 { "not in sync".to_owned() } else { since(*synced_ms) }),
        ("services", services.to_string()),
        ("last change", since(*changed_ms)),
        ("last error", if *error_ms == 0 { "none".to_owned() } else { format!("{}: {last_error}", since(*error_ms)) }),
        ("pins", facts.pins.clone()),
    ];
    table::render(["AGENT", ""], rows.map(|(name, value)| [name.to_owned(), value]))
}

fn maps(facts: &Facts) -> String {
    table::render(
        ["MAP", "ENTRIES", "CAPACITY", "USED"],
        facts.maps.iter().map(|map| {
            let percent = map.entries.saturating_mul(100) / map.capacity.max(1);
            [map.name.to_owned(), map.entries.to_string(), map.capacity.to_string(), format!("{percent} %")]
        }),
    )
}

fn programs(facts: &Facts) -> String {
    table::render(
        ["PROGRAM", "ID", "CGROUP"],
        facts.programs.iter().map(|program| {
            [
                program.name.to_owned(),
                program.id.map_or_else(|| "not attached".to_owned(), |id| id.to_string()),
                program.cgroup.clone().unwrap_or_else(|| "-".to_owned()),
            ]
        }),
    )
}

fn devices(facts: &Facts) -> String {
    let or_dash = |text: String| if text.is_empty() { "-".to_owned() } else { text };
    table::render(
        ["DEVICE", "INDEX", "SERVED AS", "INGRESS", "EGRESS", "ADDRESSES", "WHY"],
        facts.devices.iter().map(|device| {
            let id = |id: Option<u32>| id.map_or_else(|| "not attached".to_owned(), |id| id.to_string());
            let addresses: Vec<_> = device.addresses.iter().map(ToString::to_string).collect();
            [
                or_dash(device.name.clone()),
                device.index.to_string(),
                device.role.clone().unwrap_or_else(|| "-".to_owned()),
                id(device.ingress),
                id(device.egress),
                or_dash(addresses.join(",")),
                or_dash(device.why.clone()),
            ]
        }),
    )
}

fn counters(facts: &Facts) -> String {
    table::render(
        ["COUNTER", "VALUE"],
        facts.counters.iter().map(|counter| [counter.name.to_owned(), counter.value.to_string()]),
    )
}

#[cfg(test)]
mod tests {
    use super::{
        super::facts::{CounterFacts, DeviceFacts, MapFacts, ProgramFacts},
        *,
    };

    fn facts() -> Facts {
        Facts {
            now_ms: 1_792_000_060_000,
            pins: "/sys/fs/bpf/lb".to_owned(),
            agent: AgentFacts {
                running: true,
                pid: 42,
                started_ms: 1_792_000_000_000,
                synced_ms: 1_792_000_001_000,
                changed_ms: 1_792_000_059_000,
                version: "0.1.0 (abc)".to_owned(),
                source: "manifests /etc/lb".to_owned(),
                services: 2,
                ..AgentFacts::default()
            },
            maps: vec![MapFacts { name: "lb_frontends4", entries: 3, capacity: 65536, flag: Some("--max-frontends") }],
            programs: vec![
                ProgramFacts { name: "lb_connect4", id: Some(17), cgroup: Some("/sys/fs/cgroup".to_owned()) },
                ProgramFacts { name: "lb_connect6", id: None, cgroup: None },
            ],
            devices: vec![DeviceFacts {
                index: 2,
                name: "eth0".to_owned(),
                role: Some("uplink".to_owned()),
                why: "has a default route".to_owned(),
                ingress: Some(21),
                egress: None,
                addresses: vec!["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()],
            }],
            counters: vec![CounterFacts { name: "tcp_connect", value: 12 }],
        }
    }

    #[test]
    fn the_page_opens_with_what_is_wrong() {
        let page = render(&facts(), &["the first".to_owned(), "the second".to_owned()]);
        assert!(page.starts_with("PROBLEM: the first\nPROBLEM: the second\n\nAGENT"), "{page}");
    }

    #[test]
    fn the_page_of_a_node_without_problems() {
        assert_eq!(
            render(&facts(), &[]),
            "\
OK: no problem found

AGENT
running        yes, pid 42
started        2026-10-14T17:46:40Z (1m0s ago)
version        0.1.0 (abc)
source         manifests /etc/lb
in sync since  2026-10-14T17:46:41Z (59s ago)
services       2
last change    2026-10-14T17:47:39Z (1s ago)
last error     none
pins           /sys/fs/bpf/lb

MAP            ENTRIES  CAPACITY  USED
lb_frontends4  3        65536     0 %

PROGRAM      ID            CGROUP
lb_connect4  17            /sys/fs/cgroup
lb_connect6  not attached  -

DEVICE  INDEX  SERVED AS  INGRESS  EGRESS        ADDRESSES              WHY
eth0    2      uplink     21       not attached  192.0.2.1,2001:db8::1  has a default route

COUNTER      VALUE
tcp_connect  12
"
        );
    }
}
