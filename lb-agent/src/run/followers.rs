//! What follows the maps, each on a thread of its own: the sockets of backends that are gone ([`crate::terminate`]), the
//! connections of the packet layer ([`crate::connections`]), the addresses of clients ([`crate::clients`]), and what is
//! remembered of clients ([`crate::affinity`]). An agent that may not do one of these goes on without: Services work all
//! the same.

use std::{mem, time::SystemTime};

use lb_common::abi::{V4, V6, maps};
use tracing::warn;

use crate::{
    affinity::{AffinityAging, Pass},
    clients::{ClientAddresses, LiveNode, Look},
    connections::{Ended, FlowAging, Progress},
    datapath::{bpf::Datapath, flows::FlowStore, store::FamilyStore},
    observe::{ConnectionsEnded, MapUse, Observer, Problem},
    reconcile::{GoneBackend, Report},
    terminate::{NodeKernel, Outcome, TcpPolicy, Terminator, describe},
};

/// The threads as the reconcile loop sees them; `None` for what cannot be done.
pub(super) struct Followers {
    terminator: Option<Terminator>,
    connections: Option<FlowAging>,
    heard: Heard,
    clients: Option<ClientAddresses>,
    /// Works by itself.
    _affinity: Option<AffinityAging>,
}

impl Followers {
    /// Starts them. What cannot be done is said.
    pub(super) fn start(datapath: &mut Datapath, tcp: TcpPolicy, observer: &Observer) -> Self {
        let terminator = terminator(datapath, tcp, observer.clone());
        let connections = connections(datapath, tcp, observer.clone());
        let clients = clients(datapath, observer.clone());
        let affinity = affinity(datapath, observer.clone());
        Self {
            terminator: or_warn(terminator, "sockets of dead backends will not be ended", observer),
            connections: or_warn(connections, "connections that are over fill their table and stay in it", observer),
            heard: Heard::default(),
            clients: or_warn(
                clients,
                "Services with loadBalancerSourceRanges refuse all clients of this node",
                observer,
            ),
            _affinity: or_warn(affinity, "session affinities fill their map and stay in it", observer),
        }
    }

    /// Passes on which backends are gone.
    pub(super) fn gone(&self, backends: Vec<GoneBackend>) {
        if let Some(connections) = &self.connections {
            connections.gone(backends.clone());
        }
        if let Some(terminator) = &self.terminator {
            terminator.gone(backends);
        }
    }

    /// Passes on what a report says about the maps.
    pub(super) fn maps_reported(&mut self, report: &Report) {
        let News { in_sync, written } = self.heard.news(report);
        // Before the first full lists the maps say nothing about what is gone.
        if let Some(connections) = &self.connections
            && in_sync
        {
            connections.sweep();
        }
        if let Some(terminator) = &self.terminator {
            if in_sync {
                terminator.sweep();
            }
            if written {
                terminator.maps_changed();
            }
        }
        if let Some(clients) = &self.clients
            && written
        {
            clients.services_changed();
        }
    }
}

/// What the reports so far said. Most say nothing new, and each look at the maps costs system calls.
#[derive(Debug, Default)]
struct Heard {
    synced: Option<SystemTime>,
    updated: Option<SystemTime>,
}

/// What a report says that none said before.
#[derive(Debug, PartialEq, Eq)]
struct News {
    /// The first full lists are in the maps.
    in_sync: bool,
    /// The maps were written, or are known to be as they should without that.
    written: bool,
}

impl Heard {
    fn news(&mut self, report: &Report) -> News {
        let before = mem::replace(self, Self { synced: report.synced, updated: report.updated });
        let in_sync = before.synced.is_none() && report.synced.is_some();
        News { in_sync, written: in_sync || before.updated != report.updated }
    }
}

fn or_warn<T>(started: anyhow::Result<T>, what: &str, observer: &Observer) -> Option<T> {
    started.map_err(|error| note(observer, format!("{what}: {error:#}"))).ok()
}

fn note(observer: &Observer, text: String) {
    warn!("{text}");
    observer.update(|state| state.note(Problem { at: SystemTime::now(), text }));
}

fn terminator(datapath: &mut Datapath, tcp: TcpPolicy, observer: Observer) -> anyhow::Result<Terminator> {
    let kernel = NodeKernel::new(datapath.cgroup_root().to_owned(), datapath.owners()?)?;
    let report = move |outcome: &Outcome| {
        let problem = outcome.first_failure.as_ref().map(|error| Problem {
            at: SystemTime::now(),
            text: format!("sockets of dead backends may live on: {}", describe(error)),
        });
        observer.update(|state| {
            state.ended_udp += outcome.udp;
            state.ended_tcp += outcome.tcp;
            state.end_failures += outcome.failures;
            if let Some(problem) = problem {
                state.note(problem);
            }
        });
    };
    Ok(Terminator::start(kernel, tcp, report)?)
}

fn connections(datapath: &Datapath, tcp: TcpPolicy, observer: Observer) -> anyhow::Result<FlowAging> {
    let flows = datapath.flows()?;
    let capacity = [FlowStore::<V4>::flow_capacity(&flows), FlowStore::<V6>::flow_capacity(&flows)];
    let report = move |progress: Progress| match progress {
        Progress::Aged(ended) => observer.update(|state| {
            let row = |map, i: usize| MapUse { map, entries: 2 * ended[i].kept, capacity: capacity[i].into() };
            state.connections = Some([row(maps::CONNS4, 0), row(maps::CONNS6, 1)]);
            count(&mut state.connections_ended, ended);
        }),
        Progress::Ended(ended) => observer.update(|state| count(&mut state.connections_ended, ended)),
        Progress::Failed(error) => {
            note(&observer, format!("connections that are over: {}; trying again", error.one_line()));
        }
    };
    Ok(FlowAging::start(flows, tcp, report)?)
}

fn count(all: &mut ConnectionsEnded, ended: [Ended; 2]) {
    for of_family in ended {
        all.idle += of_family.expired;
        all.backend_gone += of_family.gone;
        all.broken += of_family.stray;
    }
}

fn clients(datapath: &Datapath, observer: Observer) -> anyhow::Result<ClientAddresses> {
    let root = datapath.cgroup_root().to_owned();
    let node = LiveNode::new(root.clone(), datapath.clients()?)?;
    let report = move |look: Look| match look {
        Ok(kept) => {
            let row = |map, entries| MapUse { map, entries: entries as u64, capacity: maps::N_CLIENTS.into() };
            let clients = [row(maps::CLIENTS4, kept.v4), row(maps::CLIENTS6, kept.v6)];
            observer.update(|state| state.clients = Some(clients));
        }
        Err(text) => observer.update(|state| state.note(Problem { at: SystemTime::now(), text })),
    };
    Ok(ClientAddresses::start(node, root, report)?)
}

fn affinity(datapath: &Datapath, observer: Observer) -> anyhow::Result<AffinityAging> {
    let store = datapath.another_store()?;
    let capacity = FamilyStore::<V4>::capacity(&store).affinities;
    let report = move |pass: Pass| match pass {
        Ok(aged) => {
            let map_use = MapUse { map: maps::AFFINITY, entries: aged.kept as u64, capacity: capacity.into() };
            observer.update(|state| state.affinities = Some(map_use));
        }
        Err(error) => {
            note(&observer, format!("session affinities whose time is over: {}; trying again", error.one_line()))
        }
    };
    Ok(AffinityAging::start(store, report)?)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn those_who_follow_hear_of_the_first_sync_once_and_of_each_write() {
        let at = |seconds| Some(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds));
        let mut heard = Heard::default();
        let mut news = |synced, updated| {
            let News { in_sync, written } = heard.news(&Report { synced, updated, ..Report::default() });
            (in_sync, written)
        };
        assert_eq!(news(None, None), (false, false), "the lists are still to come");
        assert_eq!(news(None, at(1)), (false, true));
        assert_eq!(news(at(2), at(1)), (true, true), "nothing was written, and now that is known to be right");
        assert_eq!(news(at(2), at(1)), (false, false));
        assert_eq!(news(at(2), at(3)), (false, true));
    }
}
