//! Ctrl-C and SIGTERM as something to wait for, so that the demo ends by giving back what it made.

use std::{sync::mpsc, thread, time::Duration};

use anyhow::{Context as _, Result};
use tokio::signal::unix::{SignalKind, signal};

/// Whether the demo was asked to end.
pub(crate) struct Stop {
    asked: mpsc::Receiver<()>,
}

impl Stop {
    /// From now on the signals no longer end the process. Handlers, not a blocked mask: the programs that the demo
    /// starts would inherit that.
    pub(crate) fn on_signals() -> Result<Self> {
        let (ask, asked) = mpsc::channel();
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().context("start a tokio runtime")?;
        let (mut interrupt, mut terminate) = {
            let _inside = runtime.enter();
            let interrupt = signal(SignalKind::interrupt()).context("handle SIGINT")?;
            (interrupt, signal(SignalKind::terminate()).context("handle SIGTERM")?)
        };
        thread::spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                }
            });
            // Nobody listens any more: the demo is ending already.
            ask.send(()).unwrap_or_default();
        });
        Ok(Self { asked })
    }

    /// Waits that long, or until asked to end; whether that was so.
    pub(crate) fn wait(&self, at_most: Duration) -> bool {
        !matches!(self.asked.recv_timeout(at_most), Err(mpsc::RecvTimeoutError::Timeout))
    }
}
