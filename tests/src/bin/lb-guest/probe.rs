//! Probes: what a client meets at an address, told with all that it can see. Judges nothing.

use std::{
    net::SocketAddr,
    thread,
    time::{Duration, Instant},
};

use lb_tests::guest::{Attempt, Failure, ProbeSpec, Traffic};

use crate::socket::Conversation;

/// Runs the probes at the same time, each in one thread from its first socket to its last.
pub(crate) fn run_all(specs: &[ProbeSpec]) -> Result<Vec<Vec<Attempt>>, Failure> {
    thread::scope(|scope| {
        let threads: Vec<_> = specs.iter().map(|&spec| scope.spawn(move || run(spec))).collect();
        let panicked = |_| Failure { call: "thread".to_owned(), errno: "panic".to_owned() };
        threads.into_iter().map(|thread| thread.join().map_err(panicked)?).collect()
    })
}

fn run(spec: ProbeSpec) -> Result<Vec<Attempt>, Failure> {
    let (start, budget) = (Instant::now(), Duration::from_millis(spec.budget_ms));
    let mut attempts = Vec::new();
    for _ in 0..spec.attempts {
        let attempt = once(spec)?;
        let again = !is_slow(&attempt) && start.elapsed() < budget;
        attempts.push(attempt);
        if !again {
            break;
        }
    }
    Ok(attempts)
}

/// Whether it ended by waiting: the next would have to wait as well.
fn is_slow(attempt: &Attempt) -> bool {
    let is_silent = |failure: &Failure| failure.is_silence() || attempt.repeats > 0;
    attempt.end.as_ref().is_err_and(is_silent)
}

fn once(spec: ProbeSpec) -> Result<Attempt, Failure> {
    let mut socket = Conversation::new(Duration::from_millis(spec.patience_ms), spec.traffic, spec.target)?;
    Ok(match ask(&mut socket, spec) {
        Ok((answer, peer)) => Attempt { end: Ok(answer), peer, repeats: 0 },
        Err(failure) => Attempt { end: Err(failure), peer: None, repeats: socket.repeats()? },
    })
}

fn ask(socket: &mut Conversation, spec: ProbeSpec) -> Result<(String, Option<SocketAddr>), Failure> {
    socket.begin()?;
    if spec.traffic == Traffic::UdpUnconnected {
        socket.send_to(spec.target.on_the_socket())?;
        let answer = socket.receive()?;
        return Ok((answer.name, answer.from));
    }
    let answer = socket.ask()?;
    Ok((answer, socket.names()?.peer))
}
