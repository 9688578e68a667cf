//! The task that has a [`Keeper`] follow the node's network while the agent runs.

use std::{
    io,
    net::IpAddr,
    time::{Duration, Instant},
};

use tokio::{sync::watch, task::spawn_blocking, time::sleep};

use super::{
    keeper::{Keeper, Outcome},
    read,
    store::DeviceStore,
};
use crate::netlink::changes::Changes;

/// Changes come in bursts: a new pod is a dozen of them.
const BURST: Duration = Duration::from_millis(50);
/// Nobody tells of other changes: of programs that somebody takes away, and of settings of the node.
const AT_LEAST_EVERY: Duration = Duration::from_secs(30);

/// Makes a pass at once, after each change of the network or of the Node object's addresses, when the last one asked for
/// it, and now and then. `tell` hears of each.
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
        let pause = outcome.again.map_or(AT_LEAST_EVERY, |at| at.saturating_duration_since(Instant::now()));
        tell(outcome);
        tokio::select! {
            changed = changes.changed() => {
                changed?;
                sleep(BURST).await;
            }
            changed = node.changed(), if is_told => is_told = changed.is_ok(),
            () = sleep(pause.min(AT_LEAST_EVERY)) => {}
        }
    }
}

/// One pass, in the calling thread's network namespace. Blocks for some milliseconds, the first one for a second or two.
fn pass<S: DeviceStore>(keeper: &mut Keeper<S>, node: &[IpAddr]) -> Outcome {
    let now = Instant::now();
    match read::network() {
        Ok(network) => keeper.pass(&network, node, now),
        Err(error) => keeper.blind(&error, now),
    }
}
