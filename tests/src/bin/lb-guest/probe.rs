//! Probes: what a client meets at an address, told with all that it can see. Judges nothing.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::{Duration, Instant},
};

use lb_tests::guest::{Attempt, Failure, ProbeSpec, Traffic};

use crate::socket::Conversation;

/// Runs the probes, so many at a time, each in one thread from its first socket to its last.
pub(crate) fn run_all(specs: &[ProbeSpec], side_by_side: usize) -> Result<Vec<Vec<Attempt>>, Failure> {
    let next = AtomicUsize::new(0);
    // Whoever is ready takes the next one, so that those that wait for silence hold up nobody.
    let work = || {
        let numbers = std::iter::from_fn(|| Some(next.fetch_add(1, Ordering::Relaxed)));
        let own = numbers.map_while(|number| Some((number, *specs.get(number)?)));
        own.map(|(number, spec)| Ok((number, run(spec)?))).collect::<Result<Vec<_>, Failure>>()
    };
    let mut done = thread::scope(|scope| {
        let threads: Vec<_> = (0..side_by_side.min(specs.len())).map(|_| scope.spawn(work)).collect();
        let panicked = |_| Failure { call: "thread".to_owned(), errno: "panic".to_owned() };
        threads.into_iter().map(|thread| thread.join().map_err(panicked)?).collect::<Result<Vec<_>, _>>()
    })?
    .concat();
    done.sort_unstable_by_key(|(number, _)| *number);
    Ok(done.into_iter().map(|(_, attempts)| attempts).collect())
}

fn run(spec: ProbeSpec) -> Result<Vec<Attempt>, Failure> {
    let (start, budget) = (Instant::now(), Duration::from_millis(spec.budget_ms));
    let (mut attempts, mut ends) = (Vec::new(), BTreeSet::new());
    loop {
        let attempt = once(spec)?;
        ends.insert(format!("{:?}", attempt.end));
        let again = !is_slow(&attempt) && start.elapsed() < budget;
        attempts.push(attempt);
        if !again || spec.enough.is_met(attempts.len(), ends.len()) {
            return Ok(attempts);
        }
    }
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
