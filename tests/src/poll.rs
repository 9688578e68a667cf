//! Waiting for something to become true: the only way to wait in these tests.

use std::{
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};

/// How long things that happen at once on an idle machine may take on a busy one.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Asks `probe` until it gives a value; an error of the probe ends the waiting. After `patience` the error names
/// `what` did not come.
pub fn eventually<T>(what: &str, patience: Duration, mut probe: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let start = Instant::now();
    let mut pause = Duration::from_millis(1);
    loop {
        if let Some(value) = probe()? {
            return Ok(value);
        }
        if start.elapsed() > patience {
            bail!("waited {patience:?} in vain: {what}");
        }
        sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(20));
    }
}
