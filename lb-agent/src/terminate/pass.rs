//! One pass over a node's network namespaces for a whole batch of gone backends, in terms of [`Kernel`].
//!
//! A namespace's sockets are listed once a pass, however many backends are gone; the list is asked for by protocol, and
//! only sockets whose peer is a gone backend are looked into.

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    io,
    net::SocketAddr,
};

use lb_common::abi::Proto;

use super::{Connected, Holder, Suspect, Suspects, Translation, Verdict};

/// What a pass needs of the system.
pub trait Kernel {
    /// A network namespace.
    type Namespace;
    /// All namespaces where our sockets may be.
    fn namespaces(&mut self) -> io::Result<Found<Self::Namespace>>;
    /// The next calls are about this one.
    fn enter(&mut self, namespace: &Self::Namespace) -> io::Result<()>;
    /// After the last one.
    fn leave(&mut self) -> io::Result<()>;
    /// The sockets that have a peer.
    fn connected(&mut self, proto: Proto) -> io::Result<Vec<Connected>>;
    /// What the socket's storage says, if one of our programs translated it.
    fn translation(&mut self, socket: &Connected) -> io::Result<Option<Translation>>;
    /// Who holds this frontend now.
    fn holder(&mut self, proto: Proto, frontend: SocketAddr) -> io::Result<Option<Holder>>;
    /// Ends exactly this socket. [`io::ErrorKind::NotFound`] where it is gone.
    fn destroy(&mut self, socket: &Connected) -> io::Result<()>;
    /// Whether the backend of that id is that one, and keeps its clients.
    fn serves(&mut self, proto: Proto, backend: &Translation) -> io::Result<bool>;
    /// Hands out every backend that keeps its clients: protocol, Service-port id, address.
    fn each_serving(&mut self, each: &mut dyn FnMut(Proto, u32, SocketAddr)) -> io::Result<()>;
}

/// What [`Kernel::namespaces`] found.
#[derive(Debug)]
pub struct Found<N> {
    /// Each once.
    pub namespaces: Vec<N>,
    /// Processes that could not be seen.
    pub hidden: usize,
    /// Why others could not be looked at.
    pub trouble: Option<io::Error>,
}

/// Sockets that have lost their backend and are left alone while nobody answers at their frontend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Waiting {
    /// Found by this.
    pub suspect: Suspect,
    /// The frontend.
    pub frontend: SocketAddr,
}

/// How a pass went.
#[derive(Debug, Default)]
pub struct Outcome {
    /// UDP sockets that were ended.
    pub udp: u64,
    /// TCP connections that were ended.
    pub tcp: u64,
    /// Namespaces that were looked into.
    pub namespaces: usize,
    /// Processes below the cgroup root that the agent cannot see.
    pub hidden: usize,
    /// What has to be looked at again.
    pub waiting: BTreeSet<Waiting>,
    /// What could not be done.
    pub failures: u64,
    /// The first of these.
    pub first_failure: Option<io::Error>,
}

impl Outcome {
    fn failed(&mut self, error: io::Error) {
        self.failures += 1;
        self.first_failure.get_or_insert(error);
    }

    fn ended(&mut self, proto: Proto) {
        match proto {
            Proto::Udp => self.udp += 1,
            Proto::Tcp => self.tcp += 1,
        }
    }

    /// Both together.
    #[must_use]
    pub fn and(mut self, next: Self) -> Self {
        self.waiting.extend(next.waiting);
        Self {
            udp: self.udp + next.udp,
            tcp: self.tcp + next.tcp,
            namespaces: self.namespaces.max(next.namespaces),
            hidden: self.hidden.max(next.hidden),
            waiting: self.waiting,
            failures: self.failures + next.failures,
            first_failure: self.first_failure.or(next.first_failure),
        }
    }
}

/// Ends the sockets that have lost their backend, of those whose peer is a suspect.
pub fn terminate<K: Kernel>(kernel: &mut K, suspects: impl IntoIterator<Item = Suspect>) -> Outcome {
    let mut batch = Batch { suspects: suspects.into_iter().collect(), holders: BTreeMap::new() };
    over_namespaces(kernel, |kernel, outcome| batch.in_namespace(kernel, outcome))
}

/// Finds what sockets were given that does not serve under its id, whenever it went: for those that went while no agent
/// ran. The same peer is found once for each socket.
pub fn find_suspects<K: Kernel>(kernel: &mut K, protos: &[Proto]) -> (Vec<Suspect>, Outcome) {
    let mut suspects = Vec::new();
    let outcome = over_namespaces(kernel, |kernel, _| {
        for proto in protos {
            for socket in kernel.connected(*proto)? {
                if let Some(translation) = kernel.translation(&socket)?
                    && !kernel.serves(*proto, &translation)?
                {
                    suspects.push(Suspect { proto: *proto, addr: socket.peer(), known: None });
                }
            }
        }
        Ok(())
    });
    (suspects, outcome)
}

/// One namespace's failure does not keep the others.
fn over_namespaces<K: Kernel>(kernel: &mut K, mut look: impl FnMut(&mut K, &mut Outcome) -> io::Result<()>) -> Outcome {
    let mut outcome = Outcome::default();
    let namespaces = match kernel.namespaces() {
        Ok(Found { namespaces, hidden, trouble }) => {
            outcome.hidden = hidden;
            trouble.into_iter().for_each(|error| outcome.failed(error));
            namespaces
        }
        Err(error) => {
            outcome.failed(error);
            return outcome;
        }
    };
    for namespace in &namespaces {
        match kernel.enter(namespace).and_then(|()| look(kernel, &mut outcome)) {
            Ok(()) => outcome.namespaces += 1,
            Err(error) => outcome.failed(error),
        }
    }
    if let Err(error) = kernel.leave() {
        outcome.failed(error);
    }
    outcome
}

/// Suspects and what is known of them.
struct Batch {
    suspects: Suspects,
    /// Who held the frontends of the sockets that were found before it was read who serves: one that has taken a
    /// frontend over since may serve and not be known for it.
    holders: BTreeMap<(Proto, SocketAddr), Option<Holder>>,
}

impl Batch {
    fn in_namespace<K: Kernel>(&mut self, kernel: &mut K, outcome: &mut Outcome) -> io::Result<()> {
        for (socket, translation) in self.candidates(kernel)? {
            let at = (socket.proto, translation.frontend);
            let holder = kernel.holder(at.0, at.1)?;
            let unchanged = self.holders.get(&at) == Some(&holder);
            match self.suspects.verdict(&socket, &translation, holder) {
                Verdict::Lost if unchanged => end(kernel, &socket, outcome),
                Verdict::Keep => {}
                Verdict::Lost | Verdict::Wait => {
                    let suspect = self.suspects.like(socket.proto, &translation);
                    outcome.waiting.insert(Waiting { suspect, frontend: translation.frontend });
                }
            }
        }
        Ok(())
    }

    /// The sockets that are worth a decision, and all that it takes. Who serves is read as seldom as can be: that reads
    /// all backends.
    fn candidates<K: Kernel>(&mut self, kernel: &mut K) -> io::Result<Vec<(Connected, Translation)>> {
        let mut candidates = Vec::new();
        let mut unknown = false;
        for proto in [Proto::Udp, Proto::Tcp] {
            if !self.suspects.has(proto) {
                continue;
            }
            for socket in kernel.connected(proto)? {
                if self.suspects.concern(&socket)
                    && let Some(translation) = kernel.translation(&socket)?
                {
                    let at = (proto, translation.frontend);
                    if let Entry::Vacant(entry) = self.holders.entry(at) {
                        entry.insert(kernel.holder(proto, translation.frontend)?);
                        unknown = true;
                    }
                    candidates.push((socket, translation));
                }
            }
        }
        if unknown {
            self.suspects.serves_nobody();
            kernel.each_serving(&mut |proto, service, addr| self.suspects.serves(proto, service, addr))?;
        }
        Ok(candidates)
    }
}

fn end<K: Kernel>(kernel: &mut K, socket: &Connected, outcome: &mut Outcome) {
    match kernel.destroy(socket) {
        Ok(()) => outcome.ended(socket.proto),
        // Closed meanwhile, or connected elsewhere.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => outcome.failed(error),
    }
}

#[cfg(test)]
#[path = "pass_tests.rs"]
mod tests;
