//! The network namespaces of the processes that our programs serve: which there are, a thread's way into them and
//! back, and the number of the one where it is. Changes nothing in them.

mod cookie;
mod find;

use std::{fs::File, io};

use nix::sched::{CloneFlags, setns};

pub use self::{
    cookie::cookie,
    find::{Namespaces, find},
};

/// Takes the calling thread from namespace to namespace. For threads that do nothing else: sockets that a thread opens
/// belong to the namespace where it is.
#[derive(Debug)]
pub struct Visitor {
    own: File,
}

impl Visitor {
    /// # Errors
    /// The process's own namespace cannot be opened.
    pub fn new() -> io::Result<Self> {
        File::open("/proc/self/ns/net").map(|own| Self { own })
    }

    /// Goes there.
    ///
    /// # Errors
    /// EPERM without CAP_SYS_ADMIN.
    pub fn enter(&self, namespace: &File) -> io::Result<()> {
        Ok(setns(namespace, CloneFlags::CLONE_NEWNET)?)
    }

    /// Goes home. A thread that stays keeps the namespace, and the devices in it, from going when its pod is deleted.
    ///
    /// # Errors
    /// As for [`Self::enter`].
    pub fn leave(&self) -> io::Result<()> {
        self.enter(&self.own)
    }
}
