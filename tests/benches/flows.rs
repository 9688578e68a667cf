//! What the connections of the packet layer cost the agent: walks through a table of a million flows, on a real map.
//!
//! `cargo xtask ebpf`, then `cargo bench -p lb-tests --bench flows [-- NUMBER-OF-FLOWS]`. Needs root, and about 300 MiB of
//! the kernel's memory for a million. Says how long each walk took, and its longest step: the agent rests after each.

use std::{
    env,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use aya::maps::{HashMap, Map, MapData};
use lb_agent::{
    EBPF_OBJECT,
    connections::{Ending, Walk},
    datapath::{
        bpf::{Datapath, KernelFlows, Options},
        store::Capacity,
    },
    terminate::TcpPolicy,
};
use lb_common::abi::{Flow, FlowKey, Proto, V4, flow_flags, flow_seen};
use lb_tests::{Bpffs, Cgroup};

/// Seconds of the clock that the flows were written by.
const NOW: u32 = 1_000_000;

fn main() -> Result<()> {
    // cargo adds `--bench`.
    let n = env::args().skip(1).find_map(|arg| arg.parse().ok()).unwrap_or(1_000_000);
    let (bpffs, cgroup) = (Bpffs::new("flows")?, Cgroup::new("flows")?);
    let options = Options {
        object: EBPF_OBJECT,
        bpffs: bpffs.path().to_owned(),
        cgroup_root: Some(cgroup.path().to_owned()),
        capacity: Capacity { conns: 2 * n, ..Capacity::default() },
        bind_protection: false,
    };
    let (datapath, _) = Datapath::open(&options).context("cannot make the maps")?;
    let mut flows = datapath.flows()?;
    walk("an empty table", &mut flows, Ending::Nobodys)?;
    let map = MapData::from_pin(bpffs.path().join("lb/maps/lb_conns4"))?;
    let mut map = Map::HashMap(map).try_into()?;
    let began = Instant::now();
    fill(&mut map, n, |_| 0)?;
    println!("{n} flows written in {:?}", began.elapsed());
    walk("all busy", &mut flows, Ending::Nobodys)?;
    fill(&mut map, n, |_| 60)?;
    walk("all idle, none over", &mut flows, Ending::Nobodys)?;
    fill(&mut map, n, |flow| if flow % 10 == 0 { 121 } else { 0 })?;
    walk("one in ten over", &mut flows, Ending::Nobodys)?;
    fill(&mut map, n, |_| 0)?;
    walk("a backend with one in a hundred is gone", &mut flows, Ending::Of([(1, 1)].into()))
}

/// Writes UDP flows of a hundred backends as the programs do, each idle for so many seconds.
fn fill(map: &mut HashMap<MapData, FlowKey<V4>, Flow<V4>>, n: u32, idle_s: impl Fn(u32) -> u32) -> Result<()> {
    for flow in 0..n {
        let [a, b, c, d] = flow.to_be_bytes();
        let key = FlowKey::<V4> {
            src_addr: [10 + a, b, c, d],
            dst_addr: [192, 0, 2, 1],
            src_port: 40_000,
            dst_port: 53,
            proto: Proto::Udp.number(),
            reserved: [0; 3],
        };
        let half = Flow {
            src_addr: key.src_addr,
            dst_addr: [172, 16, 0, 1],
            src_port: key.src_port,
            dst_port: 5353,
            service: 1,
            backend: 1 + flow % 100,
            created_s: NOW - 1_000,
            last_seen_s: NOW - idle_s(flow),
            seen: flow_seen::PACKET,
            ..Flow::default()
        };
        let at = half.partner(&key);
        let (src_addr, src_port, flags) = (key.dst_addr, key.dst_port, flow_flags::REPLY);
        let reply = Flow { src_addr, src_port, dst_addr: key.src_addr, dst_port: key.src_port, flags, ..half };
        map.insert(at, reply.sealed(&at), 0)?;
        map.insert(key, half.sealed(&key), 0)?;
    }
    Ok(())
}

fn walk(what: &str, flows: &mut KernelFlows, ending: Ending) -> Result<()> {
    let mut walk = Walk::<V4>::new(ending, TcpPolicy::Never);
    let (mut steps, mut took, mut longest) = (0, Duration::ZERO, Duration::ZERO);
    loop {
        let began = Instant::now();
        let ended = walk.step(flows, NOW)?;
        let step = began.elapsed();
        (steps, took, longest) = (steps + 1, took + step, longest.max(step));
        if let Some(ended) = ended {
            println!("{what}: {took:?} in {steps} steps, the longest {longest:?}; {ended:?}");
            return Ok(());
        }
    }
}
