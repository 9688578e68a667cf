//! Waiting for something to become true: the only way to wait in these tests.

use std::{
    env,
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};

/// How long things that happen at once on an idle machine may take on a busy one.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// How many times slower than usual this machine is, as the environment says (`LB_SLOWNESS`): a virtual one without KVM is.
fn slowness() -> u32 {
    env::var("LB_SLOWNESS").ok().and_then(|text| text.parse().ok()).unwrap_or(1)
}

/// Asks `probe` until it gives a value; an error of the probe ends the waiting. After `patience` (times `LB_SLOWNESS`) the
/// error names what did not come.
pub fn eventually<T>(what: &str, patience: Duration, mut probe: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let patience = patience * slowness();
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
