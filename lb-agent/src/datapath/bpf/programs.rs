//! The programs: which there are, and what is done to those of either kind in the same way.

use std::{
    fs::File,
    os::fd::{AsFd, BorrowedFd},
};

use aya::{
    Ebpf,
    programs::{CgroupAttachMode, CgroupSock, CgroupSockAddr, Program, links::FdLink},
};

use super::{error::OpenError, load::chain};

/// The programs, by the names that they have everywhere.
pub const PROGRAMS: [&str; 10] = [
    "lb_connect4",
    "lb_connect6",
    "lb_sendmsg4",
    "lb_sendmsg6",
    "lb_recvmsg4",
    "lb_recvmsg6",
    "lb_getpeer4",
    "lb_getpeer6",
    BIND_PROGRAMS[0],
    BIND_PROGRAMS[1],
];

/// Those of [`PROGRAMS`] that protect NodePorts from being bound, and may be turned off.
pub const BIND_PROGRAMS: [&str; 2] = ["lb_bind4", "lb_bind6"];

/// Those that are wanted.
pub(super) fn wanted(bind_protection: bool) -> impl Iterator<Item = &'static str> {
    PROGRAMS.into_iter().filter(move |name| bind_protection || !BIND_PROGRAMS.contains(name))
}

/// A program of the object.
pub(super) struct Hook<'a> {
    name: &'static str,
    kind: Kind<'a>,
}

enum Kind<'a> {
    Addr(&'a mut CgroupSockAddr),
    Sock(&'a mut CgroupSock),
}

impl<'a> Hook<'a> {
    /// Finds it in the object.
    pub(super) fn find(ebpf: &'a mut Ebpf, name: &'static str) -> Result<Self, OpenError> {
        let kind = match ebpf.program_mut(name).ok_or_else(|| missing(name))? {
            Program::CgroupSockAddr(program) => Kind::Addr(program),
            Program::CgroupSock(program) => Kind::Sock(program),
            _ => return Err(wrong(name, "it is of another kind in the embedded object")),
        };
        Ok(Self { name, kind })
    }

    fn refused(&self, error: &dyn std::error::Error) -> OpenError {
        OpenError::Program { program: self.name.to_owned(), reason: chain(error) }
    }

    /// Gives it to the kernel.
    pub(super) fn load(&mut self) -> Result<(), OpenError> {
        let loaded = match &mut self.kind {
            Kind::Addr(program) => program.load(),
            Kind::Sock(program) => program.load(),
        };
        let reason = |error| last_lines(&chain(&error));
        loaded.map_err(|error| OpenError::Program { program: self.name.to_owned(), reason: reason(error) })
    }

    /// The loaded program.
    pub(super) fn fd(&self) -> Result<BorrowedFd<'_>, OpenError> {
        let fd = match &self.kind {
            Kind::Addr(program) => program.fd(),
            Kind::Sock(program) => program.fd(),
        };
        fd.map(AsFd::as_fd).map_err(|error| self.refused(&error))
    }

    /// Attaches it. A link to a cgroup stands beside other programs on it (BPF_F_ALLOW_MULTI is what the kernel uses for
    /// links).
    pub(super) fn link(&mut self, cgroup: &File) -> Result<FdLink, OpenError> {
        let mode = CgroupAttachMode::Single;
        let link = match &mut self.kind {
            Kind::Addr(program) => {
                program.attach(cgroup, mode).and_then(|id| program.take_link(id)).map(FdLink::try_from)
            }
            Kind::Sock(program) => {
                program.attach(cgroup, mode).and_then(|id| program.take_link(id)).map(FdLink::try_from)
            }
        };
        link.map_err(|error| self.refused(&error))?.map_err(|error| self.refused(&error))
    }
}

fn wrong(name: &str, reason: &str) -> OpenError {
    OpenError::Program { program: name.to_owned(), reason: reason.to_owned() }
}

/// The object has no program of that name.
pub(super) fn missing(name: &str) -> OpenError {
    wrong(name, "it is not in the embedded object")
}

/// The verifier's log ends with what it did not like, and a few lines of numbers.
pub(super) fn last_lines(text: &str) -> String {
    let lines: Vec<_> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let first = lines.first().copied().unwrap_or_default();
    let tail = lines.get(lines.len().saturating_sub(4).max(1)..).unwrap_or_default();
    std::iter::once(first).chain(tail.iter().copied()).collect::<Vec<_>>().join(" | ")
}
