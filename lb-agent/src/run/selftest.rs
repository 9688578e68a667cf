//! When the programs are tested, and what is said of it. Programs that do not work are said to be so by /healthz and
//! `status`, but the maps are kept up to date all the same: what already works for somebody must go on.

use std::{
    error::Error,
    time::{Duration, SystemTime},
};

use tracing::{error, info};

use crate::observe::{Observer, SelfTest};

/// From the end of a test that failed to the next.
const PAUSE: Duration = Duration::from_secs(10);

/// The test did not pass; why is in the observer's state.
#[derive(Debug)]
pub(super) struct Failed;

/// Does the test and notes its result. A reason is logged once, until it changes.
pub(super) fn note<E: Error + Send + Sync + 'static>(
    observer: &Observer,
    test: impl FnOnce() -> Result<(), E>,
) -> Result<(), Failed> {
    let failure = test().err().map(|error| format!("{:#}", anyhow::Error::new(error)));
    let result = failure.clone().map_or(SelfTest::Passed, SelfTest::Failed);
    let is_new = observer.update(|state| state.take_self_test(result, SystemTime::now()));
    let Some(text) = failure else { return Ok(()) };
    if is_new {
        error!("{text}; tested again every {} s", PAUSE.as_secs());
    }
    Err(Failed)
}

/// After a first failure: does the test again and again until it passes, then says `ready` if all else is.
pub(super) async fn repeat<E: Error + Send + Sync + 'static>(
    observer: Observer,
    mut test: impl FnMut() -> Result<(), E> + Send + 'static,
) {
    loop {
        tokio::time::sleep(PAUSE).await;
        let here = observer.clone();
        // It blocks: a connection that no program refuses is waited for.
        let done = tokio::task::spawn_blocking(move || {
            let result = note(&here, &mut test);
            (result, test)
        });
        match done.await {
            Ok((Ok(()), _)) => {
                info!("the programs were seen to work");
                return say_ready(&observer);
            }
            Ok((Err(Failed), again)) => test = again,
            Err(failed) => return error!("the self-test is not repeated any more: {failed}; start the agent again"),
        }
    }
}

/// Says `ready` once, when the first full lists are in the maps and the programs were seen to work.
pub(super) fn say_ready(observer: &Observer) {
    let (ready, services, not_fitting) =
        observer.update(|state| (state.becomes_ready(), state.report.usage.services, state.report.not_fitting));
    if ready {
        info!(target: "lb_agent", services, not_fitting, "ready");
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::observe::health::healthz;

    #[tokio::test(start_paused = true)]
    async fn a_failed_self_test_is_repeated_until_it_passes_and_health_follows() {
        let observer = Observer::default();
        observer.update(|state| state.report.synced = Some(SystemTime::now()));
        let mut results = vec![Ok(()), Err("the second reason"), Err("the first reason")];
        let mut test = move || results.pop().unwrap_or(Ok(())).map_err(std::io::Error::other);
        let is_healthy =
            |observer: &Observer| healthz(&observer.state(), Instant::now(), SystemTime::now()).is_healthy();

        assert!(note(&observer, &mut test).is_err());
        assert!(!is_healthy(&observer));
        let repeating = tokio::spawn(repeat(observer.clone(), test));
        tokio::time::timeout(3 * PAUSE, repeating).await.expect("it passes the second time").unwrap();
        assert!(is_healthy(&observer));
        let state = observer.state();
        assert_eq!(state.last_error.map(|error| error.text), Some("the second reason".to_owned()));
        assert!(!observer.update(|state| state.becomes_ready()), "ready was said");
    }
}
