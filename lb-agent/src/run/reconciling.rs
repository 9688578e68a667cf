//! The reconcile loop on a thread of its own, because map writes block it for milliseconds; and who is told of what.

use std::{net::IpAddr, thread::JoinHandle, time::SystemTime};

use tokio::sync::{mpsc, oneshot, watch};

use super::{followers::Followers, memory::Memory, news::Heard, runtime, selftest, unexpected};
use crate::{
    cli::Failure,
    datapath::bpf::Datapath,
    model::ModelConfig,
    observe::Observer,
    reconcile::{self, Checks, Reconciler, Update},
    watch::Message,
};

/// The reconcile loop on its thread.
pub(super) struct Reconciling {
    thread: JoinHandle<Result<(), Failure>>,
    /// Dropped to have the loop end.
    stop: oneshot::Sender<()>,
    /// Its sender is dropped when the thread ends, also by a panic.
    alive: oneshot::Receiver<()>,
}

impl Reconciling {
    pub(super) fn start(
        datapath: Datapath,
        model: ModelConfig,
        messages: mpsc::Receiver<Message>,
        audience: Audience,
    ) -> Result<Self, Failure> {
        let (stop, stopped) = oneshot::channel();
        let (alive_here, alive) = oneshot::channel();
        let body = move || {
            let _alive = alive_here;
            reconcile_until(datapath, model, messages, audience, stopped)
        };
        let thread = std::thread::Builder::new().name("reconcile".to_owned()).spawn(body);
        let thread = thread.map_err(|error| unexpected(error, "starting the reconcile thread"))?;
        Ok(Self { thread, stop, alive })
    }

    /// Completes when the loop has ended by itself, which it should not.
    pub(super) async fn ended(&mut self) {
        drop((&mut self.alive).await);
    }

    /// Has it end and waits for that: milliseconds.
    pub(super) fn stop(self) -> Result<(), Failure> {
        drop(self.stop);
        self.thread.join().unwrap_or_else(|_| Err(anyhow::anyhow!("the reconcile loop panicked").into()))
    }
}

/// Those whom the loop tells.
pub(super) struct Audience {
    pub(super) observer: Observer,
    pub(super) followers: Followers,
    pub(super) health_checks: watch::Sender<Checks>,
    pub(super) node_addresses: watch::Sender<Vec<IpAddr>>,
    pub(super) memory: Memory,
    pub(super) heard: Heard,
}

impl Audience {
    fn hear(&mut self, update: Update) {
        match update {
            Update::Source(status) => self.observer.update(|state| state.take_source(status, SystemTime::now())),
            Update::Maps(report) => {
                let news = self.heard.news(&report);
                self.followers.hear(news);
                self.memory.hear(news, report.latencies.len());
                for latency in &report.latencies {
                    self.observer.latency().observe(*latency);
                }
                self.observer.update(|state| state.take_report(report));
                selftest::say_ready(&self.observer);
            }
            Update::Gone(backends) => self.followers.gone(backends),
            Update::Pods(change) => self.followers.pods_changed(change),
            Update::HealthChecks(checks) => drop(self.health_checks.send_replace(checks)),
            Update::NodeAddresses(addresses) => drop(self.node_addresses.send_if_modified(|known| {
                let is_new = *known != addresses;
                *known = addresses;
                is_new
            })),
        }
    }
}

fn reconcile_until(
    mut datapath: Datapath,
    model: ModelConfig,
    messages: mpsc::Receiver<Message>,
    mut audience: Audience,
    stopped: oneshot::Receiver<()>,
) -> Result<(), Failure> {
    let reconciler = Reconciler::new(datapath.store_mut(), model);
    let reconciler = reconciler.map_err(|error| unexpected(error, "adopting the maps"))?;
    let shutdown = async { drop(stopped.await) };
    runtime()?.block_on(reconcile::run(reconciler, messages, |update| audience.hear(update), shutdown));
    Ok(())
}
