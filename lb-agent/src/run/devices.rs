//! The packet layer's devices: the first pass at the start, and the task that follows them. An agent that cannot have the
//! programs goes on without: Services work for processes on this node all the same.

use std::{io, net::IpAddr, time::SystemTime};

use tokio::{sync::watch, task::JoinHandle};

use super::selftest::say_ready;
use crate::{
    cli::PacketArgs,
    datapath::bpf::{Datapath, KernelDevices, Way},
    devices::{Keeper, Outcome, keep::keep, sysctl},
    model::NodePortAddresses,
    netlink::changes::{Changes, Of},
    observe::Observer,
};

/// Devices that are to have their programs, to be followed.
pub(super) struct Devices {
    keeper: Keeper<KernelDevices>,
    changes: Changes,
    observer: Observer,
}

/// What will attach the programs where they should be; the agent is not ready before it has tried. `None` where that cannot
/// be, which is said.
pub(super) fn start(
    datapath: &mut Datapath,
    args: &PacketArgs,
    nodeport_addresses: &NodePortAddresses,
    observer: &Observer,
) -> Option<Devices> {
    let settings = args.settings(nodeport_addresses);
    match open(datapath, settings.may_go_past()) {
        Ok((changes, store)) => {
            let keeper = Keeper::new(store, settings, |devices| sysctl::read(devices.iter().copied()));
            observer.update(|state| state.devices_pending = true);
            Some(Devices { keeper, changes, observer: observer.clone() })
        }
        Err(error) => {
            observer.warn(format!("clients outside this node reach no Service: {error:#}"));
            None
        }
    }
}

/// Also where no device is to have programs: an earlier agent may have left some.
fn open(datapath: &mut Datapath, may_go_past: bool) -> anyhow::Result<(Changes, KernelDevices)> {
    let of = if may_go_past { Of::DevicesAndChains } else { Of::Devices };
    Ok((Changes::open(of)?, datapath.devices(Way::probe()?)?))
}

impl Devices {
    /// Attaches the programs and follows the devices from now on, beside everything else: it takes the verifier a second
    /// or two. `node` tells the addresses of the Node object.
    pub(super) fn follow(self, node: watch::Receiver<Vec<IpAddr>>) -> JoinHandle<io::Result<()>> {
        let Self { keeper, changes, observer } = self;
        tokio::spawn(keep(keeper, changes, node, move |outcome| take(&observer, outcome)))
    }
}

fn take(observer: &Observer, outcome: Outcome) {
    observer.update(|state| state.take_devices(outcome, SystemTime::now()));
    say_ready(observer);
}
