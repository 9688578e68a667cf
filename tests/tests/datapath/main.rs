//! The agent's datapath on a real kernel, without the rest of the agent: what is pinned, adopted, refused and removed.
//! Needs root and the built kernel programs (`cargo xtask test`).

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says where")]

mod addresses;
mod flows;
mod installation;
mod slots;

use std::{fs, path::Path};

use lb_agent::datapath::{
    bpf::{Datapath, Note, OpenError, Options, Reader},
    store::Capacity,
};
use lb_tests::{BindMount, Bpffs, Cgroup, eventually, kernel_objects, poll::PATIENCE};

/// A place for an installation: a bpffs and a cgroup of its own.
struct Place {
    bpffs: Bpffs,
    cgroup: Cgroup,
}

impl Place {
    fn new(hint: &str) -> Self {
        Self { bpffs: Bpffs::new(hint).unwrap(), cgroup: Cgroup::new(hint).unwrap() }
    }

    fn options(&self) -> Options {
        Options {
            object: Some(object()),
            bpffs: self.bpffs.path().to_owned(),
            cgroup_root: Some(self.cgroup.path().to_owned()),
            capacity: Capacity { frontends: 64, backends: 128, slots: 256, affinities: 64, conns: 128 },
            bind_protection: true,
            exclusion: false,
        }
    }

    fn open(&self) -> (Datapath, Vec<Note>) {
        Datapath::open(&self.options()).unwrap()
    }

    /// As an agent does at its start.
    fn start(&self) -> (Datapath, Vec<Note>) {
        let (mut datapath, mut notes) = self.open();
        notes.extend(datapath.attach().unwrap());
        datapath.self_test().unwrap();
        (datapath, notes)
    }

    /// The agent ends. Its lock may outlive it by a moment: a process that another test has just forked holds a copy of
    /// every descriptor of this one until it executes its program.
    fn end(&self, datapath: Datapath) {
        drop(datapath);
        let reader = Reader::open(self.bpffs.path()).unwrap();
        eventually("the lock to be free", PATIENCE, || Ok((!reader.agent_alive()?).then_some(()))).unwrap();
    }
}

/// The kernel programs.
fn object() -> &'static [u8] {
    Vec::leak(kernel_objects::read(&kernel_objects::agent_object()))
}

/// Why opening fails.
fn refusal(options: &Options) -> OpenError {
    Datapath::open(options).map(|_| ()).unwrap_err()
}

/// The names below a directory of the installation, sorted.
fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}
