//! The thread that ends sockets. It is told what is gone and never waited for; what comes in while it works is one batch.

use std::{
    collections::BTreeSet,
    io, mem,
    sync::mpsc::{Receiver, Sender, channel},
    thread,
    time::{Duration, Instant},
};

use tracing::{debug, info, warn};

use super::{
    Suspect, TcpPolicy,
    pass::{Kernel, Outcome, Waiting, find_suspects, terminate},
};
use crate::{reconcile::GoneBackend, signs::gather};

/// From one look at a batch to the next and last. A connect that was under way when its backend went may be in no list
/// of the first.
const AGAIN: Duration = Duration::from_secs(1);

/// So many looks in a row that fail are repeated, each after a longer pause: some minutes in all. What fails for longer (a
/// missing capability, say) was said, and would only cost time.
const REPEATED: u32 = 20;

/// A look takes at most this share of a processor while changes go on: after each the thread rests for so many times as
/// long as it took.
const REST: u32 = 9;

enum Order {
    Gone(Vec<GoneBackend>),
    Sweep,
    MapsChanged,
}

/// A handle on the thread. Dropped, it ends after the batch at hand.
#[derive(Clone)]
pub struct Terminator {
    orders: Sender<Order>,
    tcp: TcpPolicy,
}

impl Terminator {
    /// Starts the thread; `report` is told how each pass went, on it.
    ///
    /// # Errors
    /// No thread can be had.
    pub fn start<K: Kernel + Send + 'static>(
        kernel: K,
        tcp: TcpPolicy,
        report: impl FnMut(&Outcome) + Send + 'static,
    ) -> io::Result<Self> {
        let (orders, received) = channel();
        let mut worker = Worker {
            kernel,
            tcp,
            report,
            again: BTreeSet::new(),
            sweep_again: false,
            waiting: BTreeSet::new(),
            hidden_said: false,
            failed: 0,
        };
        thread::Builder::new().name("terminate".to_owned()).spawn(move || worker.run(&received))?;
        Ok(Self { orders, tcp })
    }

    /// These backends serve no more. Returns at once.
    pub fn gone(&self, mut backends: Vec<GoneBackend>) {
        backends.retain(|backend| self.tcp.covers(backend.proto));
        if !backends.is_empty() {
            self.order(Order::Gone(backends));
        }
    }

    /// Also ends the sockets of backends that went earlier, whenever that was. Returns at once.
    pub fn sweep(&self) {
        self.order(Order::Sweep);
    }

    /// Where nobody served, somebody may. Returns at once.
    pub fn maps_changed(&self) {
        self.order(Order::MapsChanged);
    }

    fn order(&self, order: Order) {
        if self.orders.send(order).is_err() {
            warn!("the thread that ends the sockets of gone backends has died; restart the agent");
        }
    }
}

struct Worker<K, R> {
    kernel: K,
    tcp: TcpPolicy,
    report: R,
    /// Looked at once, or in vain.
    again: BTreeSet<Suspect>,
    /// The last sweep failed.
    sweep_again: bool,
    /// To be looked at when somebody answers at their frontends.
    waiting: BTreeSet<Waiting>,
    hidden_said: bool,
    /// How many looks failed since the last that did not.
    failed: u32,
}

impl<K: Kernel, R: FnMut(&Outcome)> Worker<K, R> {
    fn run(&mut self, orders: &Receiver<Order>) {
        loop {
            let due = self.sweep_again || !self.again.is_empty();
            let next = due.then(|| Instant::now() + AGAIN.saturating_mul(self.failed.max(1)));
            let Some(orders) = gather(orders, next) else {
                return;
            };
            self.carry_out(orders);
        }
    }

    fn carry_out(&mut self, orders: impl Iterator<Item = Order>) {
        let started = Instant::now();
        let mut suspects = Vec::new();
        let mut sweep = mem::take(&mut self.sweep_again);
        for order in orders {
            match order {
                Order::Gone(backends) => suspects.extend(backends.into_iter().map(Suspect::from)),
                Order::Sweep => sweep = true,
                Order::MapsChanged => {}
            }
        }
        if suspects.is_empty() && self.again.is_empty() && !sweep && !self.is_answered() {
            return;
        }
        let mut outcome = Outcome::default();
        if sweep {
            let (found, of_sweep) = find_suspects(&mut self.kernel, self.tcp.protos());
            suspects.extend(found);
            outcome = of_sweep;
        }
        let seen_before = mem::replace(&mut self.again, suspects.iter().copied().collect());
        suspects.extend(self.waiting.iter().map(|waiting| waiting.suspect));
        let n_suspects = suspects.len() + seen_before.len();
        if n_suspects > 0 {
            outcome = outcome.and(terminate(&mut self.kernel, suspects.into_iter().chain(seen_before.iter().copied())));
        }
        if outcome.failures == 0 {
            self.waiting.clear();
        }
        self.waiting.append(&mut outcome.waiting);
        self.tell(&outcome, n_suspects, started.elapsed());
        if outcome.failures == 0 {
            self.failed = 0;
        } else if self.failed < REPEATED {
            self.failed += 1;
            self.again.extend(seen_before);
            self.sweep_again = sweep;
        }
        (self.report)(&outcome);
        thread::sleep(started.elapsed().saturating_mul(REST).min(AGAIN));
    }

    /// Whether somebody answers where nobody did. Where that cannot be read, the pass will say so.
    fn is_answered(&mut self) -> bool {
        let kernel = &mut self.kernel;
        let mut answered = |waiting: &Waiting| match kernel.holder(waiting.suspect.proto, waiting.frontend) {
            Ok(holder) => holder.is_none_or(|holder| holder.answered),
            Err(_) => true,
        };
        self.waiting.iter().any(&mut answered)
    }

    /// Before [`Self::failed`] counts this one: what fails again was said.
    fn tell(&mut self, outcome: &Outcome, suspects: usize, took: Duration) {
        let Outcome { udp, tcp, namespaces, hidden, failures, .. } = *outcome;
        if udp + tcp > 0 {
            info!(suspects, udp, tcp, namespaces, ?took, "ended the sockets of backends that serve no more");
        } else {
            debug!(suspects, namespaces, ?took, "no socket of a backend that serves no more");
        }
        if hidden > 0 && !mem::replace(&mut self.hidden_said, true) {
            warn!(
                "{hidden} processes below --cgroup-root are outside of this process's pid namespace: their sockets of \
                 dead backends are not ended; give the agent's pod `hostPID: true`"
            );
        }
        match &outcome.first_failure {
            Some(error) if self.failed == 0 => {
                warn!(failures, "sockets of dead backends may live on: {}", describe(error));
            }
            Some(_) | None => {}
        }
    }
}

/// What a failure means and what to do about it.
pub fn describe(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::EOPNOTSUPP) => {
            "this kernel cannot end sockets (SOCK_DESTROY; build it with CONFIG_INET_DIAG_DESTROY)".to_owned()
        }
        Some(libc::ENOENT) => {
            "this kernel lists no sockets (load the modules inet_diag, udp_diag and tcp_diag)".to_owned()
        }
        Some(libc::EACCES) => {
            format!("{error}: other users' processes are not shown to the agent, it needs CAP_SYS_PTRACE")
        }
        Some(libc::EPERM) => format!("{error}: the agent needs CAP_SYS_ADMIN and CAP_NET_ADMIN"),
        _ => error.to_string(),
    }
}

#[cfg(test)]
#[path = "worker_tests.rs"]
mod tests;
