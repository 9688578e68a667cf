//! What the kernel programs log. They do so only about damaged maps (`lb-ebpf/src/kernel.rs`), so a thread of its own that
//! sleeps costs nothing and needs nobody to poll it. Where maps are damaged a program may log for every connection; what
//! is written for people is less ([`Pace`]), and the counter of damaged maps has them all.

use std::{
    io,
    os::fd::AsFd as _,
    sync::{Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use aya::Ebpf;
use aya_log::EbpfLogger;
use log::{Log, Metadata, Record};
use rustix::event::{PollFd, PollFlags, poll};

use super::error::OpenError;

/// From one line to the next.
const PAUSE: Duration = Duration::from_secs(1);

/// Forwards the programs' log to this process's, for as long as it lives.
pub(super) fn forward(ebpf: &mut Ebpf) -> Result<(), OpenError> {
    let refused = |reason: String| OpenError::Program { program: "log".to_owned(), reason };
    let paced = Paced { log: log::logger(), pace: Mutex::default() };
    let mut logger = EbpfLogger::init_with_logger(ebpf, paced).map_err(|error| refused(error.to_string()))?;
    let forward = move || {
        loop {
            let waited = poll(&mut [PollFd::new(&logger.as_fd(), PollFlags::IN)], None).map_err(io::Error::from);
            match waited {
                Ok(_) => logger.flush(),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    tracing::warn!(%error, "the kernel programs' log can no longer be read");
                    return;
                }
            }
        }
    };
    let thread = thread::Builder::new().name("kernel-log".to_owned()).spawn(forward);
    thread.map(drop).map_err(|error| refused(error.to_string()))
}

/// When the last line was let through.
#[derive(Debug, Default)]
struct Pace {
    last: Option<Instant>,
}

impl Pace {
    /// Whether a line may be written now.
    fn admits(&mut self, now: Instant) -> bool {
        let due = self.last.is_none_or(|last| now.saturating_duration_since(last) >= PAUSE);
        if due {
            self.last = Some(now);
        }
        due
    }
}

/// A log that lets one line through in each [`PAUSE`].
struct Paced<L> {
    log: L,
    pace: Mutex<Pace>,
}

impl<L: Log> Log for Paced<L> {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        self.log.enabled(metadata)
    }

    fn log(&self, record: &Record<'_>) {
        if self.pace.lock().unwrap_or_else(PoisonError::into_inner).admits(Instant::now()) {
            self.log.log(record);
        }
    }

    fn flush(&self) {
        self.log.flush();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[test]
    fn a_line_is_let_through_at_once_and_the_next_after_a_pause() {
        let (mut pace, start) = (Pace::default(), Instant::now());
        let admitted = |pace: &mut Pace, after: Duration| pace.admits(start + after);
        assert!(admitted(&mut pace, Duration::ZERO));
        assert!(!admitted(&mut pace, PAUSE / 2));
        assert!(!admitted(&mut pace, PAUSE - Duration::from_nanos(1)), "those left out do not prolong the pause");
        assert!(admitted(&mut pace, PAUSE));
        assert!(!admitted(&mut pace, PAUSE + PAUSE / 2));
    }

    #[derive(Default)]
    struct Counting(AtomicU32);

    impl Log for Counting {
        fn enabled(&self, _: &Metadata<'_>) -> bool {
            true
        }

        fn log(&self, _: &Record<'_>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }

        fn flush(&self) {}
    }

    #[test]
    fn a_thousand_lines_about_damaged_maps_are_written_as_few() {
        let paced = Paced { log: Counting::default(), pace: Mutex::default() };
        let start = Instant::now();
        for _ in 0..1000 {
            paced.log(&Record::builder().args(format_args!("the maps are damaged")).build());
        }
        let most = 1 + start.elapsed().as_secs();
        let written = u64::from(paced.log.0.load(Ordering::Relaxed));
        assert!((1..=most).contains(&written), "{written} lines, not 1 to {most}");
    }
}
