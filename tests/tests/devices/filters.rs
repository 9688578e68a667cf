//! Filters of a clsact qdisc, which older kernels have in the place of tcx links: the adapter by itself, since this kernel's
//! agent uses the better way.

use std::{
    path::Path,
    sync::atomic::{AtomicUsize, Ordering},
    thread,
};

use anyhow::{Context as _, Result};
use aya::{
    Ebpf, EbpfLoader,
    programs::{LinkOrder, SchedClassifier, TcAttachType, tc::TcAttachOptions},
};
use lb_agent::{
    datapath::{
        bpf::{Datapath, KernelDevices, Options, Way, cleanup},
        store::Capacity,
    },
    devices::{
        Role,
        store::{DeviceRef, DeviceStore as _, Programs},
    },
};
use lb_tests::{
    Bpffs, Cgroup, NetNs, eventually,
    kernel_objects::{self, agent_object},
    poll::PATIENCE,
};

/// Loads the object once more and pins one of its classifiers: somebody else's program.
pub(crate) fn pin_a_program(object: &Path, pin: &str) -> Result<()> {
    let mut ebpf = EbpfLoader::new().load_file(object)?;
    let program: &mut SchedClassifier = ebpf.program_mut("lb_owner4").context("no lb_owner4")?.try_into()?;
    program.load()?;
    Ok(program.pin(pin)?)
}

/// Loads the object once more and attaches one of its classifiers by a tcx link, behind the others; it is there as long as
/// what is returned.
pub(crate) fn attach_a_program(device: &str, hook: TcAttachType) -> Result<Ebpf> {
    let mut ebpf = EbpfLoader::new().load_file(agent_object())?;
    let program: &mut SchedClassifier = ebpf.program_mut("lb_owner4").context("no lb_owner4")?.try_into()?;
    program.load()?;
    let last = TcAttachOptions::TcxOrder(LinkOrder::last());
    program.attach_with_options(device, hook, last)?;
    Ok(ebpf)
}

/// A namespace with a device `dev0`, and a place for an installation.
struct Rig {
    netns: NetNs,
    bpffs: Bpffs,
    cgroup: Cgroup,
}

impl Rig {
    fn new(hint: &str) -> Result<Self> {
        let rig = Self { netns: NetNs::new(hint)?, bpffs: Bpffs::new(hint)?, cgroup: Cgroup::new(hint)? };
        rig.netns.ip(["link add dev0 type veth peer name dev1", "link set dev0 up", "link set dev1 up"])?;
        Ok(rig)
    }

    /// As an agent does at its start.
    fn open(&self) -> Result<(Datapath, KernelDevices)> {
        let object = kernel_objects::read(&agent_object());
        let options = Options {
            object: Some(Vec::leak(object)),
            bpffs: self.bpffs.path().to_owned(),
            cgroup_root: Some(self.cgroup.path().to_owned()),
            capacity: Capacity { frontends: 64, backends: 128, slots: 256, affinities: 64, conns: 64 },
            bind_protection: true,
            exclusion: false,
        };
        let (datapath, _) = Datapath::open(&options)?;
        let devices = datapath.devices(Way::Clsact)?;
        Ok((datapath, devices))
    }

    /// Does something with the devices in the namespace.
    fn with<T: Send>(
        &self,
        devices: &mut KernelDevices,
        act: impl FnOnce(&mut KernelDevices, DeviceRef<'_>) -> T + Send,
    ) -> Result<T> {
        self.netns.run(|| {
            let index = nix::net::if_::if_nametoindex("dev0")?;
            Ok(act(devices, DeviceRef { index, name: "dev0" }))
        })?
    }

    /// tc(8)'s list of the filters at a hook.
    fn filters(&self, hook: &str) -> Result<String> {
        self.netns.output("tc", &["filter", "show", "dev", "dev0", hook])
    }

    fn qdiscs(&self) -> Result<String> {
        self.netns.output("tc", &["qdisc", "show", "dev", "dev0"])
    }

    /// The next agent gets the lock: a process that another test forks may hold it for a moment longer.
    fn reopen(&self, datapath: Datapath, devices: KernelDevices) -> Result<(Datapath, KernelDevices)> {
        drop((datapath, devices));
        eventually("the lock to be free", PATIENCE, || Ok(self.open().ok()))
    }
}

/// The programs on `dev0`.
fn attached(devices: &mut KernelDevices, device: DeviceRef<'_>) -> Option<Programs> {
    devices.attached().unwrap_or_default().get(&device.index).copied()
}

#[test]
fn filters_stay_when_their_agent_ends_and_the_next_one_replaces_them_in_place() -> Result<()> {
    let rig = Rig::new("filters")?;
    let (datapath, mut devices) = rig.open()?;
    rig.with(&mut devices, |devices, dev0| devices.attach(dev0, Role::Uplink))??;
    let first = rig.with(&mut devices, attached)?.context("nothing attached")?;
    assert!(rig.filters("ingress")?.contains("lb_uplink direct-action"), "{}", rig.filters("ingress")?);
    assert!(rig.filters("egress")?.contains("lb_egress direct-action"));
    let (datapath, mut devices) = rig.reopen(datapath, devices)?;
    assert_eq!(rig.with(&mut devices, attached)?, Some(first), "they are found again");
    assert!(!devices.are_current(first, Role::Uplink));

    let looks = AtomicUsize::new(0);
    thread::scope(|scope| -> Result<()> {
        let watcher = scope.spawn(|| -> Result<()> {
            while looks.fetch_add(1, Ordering::Relaxed) < 20 {
                assert_eq!(rig.filters("ingress")?.matches("direct-action").count(), 1);
            }
            Ok(())
        });
        while !watcher.is_finished() {
            for role in [Role::Uplink, Role::Pod] {
                rig.with(&mut devices, |devices, dev0| devices.attach(dev0, role))??;
            }
        }
        watcher.join().expect("a filter all the time")
    })?;
    let second = rig.with(&mut devices, attached)?.context("nothing attached")?;
    assert!(devices.are_current(second, Role::Pod) && !devices.are_current(second, Role::Uplink));
    drop(datapath);
    Ok(())
}

#[test]
fn taking_filters_away_takes_the_qdisc_too_unless_somebody_else_has_a_filter_in_it() -> Result<()> {
    let rig = Rig::new("qdisc")?;
    let (datapath, mut devices) = rig.open()?;
    let attach = |devices: &mut KernelDevices| -> Result<()> {
        Ok(rig.with(devices, |devices, dev0| devices.attach(dev0, Role::Uplink))??)
    };
    attach(&mut devices).context("attach")?;
    rig.with(&mut devices, |devices, dev0| devices.detach(dev0))??;
    assert!(!rig.qdiscs()?.contains("clsact"), "{}", rig.qdiscs()?);
    rig.with(&mut devices, |devices, dev0| devices.detach(dev0))?.context("again, with nothing there")?;

    attach(&mut devices).context("attach anew")?;
    let pin = rig.bpffs.path().join("foreign");
    let pin = pin.to_str().context("not UTF-8")?;
    pin_a_program(&agent_object(), pin)?;
    let foreign = ["filter", "add", "dev", "dev0", "ingress", "prio", "10", "bpf", "da", "pinned", pin];
    rig.netns.output("tc", &foreign)?;
    let others = rig.with(&mut devices, |devices, dev0| devices.foreign(dev0))??;
    assert_eq!(others.len(), 1, "{others:?}");
    assert!(others[0].hook == "ingress" && others[0].what.contains("priority 10"), "{others:?}");

    drop((datapath, devices));
    // As the tool does it, in the node's namespace.
    let removed =
        eventually("the lock to be free", PATIENCE, || Ok(rig.netns.run(|| cleanup(rig.bpffs.path(), false))?.ok()))?;
    assert!(removed.iter().any(|line| line.starts_with("program lb_uplink on device")), "{removed:?}");
    let left = rig.filters("ingress")?;
    assert!(left.contains("pref 10") && !left.contains("lb_uplink"), "{left}");
    assert_eq!(rig.filters("egress")?.trim(), "");
    Ok(())
}

#[test]
fn a_filter_of_somebody_else_in_our_place_is_not_replaced() -> Result<()> {
    let rig = Rig::new("place")?;
    let (_datapath, mut devices) = rig.open()?;
    let pin = rig.bpffs.path().join("foreign");
    let pin = pin.to_str().context("not UTF-8")?;
    pin_a_program(&agent_object(), pin)?;
    rig.netns.output("tc", &["qdisc", "add", "dev", "dev0", "clsact"])?;
    let ours = ["filter", "add", "dev", "dev0", "egress", "prio", "3", "handle", "0x4c42", "bpf", "da", "pinned", pin];
    rig.netns.output("tc", &ours)?;
    let before = rig.filters("egress")?;
    let refused = rig.with(&mut devices, |devices, dev0| devices.attach(dev0, Role::Uplink))?.unwrap_err();
    let text = format!("{:#}", anyhow::Error::new(refused));
    assert!(text.contains("dev0") && text.contains("remove that one"), "{text}");
    assert_eq!(rig.filters("egress")?, before);
    assert_eq!(rig.with(&mut devices, attached)?, None);
    Ok(())
}
