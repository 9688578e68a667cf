//! Probes: what a client meets at an address, told with all that it can see. Judges nothing.

use std::{
    net::SocketAddr,
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::{Duration, Instant},
};

use lb_tests::guest::{Attempt, Failure, ProbeSpec, Traffic};

use crate::socket::Conversation;

/// What takes this long is silence, or a word that came late: once is enough.
const SLOW: Duration = Duration::from_millis(250);

/// Probes that are under way at a time: most of the time they wait for silence to end.
const SIDE_BY_SIDE: usize = 64;

/// Runs the probes, each in one thread from its first socket to its last.
pub(crate) fn run_all(specs: &[ProbeSpec]) -> Result<Vec<Vec<Attempt>>, Failure> {
    let next = AtomicUsize::new(0);
    let take = || {
        let number = next.fetch_add(1, Ordering::Relaxed);
        specs.get(number).map(|spec| (number, run(*spec)))
    };
    let mut done: Vec<(usize, Vec<Attempt>)> = thread::scope(|scope| {
        let worker = || scope.spawn(|| std::iter::from_fn(take).collect());
        let threads: Vec<_> = std::iter::repeat_with(worker).take(SIDE_BY_SIDE.min(specs.len())).collect();
        let done: Result<Vec<Vec<_>>, _> = threads.into_iter().map(thread::ScopedJoinHandle::join).collect();
        done.map_err(|_| Failure { call: "thread".to_owned(), errno: "panic".to_owned() })
    })?
    .concat();
    done.sort_by_key(|(number, _)| *number);
    Ok(done.into_iter().map(|(_, attempts)| attempts).collect())
}

fn run(spec: ProbeSpec) -> Vec<Attempt> {
    let patience = Duration::from_millis(spec.patience_ms);
    let mut attempts = Vec::new();
    for _ in 0..spec.attempts {
        let start = Instant::now();
        let (end, peer) = match once(spec, patience) {
            Ok((answer, peer)) => (Ok(answer), peer),
            Err(failure) => (Err(failure), None),
        };
        let took = start.elapsed();
        attempts.push(Attempt { end, peer, took_ms: u64::try_from(took.as_millis()).unwrap_or(u64::MAX) });
        if took >= patience.min(SLOW) {
            break;
        }
    }
    attempts
}

fn once(spec: ProbeSpec, patience: Duration) -> Result<(String, Option<SocketAddr>), Failure> {
    let socket = Conversation::open_within(patience, spec.traffic, spec.target)?;
    if spec.traffic == Traffic::UdpUnconnected {
        socket.send_to(spec.target.on_the_socket())?;
        let answer = socket.receive()?;
        return Ok((answer.name, answer.from));
    }
    let answer = socket.ask()?;
    Ok((answer, socket.names()?.peer))
}
