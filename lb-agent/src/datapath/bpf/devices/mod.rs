//! The packet layer's programs on devices, and the maps that say which devices they are on: carries out what
//! [`devices`](crate::devices) decides.
//!
//! Two ways to attach, by what the kernel has: tcx links (Linux 6.6), pinned as the links to the cgroup are, or filters of
//! a clsact qdisc. Both are replaced in place, so that a packet meets the old program or the new one and never none, and
//! both stay when the agent ends. Others' programs on the same device are left alone.

mod clsact;
mod store;
mod tcx;

use std::{
    collections::BTreeMap,
    io,
    os::fd::{AsFd, BorrowedFd},
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use aya::{
    Ebpf,
    programs::{ProgramError, SchedClassifier, TcAttachType},
};

pub(super) use self::clsact::remove_all as remove_filters;
pub(super) use self::store::served;
pub use self::store::{KernelDevices, ServedDevice};
pub(super) use self::tcx::is_link;
use super::{
    classifier,
    error::{OpenError, system},
    load::{chain, locked},
    paths::Paths,
};
use crate::devices::{
    Role,
    findings::Foreign,
    store::{DeviceRef, Programs},
};

/// The classifiers, by the names that they have everywhere.
pub const DEVICE_PROGRAMS: [&str; 5] = ["lb_uplink", "lb_uplink_l3", "lb_pod", "lb_egress", "lb_egress_l3"];

/// Where on a device a program runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Hook {
    /// On what comes in by it.
    Ingress,
    /// On what goes out by it.
    Egress,
}

impl Hook {
    /// Both.
    pub(super) const ALL: [Self; 2] = [Self::Ingress, Self::Egress];

    /// Its name.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Ingress => "ingress",
            Self::Egress => "egress",
        }
    }

    fn attach_type(self) -> TcAttachType {
        match self {
            Self::Ingress => TcAttachType::Ingress,
            Self::Egress => TcAttachType::Egress,
        }
    }
}

/// Which program a device of this role has at a hook.
fn program_of(role: Role, hook: Hook) -> &'static str {
    let [uplink, uplink_l3, pod, egress, egress_l3] = DEVICE_PROGRAMS;
    match (role, hook) {
        (Role::Uplink, Hook::Ingress) => uplink,
        (Role::UplinkL3, Hook::Ingress) => uplink_l3,
        (Role::Pod, Hook::Ingress) => pod,
        (Role::UplinkL3, Hook::Egress) => egress_l3,
        (Role::Uplink | Role::Pod, Hook::Egress) => egress,
    }
}

/// How programs are attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// By tcx links.
    Tcx,
    /// By filters of a clsact qdisc.
    Clsact,
}

impl Way {
    /// The best that this kernel has.
    ///
    /// # Errors
    /// The kernel does not say.
    pub fn probe() -> Result<Self, OpenError> {
        // Every network namespace has `lo`.
        match SchedClassifier::query_tcx("lo", TcAttachType::Ingress) {
            Ok(_) => Ok(Self::Tcx),
            Err(error) if os_error(&error) == Some(libc::EINVAL) => Ok(Self::Clsact),
            Err(error) => Err(refused("(probe for tcx)", &error)),
        }
    }
}

fn os_error(error: &ProgramError) -> Option<i32> {
    match error {
        ProgramError::SyscallError(error) => error.io_error.raw_os_error(),
        _ => None,
    }
}

fn refused(program: &str, error: &dyn std::error::Error) -> OpenError {
    OpenError::Program { program: program.to_owned(), reason: chain(error) }
}

fn on_device(action: &'static str, device: DeviceRef<'_>) -> impl FnOnce(io::Error) -> OpenError + use<> {
    system(action, Path::new(device.name))
}

/// A loaded classifier.
struct Classifier {
    name: &'static str,
    id: u32,
    program: SchedClassifier,
}

impl Classifier {
    fn fd(&self) -> Result<BorrowedFd<'_>, OpenError> {
        self.program.fd().map(AsFd::as_fd).map_err(|error| refused(self.name, &error))
    }
}

fn at(programs: &mut Programs, hook: Hook) -> &mut Option<u32> {
    match hook {
        Hook::Ingress => &mut programs.ingress,
        Hook::Egress => &mut programs.egress,
    }
}

/// The programs and how to attach them; may be sent to another thread. A program is loaded when the first device needs it,
/// as the verifier takes up to a second for each, and few nodes have devices of every kind.
pub(super) struct DeviceHooks {
    ebpf: Arc<Mutex<Ebpf>>,
    classifiers: Vec<Classifier>,
    way: Way,
    links: PathBuf,
}

impl DeviceHooks {
    /// Loads nothing yet.
    pub(super) fn new(ebpf: Arc<Mutex<Ebpf>>, paths: &Paths, way: Way) -> Self {
        Self { ebpf, classifiers: Vec::new(), way, links: paths.links.clone() }
    }

    /// Loads the program if that was not done.
    fn load(&mut self, name: &'static str) -> Result<(), OpenError> {
        if self.classifiers.iter().any(|classifier| classifier.name == name) {
            return Ok(());
        }
        let (id, program) = classifier::load(&mut locked(&self.ebpf), name)?;
        self.classifiers.push(Classifier { name, id, program });
        Ok(())
    }

    /// How programs are attached.
    pub(super) fn way(&self) -> Way {
        self.way
    }

    /// Attaches the programs of this role, in the place of ours that are there; egress first, so that no packet is
    /// translated whose reply would not be.
    ///
    /// # Errors
    /// The kernel refuses, or there is no such device any more.
    pub(super) fn attach(&mut self, device: DeviceRef<'_>, role: Role) -> Result<(), OpenError> {
        // Before the first of them is attached: a packet that is translated needs both.
        Hook::ALL.into_iter().try_for_each(|hook| self.load(program_of(role, hook)))?;
        let Self { classifiers, way, links, .. } = self;
        for hook in [Hook::Egress, Hook::Ingress] {
            let name = program_of(role, hook);
            let classifier = classifiers
                .iter_mut()
                .find(|classifier| classifier.name == name)
                .ok_or_else(|| refused(name, &io::Error::other("it was not loaded")))?;
            match way {
                Way::Tcx => tcx::attach(classifier, device, hook, links)?,
                Way::Clsact => clsact::attach(classifier, device, hook)?,
            }
        }
        Ok(())
    }

    /// Takes our programs off a device; ingress first. One that is gone is no error.
    ///
    /// # Errors
    /// The kernel refuses.
    pub(super) fn detach(&mut self, device: DeviceRef<'_>) -> Result<(), OpenError> {
        match self.way {
            Way::Tcx => Hook::ALL.iter().try_for_each(|hook| tcx::detach(device.index, *hook, &self.links)),
            Way::Clsact => clsact::detach(device),
        }
    }

    /// The devices on which there are programs of ours, also an earlier agent's. What is left of devices that are gone is
    /// removed.
    ///
    /// # Errors
    /// The kernel does not say.
    pub(super) fn attached(&mut self) -> Result<BTreeMap<u32, Programs>, OpenError> {
        match self.way {
            Way::Tcx => tcx::forget_gone(&self.links).and_then(|()| tcx::attached(&self.links)),
            Way::Clsact => clsact::attached(),
        }
    }

    /// Whether these are the programs of this agent for that role.
    pub(super) fn are_current(&self, programs: Programs, role: Role) -> bool {
        let current = |hook, id: Option<u32>| {
            let wanted = self.classifiers.iter().find(|classifier| classifier.name == program_of(role, hook));
            id.is_some() && wanted.map(|classifier| classifier.id) == id
        };
        current(Hook::Ingress, programs.ingress) && current(Hook::Egress, programs.egress)
    }

    /// What others have at the hooks of a device.
    ///
    /// # Errors
    /// The kernel does not say.
    pub(super) fn foreign(&self, device: DeviceRef<'_>) -> Result<Vec<Foreign>, OpenError> {
        foreign(device, self.way, &self.links)
    }
}

/// Programs of ours on all devices, whichever way they are attached.
fn all_attached(links: &Path) -> Result<BTreeMap<u32, Programs>, OpenError> {
    let mut all = clsact::attached()?;
    all.extend(tcx::attached(links)?);
    Ok(all)
}

/// What others have at the hooks of a device, whichever way ours are attached: both kinds run, tcx first at ingress and
/// last at egress.
pub(super) fn foreign(device: DeviceRef<'_>, way: Way, links: &Path) -> Result<Vec<Foreign>, OpenError> {
    let mut found = Vec::new();
    for hook in Hook::ALL {
        let tcx = if way == Way::Tcx { tcx::others(device, hook, links)? } else { Vec::new() };
        let what = tcx.into_iter().chain(clsact::others(device, hook)?);
        found.extend(what.map(|what| Foreign { device: device.name.to_owned(), hook: hook.name(), what }));
    }
    Ok(found)
}
