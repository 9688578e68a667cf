//! The thread that walks. It is told which backends are gone and never waited for; in between it looks for idle flows, at
//! its leisure.

use std::{
    collections::VecDeque,
    convert::Infallible,
    io, mem,
    sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    thread,
    time::{Duration, Instant},
};

use lb_common::abi::{Family, V4, V6};
use tracing::warn;

use super::walk::{Ended, Ending, Walk};
use crate::{
    clock,
    datapath::{
        flows::{FlowStore, FlowStores},
        store::StoreError,
    },
    reconcile::GoneBackend,
    terminate::TcpPolicy,
};

/// From the end of one walk for idle flows to the next one: no flow outlives its time by more than this and a walk.
const EVERY: Duration = Duration::from_secs(10);
/// From one walk for a gone backend's flows to the second and last: a packet that was under way when the backend went may
/// have made one behind the first.
const AGAIN: Duration = Duration::from_secs(1);
/// A walk for idle flows takes at most this share of a processor: after each slice the thread rests for so many times as
/// long as that took.
const REST: u32 = 9;

/// What there is to tell.
#[derive(Debug)]
pub enum Progress {
    /// A walk for idle flows is done, of IPv4 and IPv6.
    Aged([Ended; 2]),
    /// The flows of gone backends were looked for.
    Ended([Ended; 2]),
    /// A walk was given up; there will be another.
    Failed(StoreError),
}

enum Order {
    Gone(Vec<GoneBackend>),
    Sweep,
}

/// A handle on the thread. Dropped, it ends.
#[derive(Debug)]
pub struct FlowAging {
    orders: Sender<Order>,
}

impl FlowAging {
    /// Starts the thread; `report` is told what came of it, on it.
    ///
    /// # Errors
    /// No thread can be had.
    pub fn start<S: FlowStores + Send + 'static>(
        store: S,
        tcp: TcpPolicy,
        report: impl FnMut(Progress) + Send + 'static,
    ) -> io::Result<Self> {
        let (orders, received) = channel();
        let mut worker = Worker { store, tcp, report, again: VecDeque::new(), failing: false };
        let body = move || match worker.run(&received) {
            Err(End) => {}
        };
        thread::Builder::new().name("connections".to_owned()).spawn(body)?;
        Ok(Self { orders })
    }

    /// These backends serve no more. Returns at once.
    pub fn gone(&self, backends: Vec<GoneBackend>) {
        self.order(Order::Gone(backends));
    }

    /// Also ends the flows of backends that went earlier, whenever that was. Returns at once.
    pub fn sweep(&self) {
        self.order(Order::Sweep);
    }

    fn order(&self, order: Order) {
        if self.orders.send(order).is_err() {
            warn!("the thread that ends connections which are over has died; restart the agent");
        }
    }
}

struct Worker<S, R> {
    store: S,
    tcp: TcpPolicy,
    report: R,
    /// Walked for once, or in vain, and when to walk again; the earliest first.
    again: VecDeque<(Instant, Ending)>,
    /// The last of these walks was given up.
    failing: bool,
}

/// The handle was dropped.
struct End;

impl<S: FlowStores, R: FnMut(Progress)> Worker<S, R> {
    fn run(&mut self, orders: &Receiver<Order>) -> Result<Infallible, End> {
        loop {
            self.rest(orders, EVERY)?;
            let (v4, v6) = (self.age::<V4>(orders)?, self.age::<V6>(orders)?);
            if let (Some(v4), Some(v6)) = (v4, v6) {
                (self.report)(Progress::Aged([v4, v6]));
            }
        }
    }

    /// Lets time pass, and does meanwhile what is asked for.
    fn rest(&mut self, orders: &Receiver<Order>, wait: Duration) -> Result<(), End> {
        let until = Instant::now() + wait;
        loop {
            let due = self.again.front().map_or(until, |(at, _)| until.min(*at));
            match orders.recv_timeout(due.saturating_duration_since(Instant::now())) {
                Ok(first) => {
                    if let Some(ending) = self.ending(std::iter::once(first).chain(orders.try_iter())) {
                        self.end(&ending);
                        self.again.push_back((Instant::now() + AGAIN, ending));
                    }
                }
                Err(RecvTimeoutError::Timeout) if due == until => return Ok(()),
                Err(RecvTimeoutError::Timeout) => {
                    if let Some((_, ending)) = self.again.pop_front()
                        && !self.end(&ending)
                    {
                        self.again.push_back((Instant::now() + AGAIN, ending));
                    }
                }
                Err(RecvTimeoutError::Disconnected) => return Err(End),
            }
        }
    }

    /// Looks for the idle flows of a family; `None` if that failed, which was told.
    fn age<F: Family>(&mut self, orders: &Receiver<Order>) -> Result<Option<Ended>, End>
    where
        S: FlowStore<F>,
    {
        let mut walk = Walk::<F>::new(Ending::Nobodys, self.tcp);
        loop {
            let started = Instant::now();
            match walk.step(&mut self.store, clock::monotonic_s()) {
                Ok(None) => self.rest(orders, started.elapsed().saturating_mul(REST))?,
                Ok(ended) => return Ok(ended),
                Err(error) => {
                    (self.report)(Progress::Failed(error));
                    return Ok(None);
                }
            }
        }
    }

    /// All orders as one, if there is anything to do.
    fn ending(&self, orders: impl Iterator<Item = Order>) -> Option<Ending> {
        let mut gone = Vec::new();
        for order in orders {
            match order {
                // Finds the others, too: by then they are not in the maps, or do not serve.
                Order::Sweep => return Some(Ending::OfStrangers),
                Order::Gone(backends) => gone.extend(backends),
            }
        }
        Ending::of(&gone, self.tcp)
    }

    /// Walks through everything at once, and rests after that, so that what comes in meanwhile is one order. Whether it came to
    /// the end.
    fn end(&mut self, ending: &Ending) -> bool {
        let started = Instant::now();
        let v4 = walk_through::<V4, S>(&mut self.store, ending, self.tcp);
        let v6 = walk_through::<V6, S>(&mut self.store, ending, self.tcp);
        let ended = v4.and_then(|v4| Ok([v4, v6?]));
        let is_done = ended.is_ok();
        // Tried again every second, and said once.
        let is_known = mem::replace(&mut self.failing, !is_done) && !is_done;
        if !is_known {
            (self.report)(ended.map_or_else(Progress::Failed, Progress::Ended));
        }
        thread::sleep(started.elapsed().saturating_mul(REST).min(AGAIN));
        is_done
    }
}

fn walk_through<F: Family, S: FlowStore<F>>(
    store: &mut S,
    ending: &Ending,
    tcp: TcpPolicy,
) -> Result<Ended, StoreError> {
    let mut walk = Walk::<F>::new(ending.clone(), tcp);
    loop {
        if let Some(ended) = walk.step(store, clock::monotonic_s())? {
            return Ok(ended);
        }
    }
}

#[cfg(test)]
#[path = "worker_tests.rs"]
mod tests;
