//! The kernel's half of an agent, put in place by hand: with the programs of another build, or attached in another way, than
//! the agent under test has them. The maps are what an agent of this build has made.

use std::{path::Path, time::Instant};

use anyhow::{Result, ensure};
use lb_agent::{
    datapath::{
        bpf::{Datapath, OpenError, Options, Way},
        store::Capacity,
    },
    devices::{DeviceNames, Keeper, PodDelivery, PortRange, findings::Settings, read, sysctl},
    model::NodePortAddresses,
};
use lb_common::abi::maps;
use lb_tests::{Node, eventually, kernel_objects, poll::PATIENCE};

/// Replaces the programs of both layers by those of `object`, as an agent does that starts. There must be none.
pub(crate) fn install(node: &Node, object: &Path, way: Way) -> Result<()> {
    let options = Options {
        object: Some(Vec::leak(kernel_objects::read(object))),
        bpffs: node.bpffs().path().to_owned(),
        cgroup_root: Some(node.cgroup().path().to_owned()),
        // As the flags' defaults.
        capacity: Capacity {
            frontends: maps::N_FRONTENDS,
            backends: maps::N_BACKENDS,
            slots: maps::N_SLOTS,
            affinities: maps::N_AFFINITIES,
            conns: maps::N_CONNS,
        },
        bind_protection: true,
        exclusion: false,
    };
    node.netns().run(|| {
        // A process that another test forks may hold the lock for a moment longer.
        let (mut datapath, _) = eventually("the lock to be free", PATIENCE, || match Datapath::open(&options) {
            Err(OpenError::Locked { .. }) => Ok(None),
            opened => Ok(Some(opened?)),
        })?;
        datapath.attach()?;
        let settings = Settings {
            devices: DeviceNames::Auto,
            pods: "cni0,veth*".parse().map_err(anyhow::Error::msg)?,
            pod_delivery: PodDelivery::Auto,
            snat_ports: PortRange::SNAT,
            nodeport_range: PortRange::NODEPORTS,
            nodeport_addresses: NodePortAddresses::Primary,
        };
        let mut keeper = Keeper::new(datapath.devices(way)?, settings, |names| sysctl::read(names.iter().copied()));
        let outcome = keeper.pass(&read::network()?, &[], Instant::now());
        ensure!(outcome.failures.is_empty() && outcome.served > 0, "{outcome:?}");
        Ok(())
    })?
}
