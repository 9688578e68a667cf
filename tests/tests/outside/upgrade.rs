//! Another build of the agent takes over from this one, and this one from it, under traffic of both layers.
//!
//! The other build's programs are the same source compiled with other options: other instructions in every program, for the
//! same layout of the maps.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::SocketAddr,
    path::Path,
};

use anyhow::{Context as _, Result, ensure};
use aya::{
    maps::{Array, Map, MapData},
    programs::{
        links::{FdLink, PinnedLink},
        loaded_programs,
    },
};
use lb_agent::datapath::bpf::Way;
use lb_common::abi::ABI_VERSION;
use lb_tests::{Layout, Node, kernel_objects::other_object};

use crate::{
    hand,
    restart::Flows,
    world::{CLUSTER, EVERY_TRAFFIC, Offload, PORT, World},
};

/// What the kernel calls the code of each program of an installation, by the name of its link.
fn code(node: &Node) -> Result<BTreeMap<String, u64>> {
    let tags = loaded_programs().map(|program| program.map(|program| (program.id(), program.tag())));
    let tags: BTreeMap<u32, u64> = tags.collect::<Result<_, _>>()?;
    let mut code = BTreeMap::new();
    for entry in fs::read_dir(node.bpffs().path().join("lb/links"))? {
        let path = entry?.path();
        let link: FdLink = PinnedLink::from_pin(&path)?.into();
        let name = path.file_name().context("no name")?.to_string_lossy().into_owned();
        code.insert(name, *tags.get(&link.info()?.program_id()).context("the program is gone")?);
    }
    Ok(code)
}

/// Flows of either layer. From a pod with hooks on node `one`, 300 to the ClusterIP; from outside, 200 to the NodePort.
fn open<'w>(world: &'w World, inside: &'w lb_tests::Guest) -> Result<[Flows<'w>; 2]> {
    let cluster = CLUSTER.map(|ip| SocketAddr::new(ip, PORT));
    Ok([Flows::between(inside, cluster, &EVERY_TRAFFIC)?, Flows::open(world)?])
}

/// That flows go on, and new ones are served.
fn goes_on(world: &World, inside: &lb_tests::Guest, flows: &[Flows<'_>; 2]) -> Result<()> {
    for traffic in EVERY_TRAFFIC {
        for to in world.frontends() {
            world.client.ask(traffic, to).with_context(|| format!("{traffic:?} from outside to {to}"))?;
        }
        for ip in CLUSTER {
            inside
                .ask(traffic, SocketAddr::new(ip, PORT))
                .with_context(|| format!("{traffic:?} from a pod to {ip}"))?;
        }
    }
    flows.iter().try_for_each(Flows::look)
}

#[test]
fn no_flow_breaks_or_moves_when_another_build_takes_over_and_when_this_one_comes_back() -> Result<()> {
    let mut world = World::new(Layout::PointToPoint, Offload::On)?;
    let mut agents = std::mem::take(&mut world.agents);
    let client = world.nodes[0].pod("client")?;
    let inside = client.guest()?;
    let flows = open(&world, &inside)?;
    let before = code(&world.nodes[0])?;
    agents[0].stop()?;
    hand::install(&world.nodes[0], &other_object(), Way::Tcx)?;
    let other = code(&world.nodes[0])?;
    assert!(before.keys().eq(other.keys()), "{before:?} {other:?}");
    // The small ones, which translate nothing, are the same whatever the compiler is told.
    let is_small = |name: &&String| ["bind", "getpeer", "recvmsg"].iter().any(|small| name.contains(small));
    let same: BTreeSet<&String> =
        before.keys().filter(|name| !is_small(name) && before[*name] == other[*name]).collect();
    assert!(same.is_empty(), "these are no other programs: {same:?}");
    goes_on(&world, &inside, &flows)?;
    agents[0].restart()?;
    agents[0].wait_ready()?;
    assert_eq!(code(&world.nodes[0])?, before, "this build's programs again");
    goes_on(&world, &inside, &flows)?;
    flows.into_iter().try_for_each(Flows::are_unharmed)
}

/// Has the maps say that they are of another layout.
fn set_version(bpffs: &Path, version: u32) -> Result<()> {
    let map = MapData::from_pin(bpffs.join("lb/maps/lb_abi"))?;
    let mut map: Array<_, u32> = Map::Array(map).try_into()?;
    Ok(map.set(0, version, 0)?)
}

#[test]
fn a_build_with_another_layout_of_the_maps_refuses_to_start_and_no_flow_notices() -> Result<()> {
    let mut world = World::new(Layout::PointToPoint, Offload::On)?;
    let mut agents = std::mem::take(&mut world.agents);
    let client = world.nodes[0].pod("client")?;
    let inside = client.guest()?;
    let flows = open(&world, &inside)?;
    let (agent, bpffs) = (&mut agents[0], world.nodes[0].bpffs().path());
    agent.stop()?;
    for other in [ABI_VERSION - 1, ABI_VERSION + 1] {
        set_version(bpffs, other)?;
        agent.restart()?;
        let status = agent.wait_exit()?;
        let log = agent.process().log()?;
        ensure!(!status.success() && log.contains(&format!("layout version {other}")), "{status}: {log}");
        assert!(log.contains("lb-agent cleanup"), "it says what to do: {log}");
        goes_on(&world, &inside, &flows)?;
    }
    set_version(bpffs, ABI_VERSION)?;
    agent.restart()?;
    agent.wait_ready()?;
    goes_on(&world, &inside, &flows)?;
    flows.into_iter().try_for_each(Flows::are_unharmed)
}
