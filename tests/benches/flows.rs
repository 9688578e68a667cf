//! What the connections of the packet layer cost the agent: walks through a table of a million flows, on a real map.
//!
//! `cargo xtask ebpf`, then `cargo bench -p lb-tests --bench flows [-- NUMBER-OF-FLOWS]`. Needs root, and about 300 MiB of
//! the kernel's memory for a million. Says how long each walk took, and its longest step: the agent rests after each.

use std::{
    env,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use lb_agent::{
    EBPF_OBJECT,
    connections::{Ending, Walk},
    datapath::{
        bpf::{Datapath, KernelFlows, Options},
        store::Capacity,
    },
    terminate::TcpPolicy,
};
use lb_common::abi::{Proto, V4, flow_seen};
use lb_tests::{
    Bpffs, Cgroup,
    flows::{Filling, fill, table},
};

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
        exclusion: false,
    };
    let (datapath, _) = Datapath::open(&options).context("cannot make the maps")?;
    let mut flows = datapath.flows()?;
    walk("an empty table", &mut flows, Ending::Nobodys)?;
    let mut table = table(bpffs.path())?;
    let udp = Filling { proto: Proto::Udp, seen: flow_seen::PACKET, created_s: NOW - 1_000 };
    let began = Instant::now();
    fill(&mut table, n, udp, |_| NOW)?;
    println!("{n} flows written in {:?}", began.elapsed());
    walk("all busy", &mut flows, Ending::Nobodys)?;
    fill(&mut table, n, udp, |_| NOW - 60)?;
    walk("all idle, none over", &mut flows, Ending::Nobodys)?;
    fill(&mut table, n, udp, |flow| if flow % 10 == 0 { NOW - 121 } else { NOW })?;
    walk("one in ten over", &mut flows, Ending::Nobodys)?;
    fill(&mut table, n, udp, |_| NOW)?;
    walk("a backend with one in a hundred is gone", &mut flows, Ending::Of([(1, 1)].into()))
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
