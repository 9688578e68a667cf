//! Load: new sockets at a steady rate, one question on each.

use std::{
    sync::{Arc, Mutex, PoisonError},
    thread::{self, JoinHandle},
    time::Duration,
};

use lb_tests::guest::{Failure, LoadReport, LoadSpec};

use crate::{pace::Stop, socket::Conversation};

/// Running load.
pub(crate) struct Loading {
    stop: Stop,
    report: Arc<Mutex<LoadReport>>,
    threads: Vec<JoinHandle<()>>,
}

impl Loading {
    /// Starts the threads.
    pub(crate) fn start(spec: LoadSpec) -> Self {
        let stop = Stop::default();
        let report = Arc::new(Mutex::new(LoadReport::default()));
        let interval = Duration::from_secs(1) * spec.threads / spec.per_second.max(1);
        let threads = (0..spec.threads)
            .map(|_| {
                let (stop, report) = (stop.clone(), report.clone());
                thread::spawn(move || stop.beats(interval).for_each(|()| count(&report, &once(spec))))
            })
            .collect();
        Self { stop, report, threads }
    }

    /// So far.
    pub(crate) fn report(&self) -> LoadReport {
        self.report.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits for the last sockets.
    pub(crate) fn stop(self) -> LoadReport {
        self.stop.set();
        for thread in self.threads {
            if thread.join().is_err() {
                count(&self.report, &Err(Failure { call: "thread".to_owned(), errno: "panic".to_owned() }));
            }
        }
        self.report.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn once(spec: LoadSpec) -> Result<String, Failure> {
    Conversation::open(spec.traffic, spec.target)?.ask()
}

fn count(report: &Mutex<LoadReport>, result: &Result<String, Failure>) {
    let mut report = report.lock().unwrap_or_else(PoisonError::into_inner);
    report.attempts += 1;
    match result {
        Ok(name) => *report.answers.entry(name.clone()).or_default() += 1,
        Err(failure) => *report.errors.entry(failure.to_string()).or_default() += 1,
    }
}
