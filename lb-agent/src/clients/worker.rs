//! The thread that keeps the clients' addresses. It is told that something may have changed, and never waited for.

use std::{
    io, mem,
    path::PathBuf,
    sync::mpsc::{Receiver, Sender, channel},
    thread,
    time::{Duration, Instant},
};

use notify::RecommendedWatcher;
use tracing::{debug, warn};

use super::keeper::{Keeper, Kept, Node};
use crate::{cgroups, signs::gather};

/// An address may change without any sign in the cgroups, and a watch may miss something.
const PERIOD: Duration = Duration::from_secs(30);
/// As [`PERIOD`], where the cgroups cannot be watched.
const BLIND_PERIOD: Duration = Duration::from_secs(2);
/// From a change in the cgroups to a second look: a container's first process enters its cgroup before its network
/// namespace.
const AGAIN: Duration = Duration::from_secs(1);
/// A look takes at most this share of a processor while cgroups come and go: after each the thread rests for so many
/// times as long as it took.
const REST: u32 = 9;

enum Sign {
    Services,
    Cgroups,
    End,
}

/// How a look at the node went: what the maps hold now, or one line about what failed.
pub type Look = Result<Kept, String>;

/// A handle on the thread. Dropped, it ends; the maps stay as they are.
pub struct ClientAddresses {
    signs: Sender<Sign>,
}

impl ClientAddresses {
    /// Starts the thread. `cgroup_root` is watched for new containers; `report` is told how each look went, on the thread.
    ///
    /// # Errors
    /// The maps cannot be read, or no thread can be had.
    pub fn start<N: Node + Send + 'static>(
        node: N,
        cgroup_root: PathBuf,
        report: impl FnMut(Look) + Send + 'static,
    ) -> io::Result<Self> {
        let keeper = Keeper::new(node)?;
        let (signs, received) = channel();
        let signs_of_watch = signs.clone();
        let worker = Worker {
            keeper,
            report,
            cgroup_root,
            signs: signs_of_watch,
            watch: None,
            next: None,
            failing: false,
            unsure: false,
        };
        thread::Builder::new().name("clients".to_owned()).spawn(move || worker.run(&received))?;
        Ok(Self { signs })
    }

    /// Services may have got or lost ranges. Returns at once.
    pub fn services_changed(&self) {
        if self.signs.send(Sign::Services).is_err() {
            warn!("the thread that keeps the clients' addresses has died; restart the agent");
        }
    }
}

impl Drop for ClientAddresses {
    fn drop(&mut self) {
        // An error means that it has ended already.
        self.signs.send(Sign::End).unwrap_or_default();
    }
}

struct Worker<N, R> {
    keeper: Keeper<N>,
    report: R,
    cgroup_root: PathBuf,
    signs: Sender<Sign>,
    watch: Option<RecommendedWatcher>,
    /// When to look next, if at all.
    next: Option<Instant>,
    failing: bool,
    /// It could not be read which Services have ranges: that is tried again.
    unsure: bool,
}

impl<N: Node, R: FnMut(Look)> Worker<N, R> {
    fn run(mut self, signs: &Receiver<Sign>) {
        if self.keeper.is_active() {
            self.begin();
        }
        while let Some(signs) = gather(signs, self.next) {
            let (mut services, mut cgroups) = (false, false);
            for sign in signs {
                match sign {
                    Sign::Services => services = true,
                    Sign::Cgroups => cgroups = true,
                    Sign::End => return,
                }
            }
            if services || self.unsure {
                self.compare();
            }
            self.look(cgroups);
        }
    }

    fn compare(&mut self) {
        let result = self.keeper.services_changed();
        self.unsure = result.is_err();
        match result {
            // It may have been woken for this alone.
            Ok(false) if !self.keeper.is_active() => self.next = None,
            Ok(false) => {}
            Ok(true) if self.keeper.is_active() => self.begin(),
            Ok(true) => {
                self.watch = None;
                self.next = None;
                (self.report)(Ok(self.keeper.kept()));
            }
            Err(error) => {
                self.failed(&error);
                let again = Instant::now() + BLIND_PERIOD;
                let look = self.next.filter(|_| self.keeper.is_active());
                self.next = Some(look.map_or(again, |look| look.min(again)));
            }
        }
    }

    /// Some Service has ranges.
    fn begin(&mut self) {
        self.next = Some(Instant::now());
        let signs = self.signs.clone();
        // Containers come and go as cgroups do. An error of sending means that the thread has ended, or is about to.
        self.watch = match cgroups::watch(&self.cgroup_root, move || signs.send(Sign::Cgroups).unwrap_or_default()) {
            Ok(watch) => Some(watch),
            Err(error) => {
                let period = BLIND_PERIOD;
                warn!("new pods are looked for every {period:?} only, for loadBalancerSourceRanges: {error}");
                None
            }
        };
    }

    /// If it is time to, or the cgroups have changed.
    fn look(&mut self, cgroups: bool) {
        let now = Instant::now();
        let Some(next) = self.next.filter(|next| self.keeper.is_active() && (cgroups || *next <= now)) else {
            return;
        };
        match self.keeper.look() {
            Ok(()) => {
                self.failing = false;
                (self.report)(Ok(self.keeper.kept()));
            }
            Err(error) => self.failed(&error),
        }
        let took = now.elapsed();
        debug!(?took, "looked for the addresses of clients");
        let period = if self.watch.is_some() && !self.failing { PERIOD } else { BLIND_PERIOD };
        // Not put off by further changes: each is looked at within that time.
        let again = if cgroups { now + AGAIN } else { now + period };
        self.next = Some(if next > now { again.min(next) } else { again });
        thread::sleep(took.saturating_mul(REST).min(AGAIN));
    }

    fn failed(&mut self, error: &io::Error) {
        let text = format!("pods may be refused by Services with loadBalancerSourceRanges: {}", describe(error));
        if !mem::replace(&mut self.failing, true) {
            warn!("{text}");
        }
        (self.report)(Err(text));
    }
}

fn describe(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::ENOPROTOOPT) => {
            "this kernel does not tell cookies of network namespaces (SO_NETNS_COOKIE, Linux 5.14)".to_owned()
        }
        Some(libc::EACCES | libc::EPERM) => format!("{error}: the agent needs CAP_SYS_ADMIN and CAP_SYS_PTRACE"),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, net::Ipv4Addr};

    use super::{
        super::keeper::{Client, Seen},
        *,
    };

    /// A node with one client, of which it cannot be read at first whether some Service has ranges.
    struct Flaky {
        failures: u32,
    }

    impl Node for Flaky {
        fn has_ranges(&mut self) -> io::Result<bool> {
            match self.failures.checked_sub(1) {
                Some(fewer) => {
                    self.failures = fewer;
                    Err(io::ErrorKind::OutOfMemory.into())
                }
                None => Ok(true),
            }
        }

        fn clients(&mut self) -> io::Result<Seen> {
            let client = Client { v4: Some(Ipv4Addr::LOCALHOST), v6: None };
            Ok(Seen { clients: [(1, client)].into(), trouble: None })
        }

        fn known(&mut self) -> io::Result<BTreeMap<u64, Client>> {
            Ok(BTreeMap::new())
        }

        fn put(&mut self, _: u64, _: &Client) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn where_it_could_not_be_read_who_has_ranges_that_is_tried_again() {
        let directory = tempfile::tempdir().unwrap();
        let (told, looks) = channel();
        let report = move |look| told.send(look).unwrap_or_default();
        let clients = ClientAddresses::start(Flaky { failures: 1 }, directory.path().to_owned(), report).unwrap();
        clients.services_changed();
        let next = || looks.recv_timeout(Duration::from_secs(20)).unwrap();
        assert!(next().is_err());
        assert_eq!(next(), Ok(Kept { v4: 1, v6: 0 }));
    }
}
