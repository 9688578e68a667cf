//! What is taken down leaves nothing in the kernel: a node with its agent, and an installation by `lb-agent cleanup`.

use std::{collections::BTreeSet, path::Path};

use anyhow::{Context as _, Result, ensure};
use lb_tests::{bpftool, eventually, poll::PATIENCE};

use crate::cluster::{Cluster, WEB4, at};
use lb_tests::guest::Traffic;

#[test]
fn a_node_that_is_gone_leaves_no_programs_maps_pins_or_namespaces() -> Result<()> {
    let cluster = Cluster::serving(&["a"])?;
    cluster.client.ask(Traffic::Tcp, at(WEB4))?;
    let paths = [cluster.node.netns().path(), cluster.node.cgroup().path(), cluster.node.bpffs().path()];
    let paths = paths.map(Path::to_path_buf);
    let (maps, programs) = objects(&cluster)?;
    ensure!(maps.len() >= 8 && programs.len() >= 8, "{} maps, {} programs", maps.len(), programs.len());
    drop(cluster);
    for path in paths {
        assert!(!path.exists(), "{}", path.display());
    }
    // The kernel frees them after a grace period.
    for (kind, ids) in [("map", maps), ("prog", programs)] {
        eventually(&format!("each {kind} of {ids:?} to go"), PATIENCE, || {
            Ok(ids_of(kind)?.is_disjoint(&ids).then_some(()))
        })?;
    }
    Ok(())
}

#[test]
fn cleanup_is_refused_while_an_agent_runs_and_leaves_nothing_after_it() -> Result<()> {
    let mut cluster = Cluster::serving(&["a"])?;
    let held = cluster.client.tcp(at(WEB4))?;
    let (status, _, stderr) = cluster.agent.cli(&["cleanup"])?;
    assert!(!status.success(), "{status}");
    let pid = cluster.agent.process().pid().to_string();
    assert!(stderr.contains(&pid), "it does not name the agent's pid {pid}: {stderr}");
    cluster.agent.stop()?;
    let (status, _, stderr) = cluster.agent.cli(&["cleanup"])?;
    assert!(status.success(), "{status}: {stderr}");
    assert!(!cluster.node.bpffs().path().join("lb").exists());
    assert!(cluster.client.ask(Traffic::Tcp, at(WEB4)).is_err(), "the programs are detached when it returns");
    assert_eq!(held.ask()?, "a", "open connections go on");
    Ok(())
}

/// The ids of the agent's maps and programs.
fn objects(cluster: &Cluster) -> Result<(BTreeSet<u64>, BTreeSet<u64>)> {
    let pins = cluster.node.bpffs().path().join("lb");
    let ids = |kind: &str, directory: &str, field: &str| -> Result<BTreeSet<u64>> {
        let directory = pins.join(directory);
        let entries = std::fs::read_dir(&directory).with_context(|| format!("no {}", directory.display()))?;
        entries
            .map(|entry| {
                let pin = entry?.path();
                let object = bpftool::shown(&[&kind, &"show", &"pinned", &pin])?;
                object[field].as_u64().with_context(|| format!("no {field} in {object}"))
            })
            .collect()
    };
    Ok((ids("map", "maps", "id")?, ids("link", "links", "prog_id")?))
}

/// The ids of all maps or programs of this machine.
fn ids_of(kind: &str) -> Result<BTreeSet<u64>> {
    let shown = bpftool::shown(&[&kind, &"show"])?;
    let objects = shown.as_array().with_context(|| format!("no list of {kind}s: {shown}"))?;
    Ok(objects.iter().filter_map(|object| object["id"].as_u64()).collect())
}
