//! The thread that ages: one of its own, so that no change of a Service waits for it, however many clients there are.

use std::{
    io,
    sync::mpsc::{RecvTimeoutError, Sender, channel},
    thread,
    time::Duration,
};

use super::{Aged, age};
use crate::{
    clock,
    datapath::store::{MapStore, StoreError},
};

/// Entries outlive their time by this at most; that costs room only, since the programs look at the time themselves.
const EVERY: Duration = Duration::from_secs(60);

/// What came of one pass.
pub type Pass = Result<Aged, StoreError>;

/// A handle on the thread. Dropped, it ends.
#[derive(Debug)]
pub struct AffinityAging {
    /// Nothing is sent: its end is the sign.
    _end: Sender<()>,
}

impl AffinityAging {
    /// Starts the thread. `report` is told of each pass.
    ///
    /// # Errors
    /// No thread can be started.
    pub fn start<S: MapStore + Send + 'static>(
        mut store: S,
        report: impl Fn(Pass) + Send + 'static,
    ) -> io::Result<Self> {
        let (end, ended) = channel::<()>();
        let body = move || {
            while ended.recv_timeout(EVERY) == Err(RecvTimeoutError::Timeout) {
                report(age(&mut store, clock::monotonic_s()));
            }
        };
        thread::Builder::new().name("affinity".to_owned()).spawn(body)?;
        Ok(Self { _end: end })
    }
}
