//! The packet layer's devices: the first pass at the start, and the task that follows them. An agent that cannot have the
//! programs goes on without: Services work for processes on this node all the same.

use std::{io, net::IpAddr, time::SystemTime};

use tokio::{sync::watch, task::JoinHandle};

use crate::{
    cli::PacketArgs,
    datapath::bpf::{Datapath, KernelDevices, Way},
    devices::{
        Keeper, Outcome,
        findings::Settings,
        keep::{keep, pass},
        sysctl,
    },
    model::NodePortAddresses,
    netlink::changes::{Changes, Of},
    observe::Observer,
};

/// Devices that have their programs, to be followed.
pub(super) struct Devices {
    keeper: Keeper<KernelDevices>,
    changes: Changes,
    first: Outcome,
    observer: Observer,
}

/// Attaches the programs where they should be. `None` where that cannot be, which is said.
pub(super) fn start(
    datapath: &mut Datapath,
    args: &PacketArgs,
    nodeport_addresses: &NodePortAddresses,
    observer: &Observer,
) -> Option<Devices> {
    let settings = args.settings(nodeport_addresses);
    match open(datapath, &settings) {
        Ok((changes, store)) => {
            let mut keeper = Keeper::new(store, settings, |devices| sysctl::read(devices.iter().copied()));
            let first = pass(&mut keeper, &[]);
            take(observer, first.clone());
            Some(Devices { keeper, changes, first, observer: observer.clone() })
        }
        Err(error) => {
            observer.warn(format!("clients outside this node reach no Service: {error:#}"));
            None
        }
    }
}

/// Also where no device is to have programs: an earlier agent may have left some.
fn open(datapath: &mut Datapath, settings: &Settings) -> anyhow::Result<(Changes, KernelDevices)> {
    Ok((Changes::open(Of::Devices)?, datapath.devices(Way::probe()?, settings.has_packet_layer())?))
}

impl Devices {
    /// Follows them from now on; `node` tells the addresses of the Node object.
    pub(super) fn follow(self, node: watch::Receiver<Vec<IpAddr>>) -> JoinHandle<io::Result<()>> {
        let Self { keeper, changes, first, observer } = self;
        tokio::spawn(keep(keeper, changes, node, first, move |outcome| take(&observer, outcome)))
    }
}

fn take(observer: &Observer, outcome: Outcome) {
    observer.update(|state| state.take_devices(outcome, SystemTime::now()));
}
