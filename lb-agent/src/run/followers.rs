//! What follows the maps, each on a thread of its own: the sockets of backends that are gone ([`crate::terminate`]), the
//! connections of the packet layer ([`crate::connections`]), the addresses of clients ([`crate::clients`]), what is
//! remembered of clients ([`crate::affinity`]), and the workloads that are excluded from the socket layer
//! ([`crate::exclude`]). An agent that may not do one of these goes on without: Services work all
//! the same.

use std::{mem, time::SystemTime};

use lb_common::abi::{V4, V6, maps};
use tracing::info;

use super::news::News;
use crate::{
    affinity::{AffinityAging, Pass},
    clients::{ClientAddresses, LiveNode, Look},
    connections::{Ended, FlowAging, Progress},
    datapath::{bpf::Datapath, flows::FlowStore, store::FamilyStore},
    event::PodChange,
    exclude::{self, CgroupPatterns, Exclusions},
    observe::{ConnectionsEnded, MapUse, Observer, Problem},
    reconcile::GoneBackend,
    terminate::{NodeKernel, Outcome, TcpPolicy, Terminator, describe},
};

/// Whom to exclude from the socket layer.
pub(super) struct Exclude {
    /// `--socket-lb-exclude`.
    pub(super) patterns: CgroupPatterns,
    /// Whether the source tells of Pods.
    pub(super) has_pods: bool,
}

/// The threads as the reconcile loop sees them; `None` for what cannot be done.
pub(super) struct Followers {
    terminator: Option<Terminator>,
    connections: Option<FlowAging>,
    clients: Option<ClientAddresses>,
    exclusions: Option<Exclusions>,
    /// Works by itself.
    _affinity: Option<AffinityAging>,
}

impl Followers {
    /// Starts them. What cannot be done is said.
    pub(super) fn start(datapath: &mut Datapath, tcp: TcpPolicy, exclude: Exclude, observer: &Observer) -> Self {
        let terminator = terminator(datapath, tcp, observer.clone());
        let connections = connections(datapath, tcp, observer.clone());
        let clients = clients(datapath, observer.clone());
        let exclusions = exclusions(datapath, exclude, observer.clone());
        let affinity = affinity(datapath, observer.clone());
        Self {
            terminator: or_warn(terminator, "sockets of dead backends will not be ended", observer),
            connections: or_warn(connections, "connections that are over fill their table and stay in it", observer),
            clients: or_warn(
                clients,
                "Services with loadBalancerSourceRanges refuse all clients of this node",
                observer,
            ),
            exclusions: or_warn(exclusions, "no workload is excluded from the socket layer anew", observer),
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

    /// Passes on what became of this node's Pods.
    pub(super) fn pods_changed(&self, change: PodChange) {
        if let Some(exclusions) = &self.exclusions {
            exclusions.pods_changed(change);
        }
    }

    /// Passes on what is new about the maps.
    pub(super) fn hear(&self, News { in_sync, written }: News) {
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

fn or_warn<T>(started: anyhow::Result<T>, what: &str, observer: &Observer) -> Option<T> {
    started.map_err(|error| observer.warn(format!("{what}: {error:#}"))).ok()
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
            observer.warn(format!("connections that are over: {}; trying again", error.one_line()));
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

fn exclusions(datapath: &Datapath, exclude: Exclude, observer: Observer) -> anyhow::Result<Exclusions> {
    let root = datapath.cgroup_root().to_owned();
    let node = exclude::LiveNode::new(root.clone(), datapath.exclusion()?);
    let keeper = exclude::Keeper::new(node, exclude.patterns, exclude.has_pods)?;
    let mut said = false;
    let report = move |look: exclude::Look| match look {
        Ok(kept) => {
            let entries = kept.cgroups as u64;
            let excluded = MapUse { map: maps::EXCLUDED, entries, capacity: maps::N_EXCLUDED.into() };
            observer.update(|state| state.excluded = Some(excluded));
            if mem::replace(&mut said, entries > 0) != said {
                info!(cgroups = entries, "workloads that are excluded from the socket layer");
            }
        }
        Err(text) => observer.update(|state| state.note(Problem { at: SystemTime::now(), text })),
    };
    Ok(Exclusions::start(keeper, root, report)?)
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
            observer.warn(format!("session affinities whose time is over: {}; trying again", error.one_line()))
        }
    };
    Ok(AffinityAging::start(store, report)?)
}
