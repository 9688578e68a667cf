//! Packets that a device has summed as a whole (`CHECKSUM_COMPLETE`), as the better network cards do: the sum has to stay right
//! under what is rewritten, or the receiver's kernel logs "hw csum failure" and sums each packet itself.
//!
//! No virtual device sums, but the kernel does where it has to check the checksum around a tunnelled packet: then it has
//! summed what is in it as well (net/core/skbuff.c, `__skb_checksum_complete`). So with checksums in each packet the answers
//! of the other node's pods arrive summed by the overlay, leave by the uplink, and are looked at where they arrive next.

use anyhow::{Context as _, Result};
use aya::{
    Ebpf, EbpfLoader,
    maps::Array,
    programs::{LinkOrder, SchedClassifier, TcAttachType, tc::TcAttachOptions},
};
use lb_common::probe::Summed;
use lb_tests::{Layout, NetNs, kernel_objects};

use crate::world::{EVERY_TRAFFIC, Offload, World};

/// Looks at what arrives by the devices of a namespace.
struct Watch(Ebpf);

impl Watch {
    fn new(netns: &NetNs) -> Result<Self> {
        let mut ebpf = EbpfLoader::new().load(&kernel_objects::read(&kernel_objects::summed_object()))?;
        let program: &mut SchedClassifier = ebpf.program_mut("lb_summed").context("no lb_summed")?.try_into()?;
        program.load()?;
        let devices = netns.output("ip", &["-br", "link", "show", "type", "veth"])?;
        for device in devices.lines().filter_map(|line| line.split(['@', ' ']).next()) {
            let options = TcAttachOptions::TcxOrder(LinkOrder::last());
            netns.run(|| program.attach_with_options(device, TcAttachType::Ingress, options))??;
        }
        Ok(Self(ebpf))
    }

    fn seen(&self, summed: Summed) -> Result<u64> {
        let counts = Array::<_, u64>::try_from(self.0.map("lb_sums").context("no map")?)?;
        Ok(counts.get(&(summed as u32), 0)?)
    }
}

#[test]
fn the_sum_of_a_packet_that_its_device_has_summed_stays_right() -> Result<()> {
    for pod_devices in [&[][..], &["--pod-devices", "cni0,veth*"]] {
        let world = World::with(Layout::PointToPoint, Offload::Off, pod_devices)?;
        world.list(&[2, 3])?;
        for to in world.frontends() {
            let watch = Watch::new(world.underlay.switch())?;
            for traffic in EVERY_TRAFFIC {
                for _ in 0..10 {
                    world.client.ask(traffic, to).with_context(|| format!("{traffic:?} to {to}"))?;
                }
            }
            let [right, wrong] = [watch.seen(Summed::Right)?, watch.seen(Summed::Wrong)?];
            assert!(right >= 30 && wrong == 0, "{to}: {right} packets have the right sum, {wrong} a wrong one");
        }
    }
    Ok(())
}
