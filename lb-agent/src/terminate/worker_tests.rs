//! The thread with a kernel that has nothing to do but to be asked.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, mpsc},
};

use lb_common::abi::Proto;

use super::*;
use crate::{
    reconcile::GoneBackend,
    terminate::{Connected, Found, Holder, Translation},
};

/// One namespace with one socket of each protocol, whose backend is gone, and who holds its frontend.
#[derive(Clone, Default)]
struct OneSocket {
    holder: Arc<Mutex<Option<Holder>>>,
    /// So many times more its sockets cannot be listed.
    fails: Arc<Mutex<u32>>,
}

fn backend() -> Translation {
    let frontend = SocketAddr::from(([10, 96, 0, 1], 53));
    Translation { frontend, addr: SocketAddr::from(([10, 0, 0, 1], 53)), service: 7, backend: 1 }
}

fn gone(proto: Proto) -> GoneBackend {
    let Translation { addr, service, backend, .. } = backend();
    GoneBackend { addr, proto, service, backend }
}

impl Kernel for OneSocket {
    type Namespace = ();

    fn namespaces(&mut self) -> io::Result<Found<()>> {
        Ok(Found { namespaces: vec![()], hidden: 0, trouble: None })
    }

    fn enter(&mut self, (): &()) -> io::Result<()> {
        Ok(())
    }

    fn leave(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn connected(&mut self, proto: Proto) -> io::Result<Vec<Connected>> {
        let mut fails = self.fails.lock().unwrap();
        if *fails > 0 {
            *fails -= 1;
            return Err(io::Error::other("no memory"));
        }
        let local = SocketAddr::from(([10, 0, 0, 9], 4000));
        Ok(vec![Connected { proto, local, remote: backend().addr, interface: 0, cookie: [0; 8] }])
    }

    fn translation(&mut self, _: &Connected) -> io::Result<Option<Translation>> {
        Ok(Some(backend()))
    }

    fn holder(&mut self, _: Proto, _: SocketAddr) -> io::Result<Option<Holder>> {
        Ok(*self.holder.lock().unwrap())
    }

    fn destroy(&mut self, _: &Connected) -> io::Result<()> {
        Ok(())
    }

    fn serves(&mut self, _: Proto, _: &Translation) -> io::Result<bool> {
        Ok(false)
    }

    fn each_serving(&mut self, _: &mut dyn FnMut(Proto, u32, SocketAddr)) -> io::Result<()> {
        Ok(())
    }
}

/// Starts it; the channel gives the numbers of UDP and TCP sockets ended in each pass.
fn start(kernel: OneSocket, tcp: TcpPolicy) -> (Terminator, mpsc::Receiver<(u64, u64)>) {
    let (sender, passes) = channel();
    let report = move |outcome: &Outcome| sender.send((outcome.udp, outcome.tcp)).unwrap();
    (Terminator::start(kernel, tcp, report).unwrap(), passes)
}

fn next(passes: &mpsc::Receiver<(u64, u64)>) -> (u64, u64) {
    passes.recv_timeout(Duration::from_secs(60)).unwrap()
}

#[test]
fn a_batch_is_looked_at_twice_and_then_forgotten() {
    let (terminator, passes) = start(OneSocket::default(), TcpPolicy::Never);
    terminator.gone(vec![gone(Proto::Udp)]);
    assert_eq!([next(&passes), next(&passes)], [(1, 0), (1, 0)]);
    drop(terminator);
    assert!(passes.recv().is_err(), "it has ended without a third look");
}

#[test]
fn a_look_that_failed_is_repeated_until_it_succeeds() {
    for order in [|terminator: &Terminator| terminator.gone(vec![gone(Proto::Udp)]), Terminator::sweep] {
        let kernel = OneSocket::default();
        *kernel.fails.lock().unwrap() = 2;
        let (terminator, passes) = start(kernel, TcpPolicy::Never);
        order(&terminator);
        assert_eq!([next(&passes), next(&passes)], [(0, 0); 2]);
        assert_eq!(next(&passes), (1, 0));
    }
}

#[test]
fn tcp_connections_are_ended_only_where_that_was_asked_for() {
    for (policy, expected) in [(TcpPolicy::Never, (1, 0)), (TcpPolicy::Gone, (1, 1))] {
        let (terminator, passes) = start(OneSocket::default(), policy);
        terminator.gone(vec![gone(Proto::Tcp), gone(Proto::Udp)]);
        assert_eq!(next(&passes), expected);
        terminator.sweep();
        assert_eq!(next(&passes), expected, "also by the sweep");
    }
}

#[test]
fn sockets_that_wait_are_looked_at_when_somebody_answers_at_their_frontend() {
    let kernel = OneSocket::default();
    let hold = |answered| *kernel.holder.lock().unwrap() = Some(Holder { service: 7, answered });
    hold(false);
    let (terminator, passes) = start(kernel.clone(), TcpPolicy::Never);
    terminator.gone(vec![gone(Proto::Udp)]);
    assert_eq!([next(&passes), next(&passes)], [(0, 0), (0, 0)]);
    terminator.maps_changed();
    terminator.sweep();
    assert_eq!([next(&passes), next(&passes)], [(0, 0), (0, 0)], "of the sweep: the change was of no concern");
    hold(true);
    terminator.maps_changed();
    assert_eq!(next(&passes), (1, 0));
    drop(terminator);
    assert!(passes.recv().is_err(), "nothing waits any more");
}
