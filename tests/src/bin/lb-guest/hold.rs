//! Held sockets: opened once, asked again and again, watched for breaks and for answers from somebody else.

use std::{
    sync::{Arc, Mutex, PoisonError},
    thread::{self, JoinHandle},
    time::Duration,
};

use lb_tests::guest::{Failure, HoldReport, HoldSpec};

use crate::{pace::Stop, socket::Conversation};

/// Sockets being held.
pub(crate) struct Holding {
    stop: Stop,
    report: Arc<Mutex<HoldReport>>,
    thread: JoinHandle<()>,
}

struct Held {
    socket: Conversation,
    holder: String,
}

impl Holding {
    /// Opens the sockets and learns who is at the other end of each.
    pub(crate) fn start(spec: HoldSpec) -> Result<Self, Failure> {
        let held = (0..spec.sockets).map(|_| Held::open(spec)).collect::<Result<Vec<_>, _>>()?;
        let mut report = HoldReport::default();
        for socket in &held {
            *report.holders.entry(socket.holder.clone()).or_default() += 1;
        }
        let report = Arc::new(Mutex::new(report));
        let stop = Stop::default();
        let thread = thread::spawn({
            let (stop, report) = (stop.clone(), report.clone());
            move || keep_asking(held, spec, &stop, &report)
        });
        Ok(Self { stop, report, thread })
    }

    /// So far.
    pub(crate) fn report(&self) -> HoldReport {
        self.report.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Closes them.
    pub(crate) fn stop(self) -> HoldReport {
        self.stop.set();
        let panicked = self.thread.join().is_err();
        let mut report = self.report.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if panicked {
            report.breaks.push("the thread that holds the sockets panicked".to_owned());
        }
        report
    }
}

impl Held {
    fn open(spec: HoldSpec) -> Result<Self, Failure> {
        let socket = Conversation::open(spec.traffic, spec.target)?;
        let holder = socket.ask()?;
        Ok(Self { socket, holder })
    }
}

fn keep_asking(mut held: Vec<Held>, spec: HoldSpec, stop: &Stop, report: &Mutex<HoldReport>) {
    for () in stop.beats(Duration::from_millis(spec.interval_ms)) {
        // A broken socket is reported once and closed.
        held.retain_mut(|held| match held.socket.ask() {
            Ok(name) => {
                if name != held.holder {
                    let moved = format!("{} -> {name}", held.holder);
                    report.lock().unwrap_or_else(PoisonError::into_inner).moves.push(moved);
                    held.holder = name;
                }
                true
            }
            Err(failure) => {
                let broken = format!("{} ({})", failure, held.holder);
                report.lock().unwrap_or_else(PoisonError::into_inner).breaks.push(broken);
                false
            }
        });
        report.lock().unwrap_or_else(PoisonError::into_inner).rounds += 1;
    }
}
