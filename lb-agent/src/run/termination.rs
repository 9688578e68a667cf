//! Starts what ends the sockets of backends that are gone ([`crate::terminate`]), and passes on what it reports. An agent
//! that may not do it goes on without: Services work all the same.

use std::{mem, time::SystemTime};

use tracing::warn;

use crate::{
    datapath::bpf::Datapath,
    observe::{Observer, Problem},
    reconcile::{GoneBackend, Report},
    terminate::{NodeKernel, Outcome, TcpPolicy, Terminator},
};

/// The thread as the reconcile loop sees it.
pub(super) struct Termination {
    /// Where it can be done.
    terminator: Option<Terminator>,
    swept: bool,
}

impl Termination {
    /// Passes on which backends are gone.
    pub(super) fn gone(&self, backends: Vec<GoneBackend>) {
        if let Some(terminator) = &self.terminator {
            terminator.gone(backends);
        }
    }

    /// Once the maps are right, looks for what went while no agent ran.
    pub(super) fn take(&mut self, report: &Report) {
        let Some(terminator) = &self.terminator else { return };
        // Before the first full lists the maps say nothing about what is gone.
        if report.synced.is_some() && !mem::replace(&mut self.swept, true) {
            terminator.sweep();
        }
    }
}

/// Starts its thread, or warns that it cannot be done.
pub(super) fn start(datapath: &mut Datapath, tcp: TcpPolicy, observer: &Observer) -> Termination {
    let terminator = match try_start(datapath, tcp, observer.clone()) {
        Ok(terminator) => Some(terminator),
        Err(error) => {
            let text = format!("sockets of dead backends will not be ended: {error:#}");
            warn!("{text}");
            observer.update(|state| state.note(Problem { at: SystemTime::now(), text }));
            None
        }
    };
    Termination { terminator, swept: false }
}

fn try_start(datapath: &mut Datapath, tcp: TcpPolicy, observer: Observer) -> anyhow::Result<Terminator> {
    let kernel = NodeKernel::new(datapath.cgroup_root().to_owned(), datapath.owners()?);
    let report = move |outcome: &Outcome| {
        let problem = outcome.first_failure.as_ref().map(|error| Problem {
            at: SystemTime::now(),
            text: format!("sockets of dead backends may live on: {}", crate::terminate::describe(error)),
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
