//! Passes over namespaces that are made up.

use std::{cell::Cell, net::SocketAddr};

use super::*;

/// A socket, what its storage says, and whether it was ended.
struct Socket {
    socket: Connected,
    translation: Option<Translation>,
    ended: Cell<bool>,
}

/// Namespaces with sockets, and the backends that serve.
#[derive(Default)]
struct Fake {
    namespaces: Vec<Vec<Socket>>,
    serving: Vec<(Proto, Translation)>,
    holders: BTreeMap<SocketAddr, Holder>,
    here: usize,
    broken: Option<usize>,
    trouble: Option<io::Error>,
    lists: usize,
    comparisons: usize,
}

impl Kernel for Fake {
    type Namespace = usize;

    fn namespaces(&mut self) -> io::Result<Found<usize>> {
        let namespaces = (0..self.namespaces.len()).collect();
        Ok(Found { namespaces, hidden: 0, trouble: self.trouble.take() })
    }

    fn enter(&mut self, namespace: &usize) -> io::Result<()> {
        self.here = *namespace;
        if self.broken == Some(*namespace) { Err(io::ErrorKind::PermissionDenied.into()) } else { Ok(()) }
    }

    fn leave(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn connected(&mut self, proto: Proto) -> io::Result<Vec<Connected>> {
        self.lists += 1;
        let sockets = self.namespaces[self.here].iter().map(|socket| &socket.socket);
        Ok(sockets.filter(|socket| socket.proto == proto).cloned().collect())
    }

    fn translation(&mut self, socket: &Connected) -> io::Result<Option<Translation>> {
        Ok(self.find(socket).translation)
    }

    fn holder(&mut self, _: Proto, frontend: SocketAddr) -> io::Result<Option<Holder>> {
        Ok(self.holders.get(&frontend).copied())
    }

    fn destroy(&mut self, socket: &Connected) -> io::Result<()> {
        if self.find(socket).ended.replace(true) { Err(io::ErrorKind::NotFound.into()) } else { Ok(()) }
    }

    fn serves(&mut self, proto: Proto, backend: &Translation) -> io::Result<bool> {
        Ok(self.serving.contains(&(proto, *backend)))
    }

    fn each_serving(&mut self, each: &mut dyn FnMut(Proto, u32, SocketAddr)) -> io::Result<()> {
        self.comparisons += 1;
        for (proto, backend) in &self.serving {
            each(*proto, backend.service, backend.addr);
        }
        Ok(())
    }
}

impl Fake {
    fn find(&self, socket: &Connected) -> &Socket {
        self.namespaces[self.here].iter().find(|known| known.socket == *socket).unwrap()
    }

    fn ended(&self) -> Vec<Vec<bool>> {
        self.namespaces.iter().map(|sockets| sockets.iter().map(|socket| socket.ended.get()).collect()).collect()
    }
}

fn frontend() -> SocketAddr {
    SocketAddr::from(([10, 96, 0, 1], 53))
}

fn backend(number: u8) -> Translation {
    let addr = SocketAddr::from(([10, 0, 0, number], 53));
    Translation { frontend: frontend(), addr, service: 7, backend: number.into() }
}

/// The backend, known to be gone.
fn gone(number: u8) -> Suspect {
    Suspect { proto: Proto::Udp, addr: backend(number).addr, known: Some((7, number.into())) }
}

/// Its address, to be looked into.
fn suspect(proto: Proto, number: u8) -> Suspect {
    Suspect { proto, addr: backend(number).addr, known: None }
}

/// A socket to `peer` that says it was given `translation`.
fn socket(proto: Proto, port: u16, peer: u8, translation: Option<Translation>) -> Socket {
    let local = SocketAddr::from(([10, 0, 0, 99], port));
    let socket = Connected { proto, local, remote: backend(peer).addr, interface: 0, cookie: [0; 8] };
    Socket { socket, translation, ended: Cell::new(false) }
}

#[test]
fn only_sockets_that_were_given_the_gone_backend_are_ended_in_every_namespace() {
    let ours = |port| socket(Proto::Udp, port, 1, Some(backend(1)));
    let mut kernel = Fake {
        namespaces: vec![
            vec![ours(1), socket(Proto::Udp, 2, 1, None), socket(Proto::Udp, 3, 2, Some(backend(2)))],
            vec![ours(1), socket(Proto::Tcp, 1, 1, Some(backend(1)))],
        ],
        ..Fake::default()
    };
    let outcome = terminate(&mut kernel, [gone(1)]);
    assert_eq!(kernel.ended(), [vec![true, false, false], vec![true, false]]);
    assert_eq!((outcome.udp, outcome.tcp, outcome.namespaces, outcome.failures), (2, 0, 2, 0));
}

#[test]
fn a_batch_lists_each_namespace_once_and_reads_the_backends_once_if_at_all() {
    let sockets = |peer| (0..5).map(|port| socket(Proto::Udp, port, peer, Some(backend(peer)))).collect();
    let mut kernel = Fake { namespaces: vec![sockets(1), sockets(2), sockets(3)], ..Fake::default() };
    assert_eq!(terminate(&mut kernel, (100..200).map(gone)).udp, 0);
    assert_eq!((kernel.lists, kernel.comparisons), (3, 0), "nobody was concerned");
    assert_eq!(terminate(&mut kernel, (1..100).map(gone)).udp, 15);
    assert_eq!((kernel.lists, kernel.comparisons), (6, 1));
}

#[test]
fn the_socket_of_an_endpoint_that_is_listed_again_under_another_id_is_left() {
    let again = Translation { backend: 200, ..backend(1) };
    let mut kernel = Fake {
        namespaces: vec![vec![socket(Proto::Udp, 1, 1, Some(backend(1)))]],
        serving: vec![(Proto::Udp, again)],
        ..Fake::default()
    };
    assert_eq!(terminate(&mut kernel, [gone(1)]).udp, 0);
    let (suspects, _) = find_suspects(&mut kernel, &[Proto::Udp]);
    assert_eq!(suspects, [suspect(Proto::Udp, 1)], "by its id it is gone");
    assert_eq!(terminate(&mut kernel, suspects).udp, 0, "and by its address it is not");
    assert_eq!(kernel.ended(), [vec![false]]);
}

#[test]
fn the_sweep_finds_what_serves_no_more_and_only_of_the_protocols_asked_for() {
    let mut kernel = Fake {
        namespaces: vec![vec![
            socket(Proto::Udp, 1, 1, Some(backend(1))),
            socket(Proto::Udp, 2, 2, Some(backend(2))),
            // It was translated once and has another peer now.
            socket(Proto::Udp, 3, 3, Some(backend(4))),
            socket(Proto::Udp, 4, 5, None),
            socket(Proto::Tcp, 1, 6, Some(backend(6))),
        ]],
        serving: vec![(Proto::Udp, backend(2))],
        ..Fake::default()
    };
    let mut find = |protos| find_suspects(&mut kernel, protos).0;
    assert_eq!(find(&[Proto::Udp]), [suspect(Proto::Udp, 1), suspect(Proto::Udp, 3)]);
    let all = [suspect(Proto::Udp, 1), suspect(Proto::Udp, 3), suspect(Proto::Tcp, 6)];
    assert_eq!(find(&[Proto::Udp, Proto::Tcp]), all);
    assert_eq!(terminate(&mut kernel, all).udp, 1);
    assert_eq!(kernel.ended(), [[true, false, false, false, true]]);
}

#[test]
fn a_namespace_that_cannot_be_entered_is_counted_and_the_others_are_done() {
    let ours = || vec![socket(Proto::Udp, 1, 1, Some(backend(1)))];
    let mut kernel = Fake { namespaces: vec![ours(), ours()], broken: Some(0), ..Fake::default() };
    let outcome = terminate(&mut kernel, [gone(1)]);
    assert_eq!(kernel.ended(), [[false], [true]]);
    assert_eq!((outcome.udp, outcome.namespaces, outcome.failures), (1, 1, 1));
    assert_eq!(outcome.first_failure.unwrap().kind(), io::ErrorKind::PermissionDenied);
}

#[test]
fn a_process_that_may_not_be_looked_at_is_a_failure_and_the_others_are_looked_at() {
    let mut kernel = Fake {
        namespaces: vec![vec![socket(Proto::Udp, 1, 1, Some(backend(1)))]],
        trouble: Some(io::ErrorKind::PermissionDenied.into()),
        ..Fake::default()
    };
    let outcome = terminate(&mut kernel, [gone(1)]);
    assert_eq!((outcome.udp, outcome.failures), (1, 1));
}

#[test]
fn a_socket_that_closed_meanwhile_is_no_failure() {
    let mut kernel = Fake { namespaces: vec![vec![socket(Proto::Udp, 1, 1, Some(backend(1)))]], ..Fake::default() };
    kernel.namespaces[0][0].ended.set(true);
    let outcome = terminate(&mut kernel, [gone(1)]);
    assert_eq!((outcome.udp, outcome.failures), (0, 0));
}

#[test]
fn the_sockets_of_a_service_that_was_replaced_by_one_with_the_same_endpoint_are_left() {
    let renamed = Translation { service: 9, backend: 200, ..backend(1) };
    let ours = |port, peer| socket(Proto::Udp, port, peer, Some(backend(peer)));
    let mut kernel = Fake {
        namespaces: vec![vec![ours(1, 1), ours(2, 2)]],
        serving: vec![(Proto::Udp, renamed)],
        holders: [(frontend(), Holder { service: 9, answered: true })].into(),
        ..Fake::default()
    };
    assert_eq!(terminate(&mut kernel, [gone(1), gone(2)]).udp, 1);
    assert_eq!(kernel.ended(), [[false, true]], "the other endpoint is not among those of the new one");
}

#[test]
fn sockets_wait_while_nobody_answers_at_their_frontend_and_end_when_somebody_else_does() {
    let mut kernel = Fake {
        namespaces: vec![vec![socket(Proto::Udp, 1, 1, Some(backend(1)))]],
        holders: [(frontend(), Holder { service: 7, answered: false })].into(),
        ..Fake::default()
    };
    let outcome = terminate(&mut kernel, [gone(1)]);
    assert_eq!(outcome.udp, 0);
    let waiting: Vec<Waiting> = outcome.waiting.into_iter().collect();
    assert_eq!(waiting, [Waiting { suspect: gone(1), frontend: frontend() }]);
    kernel.holders.insert(frontend(), Holder { service: 7, answered: true });
    kernel.serving = vec![(Proto::Udp, backend(2))];
    assert_eq!(terminate(&mut kernel, waiting.into_iter().map(|waiting| waiting.suspect)).udp, 1);
}
