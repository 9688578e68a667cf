//! The task that has a [`Keeper`] follow the node's network while the agent runs.

use std::{
    io,
    net::IpAddr,
    time::{Duration, Instant},
};

use tokio::{
    sync::watch,
    task::spawn_blocking,
    time::{sleep, timeout_at},
};

use super::{
    keeper::{Keeper, Outcome},
    read,
    store::DeviceStore,
};
use crate::netlink::changes::{Changes, LinkRef, Listening};

/// Changes come in bursts: a new pod is a dozen of them. So long after a pass they are collected for the next one.
const BURST: Duration = Duration::from_millis(50);
/// Nobody tells of other changes: of programs that somebody takes away, and of settings of the node.
const AT_LEAST_EVERY: Duration = Duration::from_secs(30);

/// Makes a pass at once, after each change of the network or of the Node object's addresses, when the last one asked for
/// it, and now and then. `tell` hears of each. A device that the keeper waits for is no part of a burst: until it has its
/// programs, the node itself answers what comes by it.
///
/// # Errors
/// The kernel does not tell of changes any more. A pass that fails is repeated.
pub async fn keep<S: DeviceStore + Send + 'static>(
    mut keeper: Keeper<S>,
    changes: Changes,
    mut node: watch::Receiver<Vec<IpAddr>>,
    tell: impl Fn(Outcome),
) -> io::Result<()> {
    let changes = changes.listen()?;
    // The Node object is not waited for any more when its source has ended, which ends the agent too.
    let mut is_told = true;
    loop {
        let addresses = node.borrow_and_update().clone();
        let pass = spawn_blocking(move || {
            let outcome = pass(&mut keeper, &addresses);
            (keeper, outcome)
        });
        let (back, outcome) = pass.await.map_err(io::Error::other)?;
        keeper = back;
        let rested = Instant::now() + BURST;
        let pause = outcome.again.map_or(AT_LEAST_EVERY, |at| at.saturating_duration_since(Instant::now()));
        tell(outcome);
        tokio::select! {
            due = settled(&changes, rested, |link| keeper.awaits(link.index, &link.name)) => due?,
            changed = node.changed(), if is_told => is_told = changed.is_ok(),
            () = sleep(pause.min(AT_LEAST_EVERY)) => {}
        }
    }
}

/// Completes when a change asks for a pass: not before `rested`, unless it is of a link that is `urgent`.
async fn settled(changes: &Listening, rested: Instant, urgent: impl Fn(&LinkRef) -> bool) -> io::Result<()> {
    let mut told = changes.changed().await?;
    while !told.iter().any(&urgent) {
        match timeout_at(rested.into(), changes.changed()).await {
            Ok(more) => told = more?,
            Err(_elapsed) => break,
        }
    }
    Ok(())
}

/// One pass, in the calling thread's network namespace. Blocks for some milliseconds, the first one for a second or two.
fn pass<S: DeviceStore>(keeper: &mut Keeper<S>, node: &[IpAddr]) -> Outcome {
    let now = Instant::now();
    match read::network() {
        Ok(network) => keeper.pass(&network, node, now),
        Err(error) => keeper.blind(&error, now),
    }
}
