//! The connection tables of an agent's packet layer, from outside: filled with flows that nobody has, as the programs write
//! them, or emptied. Knows no other map.

use std::path::Path;

use anyhow::{Context as _, Result};
use aya::maps::{HashMap, Map, MapData, MapError};
use lb_common::abi::{Family, Flow, FlowKey, Proto, V4, flow_flags, maps};

/// The table of a family.
pub type Table<F> = HashMap<MapData, FlowKey<F>, Flow<F>>;

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

/// The table of the installation whose bpf file system is mounted here.
pub fn table<F: Family>(bpffs: &Path) -> Result<Table<F>> {
    let name = if F::VERSION == V4::VERSION { maps::CONNS4 } else { maps::CONNS6 };
    let path = bpffs.join("lb/maps").join(name);
    let map = MapData::from_pin(&path).with_context(|| format!("cannot open {}", path.display()))?;
    Ok(Map::HashMap(map).try_into()?)
}

/// Writes flows of a hundred backends, each of another client in 10.0.0.0/8 (at most 2^24) and last seen then.
pub fn fill(table: &mut Table<V4>, n: u32, filling: Filling, last_seen_s: impl Fn(u32) -> u32) -> Result<()> {
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

/// Removes all flows, so that a source port that comes again is no part of an older conversation.
pub fn forget<F: Family>(table: &mut Table<F>) -> Result<()> {
    let keys = table.keys().collect::<Result<Vec<_>, _>>().context("cannot list the flows")?;
    for key in keys {
        match table.remove(&key) {
            // The agent ages flows at the same time.
            Err(MapError::KeyNotFound) => {}
            other => other.context("cannot remove a flow")?,
        }
    }
    Ok(())
}
