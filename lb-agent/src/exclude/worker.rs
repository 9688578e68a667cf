//! The thread that keeps the excluded cgroups. It is told of Pods, and never waited for.

use std::{
    io, mem,
    path::PathBuf,
    sync::mpsc::{Receiver, Sender, channel},
    thread,
    time::{Duration, Instant},
};

use notify::RecommendedWatcher;
use tracing::warn;

use super::keeper::{Keeper, Kept, Node};
use crate::{cgroups, event::PodChange, signs::gather};

/// A watch may miss a cgroup that is made within a new one.
const PERIOD: Duration = Duration::from_secs(30);
/// As [`PERIOD`], where the cgroups cannot be watched, or the maps cannot be written.
const BLIND_PERIOD: Duration = Duration::from_secs(2);
/// From a change in the cgroups to a second look, for the same reason.
const AGAIN: Duration = Duration::from_millis(200);
/// A look takes at most this share of a processor while cgroups come and go: after each the thread rests for so many
/// times as long as it took.
const REST: u32 = 4;

enum Sign {
    Pods(PodChange),
    Cgroups,
    End,
}

/// How a look at the node went: what the maps hold now, or one line about what failed.
pub type Look = Result<Kept, String>;

/// A handle on the thread. Dropped, it ends; the maps stay as they are.
pub struct Exclusions {
    signs: Sender<Sign>,
}

impl Exclusions {
    /// Starts the thread, after a first look on the caller's: what the flags exclude is excluded from the first moment.
    /// `cgroup_root` is watched for new cgroups; `report` is told how each look went.
    ///
    /// # Errors
    /// No thread can be had.
    pub fn start<N: Node + Send + 'static>(
        keeper: Keeper<N>,
        cgroup_root: PathBuf,
        report: impl FnMut(Look) + Send + 'static,
    ) -> io::Result<Self> {
        let (signs, received) = channel();
        let of_watch = signs.clone();
        let mut worker =
            Worker { keeper, report, cgroup_root, signs: of_watch, watch: None, next: None, failing: false };
        worker.look();
        thread::Builder::new().name("exclude".to_owned()).spawn(move || worker.run(&received))?;
        Ok(Self { signs })
    }

    /// Something became of this node's Pods. Returns at once.
    pub fn pods_changed(&self, change: PodChange) {
        if self.signs.send(Sign::Pods(change)).is_err() {
            warn!("the thread that keeps the excluded cgroups has died; restart the agent");
        }
    }
}

impl Drop for Exclusions {
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
    /// When to look next without a sign, if at all.
    next: Option<Instant>,
    failing: bool,
}

impl<N: Node, R: FnMut(Look)> Worker<N, R> {
    fn run(mut self, signs: &Receiver<Sign>) {
        while let Some(signs) = gather(signs, self.next) {
            let mut cgroups = false;
            for sign in signs {
                match sign {
                    Sign::Pods(change) => self.keeper.pods_changed(change),
                    Sign::Cgroups => cgroups = true,
                    Sign::End => return,
                }
            }
            let took = self.look();
            if cgroups {
                self.next = self.next.map(|next| next.min(Instant::now() + AGAIN));
            }
            thread::sleep(took.saturating_mul(REST).min(AGAIN));
        }
    }

    /// Looks, if there is anything to look for. Returns how long it took.
    fn look(&mut self) -> Duration {
        let began = Instant::now();
        if !self.keeper.is_active() {
            (self.watch, self.next) = (None, None);
            return Duration::ZERO;
        }
        // Before the look: what comes after it is seen by one of the two.
        if self.watch.is_none() {
            self.watch();
        }
        match self.keeper.look() {
            Ok(()) => {
                self.failing = false;
                (self.report)(Ok(self.keeper.kept()));
            }
            Err(error) => self.failed(&error),
        }
        let period = if self.watch.is_some() && !self.failing { PERIOD } else { BLIND_PERIOD };
        self.next = Some(Instant::now() + period);
        began.elapsed()
    }

    fn watch(&mut self) {
        let signs = self.signs.clone();
        // An error of sending means that the thread has ended, or is about to.
        let watch = cgroups::watch(&self.cgroup_root, move || signs.send(Sign::Cgroups).unwrap_or_default());
        self.watch = watch
            .map_err(|error| {
                if self.next.is_none() {
                    warn!("new workloads are looked for every {BLIND_PERIOD:?} only, for --socket-lb-exclude: {error}");
                }
            })
            .ok();
    }

    fn failed(&mut self, error: &io::Error) {
        let text = format!("workloads may not be excluded from the socket layer as they should: {error}");
        if !mem::replace(&mut self.failing, true) {
            warn!("{text}");
        }
        (self.report)(Err(text));
    }
}
