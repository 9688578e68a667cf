//! The asynchronous shell of the [`Reconciler`]: waits for events, for the time of a retry, or for the end.

use std::{future::Future, net::IpAddr};

use tokio::{
    sync::mpsc,
    task::yield_now,
    time::{Instant, sleep_until},
};

use super::{Checks, Clock, Reconciler, Report, Step};
use crate::{
    datapath::store::MapStore,
    event::{Event, PodChange},
    plan::GoneBackend,
    watch::{Message, SourceStatus},
};

/// How many messages are taken out of the channel at once. Only bounds memory: they are handled as one batch, and the
/// next ones before any long work.
const MESSAGES_AT_ONCE: usize = 4096;

/// What there is to tell to the rest of the agent.
#[derive(Clone, Debug)]
pub enum Update {
    /// How the maps are doing. After each piece of work.
    Maps(Report),
    /// How the source is doing, as it said.
    Source(SourceStatus),
    /// Backends that stopped serving. Told once; by then no new connection is given to them.
    Gone(Vec<GoneBackend>),
    /// The addresses of this node's Node object, as often as it is told.
    NodeAddresses(Vec<IpAddr>),
    /// What became of this node's Pods that are excluded from the socket layer, as it is told.
    Pods(PodChange),
    /// What load balancers' health checks are to be told, of all Services, when any of it changed.
    HealthChecks(Checks),
}

/// Drives the reconciler until `shutdown` completes. Nothing is removed then: the maps go on as they are. Everything
/// that is waiting in the channel is one batch; nothing is waited for. A closed channel ends nothing either: what failed
/// is still tried again.
///
/// Map writes happen on the task that polls this, up to some milliseconds at a stretch, and tens of milliseconds where
/// [`MapStore::wait_for_readers`] is needed: give it a thread of its own, or a runtime with more than one.
/// `tell` must not block.
pub async fn run<S: MapStore, C: Clock>(
    mut reconciler: Reconciler<S, C>,
    mut messages: mpsc::Receiver<Message>,
    mut tell: impl FnMut(Update),
    shutdown: impl Future<Output = ()>,
) -> Reconciler<S, C> {
    let mut shutdown = std::pin::pin!(shutdown);
    let mut batch = Vec::new();
    let mut open = true;
    let mut more = false;
    loop {
        let wake = reconciler.next_wake();
        let retry = async {
            match wake {
                Some(at) => sleep_until(Instant::from_std(at)).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = &mut shutdown => return reconciler,
            received = messages.recv_many(&mut batch, MESSAGES_AT_ONCE), if open => open = received > 0,
            () = yield_now(), if more => {}
            () = retry, if !more => {}
        }
        reconciler.handle(events(batch.drain(..), &mut tell));
        more = reconciler.step() == Step::More;
        tell_results(&mut reconciler, &mut tell);
    }
}

fn tell_results<S: MapStore, C: Clock>(reconciler: &mut Reconciler<S, C>, tell: &mut impl FnMut(Update)) {
    let gone = reconciler.take_gone();
    if !gone.is_empty() {
        tell(Update::Gone(gone));
    }
    if let Some(checks) = reconciler.take_health_checks() {
        tell(Update::HealthChecks(checks));
    }
    tell(Update::Maps(reconciler.report()));
}

/// The events among the messages. What the source says of itself and of this node goes straight to those who want to know.
fn events(messages: impl Iterator<Item = Message>, tell: &mut impl FnMut(Update)) -> impl Iterator<Item = Event> {
    messages.filter_map(|message| match message {
        Message::Event(Event::Pods(change)) => {
            tell(Update::Pods(change));
            None
        }
        Message::Event(event) => {
            if let Event::NodeApplied(node) = &event {
                tell(Update::NodeAddresses(node.addresses.clone()));
            }
            Some(event)
        }
        Message::Status(status) => {
            tell(Update::Source(status));
            None
        }
    })
}
