//! From facts to what is wrong, in plain words, the worst first. Pure.

use lb_common::abi::{Counter, maps};

use super::facts::{AgentFacts, DeviceFacts, Facts, MapFacts, Several};
use crate::clock::{ago, utc};

/// From this share of its capacity on a map is a problem: there is still room to raise it in time.
const FULL_PERCENT: u64 = 90;

/// An error is news for this long.
const RECENT_MS: u64 = 10 * 60 * 1000;

/// What is wrong, the worst first; empty if nothing is.
pub(super) fn problems(facts: &Facts) -> Vec<String> {
    let mut found = Vec::new();
    found.extend(detached(facts));
    found.extend(facts.devices.iter().filter_map(half_attached));
    found.extend(agent(facts));
    found.extend(standing(&facts.agent));
    found.extend(facts.maps.iter().filter_map(filling));
    let error = recent_error(facts).filter(|_| !found.iter().any(|known| known.contains(&facts.agent.last_error)));
    found.extend(error);
    found.extend(counters(facts));
    found
}

fn detached(facts: &Facts) -> Option<String> {
    let missing: Vec<_> =
        facts.programs.iter().filter(|program| program.id.is_none()).map(|program| program.name).collect();
    (!missing.is_empty()).then(|| {
        format!(
            "not attached: {}. Service addresses do not work for the calls these programs serve; starting the agent \
             attaches them",
            missing.join(", ")
        )
    })
}

fn half_attached(device: &DeviceFacts) -> Option<String> {
    let DeviceFacts { name, index, ingress, egress, .. } = device;
    (ingress.is_none() || egress.is_none()).then(|| {
        format!(
            "device {name} (number {index}) lacks a program: connections by it break; a running agent attaches them anew \
             within half a minute"
        )
    })
}

fn agent(facts: &Facts) -> Option<String> {
    let agent = &facts.agent;
    if !agent.running {
        return Some(if agent.started_ms == 0 {
            "no agent is running, and none has ever reported here".to_owned()
        } else {
            format!(
                "no agent is running: traffic goes on with the last state, of {} ({} ago)",
                utc(agent.changed_ms.max(agent.synced_ms)),
                ago(facts.now_ms, agent.changed_ms.max(agent.synced_ms))
            )
        });
    }
    if agent.synced_ms != 0 {
        return None;
    }
    Some(match agent.lost_ms {
        0 => format!(
            "not in sync: {} has not delivered its full lists since the agent started {} ago; traffic goes on with \
             the last state",
            agent.source,
            ago(facts.now_ms, agent.started_ms)
        ),
        lost => format!(
            "lost {} ago: {}; traffic goes on with the last state, and what changed since is missing",
            ago(facts.now_ms, lost),
            agent.source
        ),
    })
}

/// What the agent knows to be wrong, however long ago that began. A dead agent's was true when it died, and nobody has
/// mended it since.
fn standing(agent: &AgentFacts) -> Vec<String> {
    let mut found = Vec::new();
    if !agent.self_test_failure.is_empty() {
        found.push(format!("the programs do not work: {}", agent.self_test_failure));
    }
    if agent.failing > 0 {
        found.push(format!("Services that could not be written to the maps, tried again: {}", agent.failing));
    }
    let mut several = |what: &str, several: &Several| {
        if several.count > 0 {
            found.push(format!("{what}: {}; the first: {}", several.count, several.first));
        }
    };
    several("Services that do not fit", &agent.not_fitting);
    several("addresses that Services do not get", &agent.conflicts);
    several("problems in the source", &agent.source_problems);
    several("problems of the node (`lb-agent check` lists them)", &agent.findings);
    found
}

fn filling(map: &MapFacts) -> Option<String> {
    let percent = map.entries.saturating_mul(100) / map.capacity.max(1);
    let MapFacts { name, entries, capacity, flag } = map;
    let lost = match *name {
        maps::AFFINITY => "new clients of Services with sessionAffinity go without",
        maps::CONNS4 | maps::CONNS6 => "new connections of clients outside are dropped, and those that are there go on",
        maps::CLIENTS4 | maps::CLIENTS6 => "further pods are refused by Services with loadBalancerSourceRanges",
        _ => "what does not fit is not served",
    };
    let remedy = flag.map_or_else(|| "have fewer pods on this node".to_owned(), |flag| format!("raise {flag}"));
    match percent {
        100.. => Some(format!("map {name} is full ({entries} of {capacity}): {lost}; {remedy}")),
        FULL_PERCENT.. => {
            Some(format!("map {name} is {percent} % full ({entries} of {capacity}): {remedy} before it is full"))
        }
        _ => None,
    }
}

fn recent_error(facts: &Facts) -> Option<String> {
    let agent = &facts.agent;
    let recent = agent.error_ms != 0 && facts.now_ms.saturating_sub(agent.error_ms) < RECENT_MS;
    recent.then(|| format!("an error {} ago: {}", ago(facts.now_ms, agent.error_ms), agent.last_error))
}

fn counters(facts: &Facts) -> Vec<String> {
    let value = |counter: Counter| {
        facts.counters.iter().find(|known| known.name == counter.label()).map_or(0, |known| known.value)
    };
    let mut found = Vec::new();
    let damaged = value(Counter::DamagedMaps);
    if damaged > 0 {
        found.push(format!(
            "the maps were damaged: {damaged} connections met a frontend with a wrong checksum or slot, and \
             were refused; restart the agent, and report this"
        ));
    }
    let dropped = value(Counter::ConnsFull);
    if dropped > 0 {
        found.push(format!(
            "the table of connections was full: {dropped} packets of new connections were dropped; raise \
             --max-connections"
        ));
    }
    let no_port = value(Counter::SnatExhausted);
    if no_port > 0 {
        found.push(format!(
            "no port of the node's address was free for {no_port} packets of new connections, which were dropped; widen \
             --snat-ports"
        ));
    }
    let no_storage = value(Counter::NoStorage);
    if no_storage > 0 {
        found.push(format!(
            "the kernel had no memory for {no_storage} sockets' storage: they were connected, but see the backend's \
             address in place of the Service's"
        ));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::{
        super::facts::{CounterFacts, ProgramFacts},
        *,
    };

    const NOW: u64 = 1_792_000_000_000;

    fn healthy() -> Facts {
        Facts {
            now_ms: NOW,
            pins: "/sys/fs/bpf/lb".to_owned(),
            agent: AgentFacts {
                running: true,
                pid: 7,
                started_ms: NOW - 60_000,
                synced_ms: NOW - 59_000,
                changed_ms: NOW - 1_000,
                source: "kubernetes https://192.0.2.1:6443".to_owned(),
                ..AgentFacts::default()
            },
            maps: vec![MapFacts { name: "lb_frontends4", entries: 89, capacity: 100, flag: Some("--max-frontends") }],
            programs: vec![ProgramFacts { name: "lb_connect4", id: Some(3), cgroup: Some("/".to_owned()) }],
            devices: vec![DeviceFacts { ingress: Some(8), egress: Some(9), ..DeviceFacts::default() }],
            counters: vec![],
        }
    }

    /// The problems after one change to a healthy node.
    fn after(change: impl FnOnce(&mut Facts)) -> Vec<String> {
        let mut facts = healthy();
        change(&mut facts);
        problems(&facts)
    }

    #[test]
    fn a_healthy_node_has_no_problem() {
        assert_eq!(after(|_| ()), Vec::<String>::new());
    }

    #[test]
    fn a_dead_agent_is_named_with_the_age_of_its_state() {
        assert_eq!(
            after(|facts| facts.agent.running = false),
            ["no agent is running: traffic goes on with the last state, of 2026-10-14T17:46:39Z (1s ago)"]
        );
    }

    #[test]
    fn an_agent_out_of_sync_is_named_with_its_source() {
        let found = after(|facts| facts.agent.synced_ms = 0);
        assert!(found[0].starts_with("not in sync: kubernetes https://192.0.2.1:6443 "), "{found:?}");
    }

    #[test]
    fn a_lost_source_is_not_one_that_never_delivered() {
        let found = after(|facts| {
            facts.agent.synced_ms = 0;
            facts.agent.lost_ms = NOW - 30_000;
        });
        assert_eq!(
            found,
            ["lost 30s ago: kubernetes https://192.0.2.1:6443; traffic goes on with the last state, and what changed \
              since is missing"]
        );
    }

    #[test]
    fn what_is_wrong_now_is_a_problem_however_old_and_is_told_once() {
        let several = |count, first: &str| Several { count, first: first.to_owned() };
        let found = after(|facts| {
            facts.agent.self_test_failure = "a connection was let through".to_owned();
            facts.agent.failing = 3;
            facts.agent.not_fitting = several(2, "Service default/a: map is full");
            facts.agent.conflicts = several(1, "Service default/b: held by Service default/a");
            facts.agent.source_problems = several(1, "web.yaml: no");
            facts.agent.findings = several(2, "net.ipv4.ip_forward: it is 0; set it to 1");
            facts.agent.error_ms = NOW - 1_000;
            facts.agent.last_error = "web.yaml: no".to_owned();
        });
        assert_eq!(
            found,
            [
                "the programs do not work: a connection was let through",
                "Services that could not be written to the maps, tried again: 3",
                "Services that do not fit: 2; the first: Service default/a: map is full",
                "addresses that Services do not get: 1; the first: Service default/b: held by Service default/a",
                "problems in the source: 1; the first: web.yaml: no",
                "problems of the node (`lb-agent check` lists them): 2; the first: net.ipv4.ip_forward: it is 0; set it \
                 to 1",
            ]
        );
    }

    #[test]
    fn a_map_is_a_problem_from_90_percent_on() {
        let found = after(|facts| facts.maps[0].entries = 90);
        assert_eq!(found, ["map lb_frontends4 is 90 % full (90 of 100): raise --max-frontends before it is full"]);
        assert!(after(|facts| facts.maps[0].entries = 100)[0].contains("is full (100 of 100)"));
        let found = after(|facts| {
            facts.maps = vec![MapFacts { name: maps::CLIENTS6, entries: 4_096, capacity: 4_096, flag: None }];
        });
        assert_eq!(
            found,
            ["map lb_clients6 is full (4096 of 4096): further pods are refused by Services with \
              loadBalancerSourceRanges; have fewer pods on this node"]
        );
    }

    #[test]
    fn a_detached_program_comes_first() {
        let found = after(|facts| {
            facts.agent.running = false;
            facts.programs[0].id = None;
        });
        assert!(found[0].starts_with("not attached: lb_connect4."), "{found:?}");
        assert_eq!(found.len(), 2);
    }

    #[test]
    fn a_device_that_lacks_a_program_is_named() {
        let found = after(|facts| {
            facts.devices[0] = DeviceFacts { name: "eth0".to_owned(), ingress: None, ..facts.devices[0].clone() };
        });
        assert!(found[0].starts_with("device eth0 (number 0) lacks a program"), "{found:?}");
        assert_eq!(found.len(), 1);
    }

    #[test]
    fn an_error_is_a_problem_for_ten_minutes() {
        let with_error = |age_ms| {
            after(|facts| {
                facts.agent.error_ms = NOW - age_ms;
                facts.agent.last_error = "web.yaml: no".to_owned();
            })
        };
        assert_eq!(with_error(30_000), ["an error 30s ago: web.yaml: no"]);
        assert!(with_error(RECENT_MS).is_empty());
    }

    #[test]
    fn damage_and_missing_storage_are_named() {
        let found = after(|facts| {
            facts.counters = vec![
                CounterFacts { name: "damaged_maps", value: 2 },
                CounterFacts { name: "no_storage", value: 3 },
                CounterFacts { name: "conns_full", value: 5 },
                CounterFacts { name: "snat_exhausted", value: 6 },
                CounterFacts { name: "no_backend", value: 4 },
            ];
        });
        assert_eq!(found.len(), 4);
        assert!(found[0].contains("2 connections") && found[3].contains("3 sockets"), "{found:?}");
        assert!(found[1].contains("5 packets") && found[1].contains("--max-connections"), "{found:?}");
        assert!(found[2].contains("6 packets") && found[2].contains("--snat-ports"), "{found:?}");
    }
}
