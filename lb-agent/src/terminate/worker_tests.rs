//! The thread with a kernel that has nothing to do but to be asked.

use std::{net::SocketAddr, sync::mpsc};

use super::*;
use crate::{
    reconcile::GoneBackend,
    terminate::{Connected, Found, Translation},
};

/// One namespace with one socket of each protocol, whose backend `.1` is gone.
struct OneSocket;

fn backend() -> Translation {
    Translation { addr: SocketAddr::from(([10, 0, 0, 1], 53)), service: 7, backend: 1 }
}

fn gone(proto: Proto) -> GoneBackend {
    let Translation { addr, service, backend } = backend();
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
        let local = SocketAddr::from(([10, 0, 0, 9], 4000));
        Ok(vec![Connected { proto, local, remote: backend().addr, interface: 0, cookie: [0; 8] }])
    }

    fn translation(&mut self, _: &Connected) -> io::Result<Option<Translation>> {
        Ok(Some(backend()))
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
fn start(tcp: TcpPolicy) -> (Terminator, mpsc::Receiver<(u64, u64)>) {
    let (sender, passes) = channel();
    let report = move |outcome: &Outcome| sender.send((outcome.udp, outcome.tcp)).unwrap();
    (Terminator::start(OneSocket, tcp, report).unwrap(), passes)
}

fn next(passes: &mpsc::Receiver<(u64, u64)>) -> (u64, u64) {
    passes.recv_timeout(Duration::from_secs(60)).unwrap()
}

#[test]
fn a_batch_is_looked_at_twice_and_then_forgotten() {
    let (terminator, passes) = start(TcpPolicy::Never);
    terminator.gone(vec![gone(Proto::Udp)]);
    assert_eq!([next(&passes), next(&passes)], [(1, 0), (1, 0)]);
    drop(terminator);
    assert!(passes.recv().is_err(), "it has ended without a third look");
}

#[test]
fn tcp_connections_are_ended_only_where_that_was_asked_for() {
    for (policy, expected) in [(TcpPolicy::Never, (1, 0)), (TcpPolicy::Gone, (1, 1))] {
        let (terminator, passes) = start(policy);
        terminator.gone(vec![gone(Proto::Tcp), gone(Proto::Udp)]);
        assert_eq!(next(&passes), expected);
        terminator.sweep();
        assert_eq!(next(&passes), expected, "also by the sweep");
    }
}
