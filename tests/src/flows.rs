//! A connection table of the packet layer that is full of flows nobody has: written into the map as the programs do it.

use std::path::Path;

use anyhow::{Context as _, Result};
use aya::maps::{HashMap, Map, MapData};
use lb_common::abi::{Flow, FlowKey, Proto, V4, flow_flags, maps};

/// The table.
pub type Table = HashMap<MapData, FlowKey<V4>, Flow<V4>>;

/// What all the flows have in common.
#[derive(Clone, Copy, Debug)]
pub struct Filling {
    /// The protocol.
    pub proto: Proto,
    /// What both halves have seen, see [`lb_common::abi::flow_seen`].
    pub seen: u16,
    /// When they began, in seconds of the programs' clock.
    pub created_s: u32,
}

/// The IPv4 table of the installation whose bpf file system is mounted here.
pub fn table(bpffs: &Path) -> Result<Table> {
    let path = bpffs.join("lb/maps").join(maps::CONNS4);
    let map = MapData::from_pin(&path).with_context(|| format!("cannot open {}", path.display()))?;
    Ok(Map::HashMap(map).try_into()?)
}

/// Writes flows of a hundred backends, each of another client in 10.0.0.0/8 (at most 2^24) and last seen then.
pub fn fill(table: &mut Table, n: u32, filling: Filling, last_seen_s: impl Fn(u32) -> u32) -> Result<()> {
    for flow in 0..n {
        let [_, b, c, d] = flow.to_be_bytes();
        let key = FlowKey::<V4> {
            src_addr: [10, b, c, d],
            dst_addr: [192, 0, 2, 1],
            src_port: 40_000,
            dst_port: 53,
            proto: filling.proto.number(),
            reserved: [0; 3],
        };
        let half = Flow {
            src_addr: key.src_addr,
            dst_addr: [172, 16, 0, 1],
            src_port: key.src_port,
            dst_port: 5353,
            service: 1,
            backend: 1 + flow % 100,
            created_s: filling.created_s,
            last_seen_s: last_seen_s(flow),
            seen: filling.seen,
            ..Flow::default()
        };
        let at = half.partner(&key);
        let (src_addr, src_port, flags) = (key.dst_addr, key.dst_port, flow_flags::REPLY);
        let reply = Flow { src_addr, src_port, dst_addr: key.src_addr, dst_port: key.src_port, flags, ..half };
        table.insert(at, reply.sealed(&at), 0).context("cannot write a flow")?;
        table.insert(key, half.sealed(&key), 0).context("cannot write a flow")?;
    }
    Ok(())
}
