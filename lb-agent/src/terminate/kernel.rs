//! [`Kernel`] on the real one. The thread that uses it goes from network namespace to network namespace, so it must be
//! one that does nothing else.

use std::{fs::File, io, net::SocketAddr, path::PathBuf};

use lb_common::abi::{Backend, Ends, Family, FrontendKey, Proto, V4, V6, scope};

use super::{
    Connected, Holder, Translation,
    diag::Diag,
    pass::{Found, Kernel},
};
use crate::{
    datapath::bpf::{OwnerFamily, Owners},
    namespaces::{self, Namespaces, Visitor},
    reconcile::keeps_clients,
};

/// The namespaces below a cgroup, and the programs that know our sockets.
pub struct NodeKernel {
    cgroup_root: PathBuf,
    owners: Owners,
    visitor: Visitor,
    diag: Option<Diag>,
}

impl NodeKernel {
    /// `cgroup_root` is where the programs are attached.
    ///
    /// # Errors
    /// This process's own network namespace cannot be opened.
    pub fn new(cgroup_root: PathBuf, owners: Owners) -> io::Result<Self> {
        Ok(Self { cgroup_root, owners, visitor: Visitor::new()?, diag: None })
    }

    fn diag(&mut self) -> io::Result<&mut Diag> {
        self.diag.as_mut().ok_or_else(|| io::Error::other("no network namespace was entered"))
    }

    fn stored<F: OwnerFamily>(&self, socket: &Connected) -> io::Result<Option<Translation>> {
        let (own, peer) = (socket.own(), socket.peer());
        let (Some(local_addr), Some(remote_addr)) = (F::from_ip(own.ip()), F::from_ip(peer.ip())) else {
            return Ok(None);
        };
        let (remote_port, local_port) = (peer.port().to_be_bytes(), own.port().to_be_bytes());
        let ends = Ends { remote_addr, local_addr, remote_port, local_port };
        let stored = F::owner(&self.owners).translation(socket.proto, ends, socket.interface);
        Ok(stored.map_err(|error| io::Error::other(anyhow::Error::new(error)))?.map(|stored| Translation {
            frontend: SocketAddr::new(F::to_ip(stored.frontend_addr), stored.frontend_port),
            addr: SocketAddr::new(F::to_ip(stored.backend_addr), stored.backend_port),
            service: stored.service,
            backend: stored.backend,
        }))
    }

    fn serves_as<F: OwnerFamily>(&self, proto: Proto, backend: &Translation) -> io::Result<bool> {
        let found = F::owner(&self.owners).backend(backend.backend).map_err(io::Error::other)?;
        Ok(found.is_some_and(|found| {
            keeps_clients(proto, found.state)
                && found.proto == proto.number()
                && found.service == backend.service
                && addr(&found) == backend.addr
        }))
    }

    fn holder_of<F: OwnerFamily>(&self, proto: Proto, at: SocketAddr) -> io::Result<Option<Holder>> {
        let Some(addr) = F::from_ip(at.ip()) else {
            return Ok(None);
        };
        for scope in [scope::INTERNAL, scope::HOST] {
            let key = FrontendKey { addr, port: at.port(), proto: proto.number(), scope };
            if let Some(found) = F::owner(&self.owners).frontend(&key).map_err(io::Error::other)? {
                return Ok(Some(Holder { service: found.service, answered: found.n_slots > 0 }));
            }
        }
        Ok(None)
    }

    fn each_of<F: OwnerFamily>(&self, each: &mut dyn FnMut(Proto, u32, SocketAddr)) -> io::Result<()> {
        let all = F::owner(&self.owners).each_backend(|backend| {
            if let Some(proto) = Proto::from_number(backend.proto)
                && keeps_clients(proto, backend.state)
            {
                each(proto, backend.service, addr(backend));
            }
        });
        all.map_err(io::Error::other)
    }
}

impl Kernel for NodeKernel {
    type Namespace = File;

    fn namespaces(&mut self) -> io::Result<Found<File>> {
        let Namespaces { found, hidden, trouble } = namespaces::find(&self.cgroup_root)?;
        Ok(Found { namespaces: found.into_values().collect(), hidden, trouble })
    }

    fn enter(&mut self, namespace: &File) -> io::Result<()> {
        self.diag = None;
        self.visitor.enter(namespace)?;
        self.diag = Some(Diag::open()?);
        Ok(())
    }

    fn leave(&mut self) -> io::Result<()> {
        // Its socket would keep the namespace, as the thread would.
        self.diag = None;
        self.visitor.leave()
    }

    fn connected(&mut self, proto: Proto) -> io::Result<Vec<Connected>> {
        self.diag()?.connected(proto)
    }

    fn translation(&mut self, socket: &Connected) -> io::Result<Option<Translation>> {
        if socket.peer().is_ipv4() { self.stored::<V4>(socket) } else { self.stored::<V6>(socket) }
    }

    fn holder(&mut self, proto: Proto, frontend: SocketAddr) -> io::Result<Option<Holder>> {
        if frontend.is_ipv4() { self.holder_of::<V4>(proto, frontend) } else { self.holder_of::<V6>(proto, frontend) }
    }

    fn destroy(&mut self, socket: &Connected) -> io::Result<()> {
        self.diag()?.destroy(socket)
    }

    fn serves(&mut self, proto: Proto, backend: &Translation) -> io::Result<bool> {
        if backend.addr.is_ipv4() { self.serves_as::<V4>(proto, backend) } else { self.serves_as::<V6>(proto, backend) }
    }

    fn each_serving(&mut self, each: &mut dyn FnMut(Proto, u32, SocketAddr)) -> io::Result<()> {
        self.each_of::<V4>(each)?;
        self.each_of::<V6>(each)
    }
}

fn addr<F: Family>(backend: &Backend<F>) -> SocketAddr {
    SocketAddr::new(F::to_ip(backend.addr), backend.port)
}
