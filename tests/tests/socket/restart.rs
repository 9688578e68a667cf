//! The agent dies, restarts, is upgraded: connections do not notice.

use std::{thread, time::Duration};

use anyhow::Result;
use aya::maps::{Array, Map, MapData};
use lb_common::abi::{Absent, N_ABSENT};
use lb_tests::guest::{Hold, Load, Traffic};

use crate::cluster::{Cluster, EVERY_TRAFFIC, WEB4, WEB6, at, hold, load};

/// Load and held sockets of every kind.
struct Witnesses<'c> {
    loads: Vec<Load<'c>>,
    holds: Vec<Hold<'c>>,
}

impl<'c> Witnesses<'c> {
    fn of(cluster: &'c lb_tests::Guest) -> Result<Self> {
        let all = EVERY_TRAFFIC.iter().flat_map(|traffic| [at(WEB4), at(WEB6)].map(|address| (*traffic, address)));
        let (mut loads, mut holds) = (Vec::new(), Vec::new());
        for (traffic, address) in all {
            loads.push(cluster.load(load(traffic, address))?);
            holds.push(cluster.hold(hold(traffic, address))?);
        }
        Ok(Self { loads, holds })
    }

    /// Waits until each has done something, so that it has seen what is the case now.
    fn look(&self) -> Result<()> {
        for load in &self.loads {
            load.wait_for(20)?;
        }
        for hold in &self.holds {
            hold.wait_for(5)?;
        }
        Ok(())
    }

    fn have_noticed_nothing(self) -> Result<()> {
        for load in self.loads {
            let report = load.stop()?;
            assert!(report.errors.is_empty(), "{report:?}");
        }
        for hold in self.holds {
            let report = hold.stop()?;
            assert!(report.breaks.is_empty() && report.moves.is_empty(), "{report:?}");
            assert!(report.rounds > 0);
        }
        Ok(())
    }
}

#[test]
fn connections_survive_kill_9_of_the_agent_and_its_restart() -> Result<()> {
    let mut cluster = Cluster::serving(&["a", "b", "c"])?;
    let client = cluster.client_pod.guest()?;
    let witnesses = Witnesses::of(&client)?;
    for _ in 0..3 {
        cluster.agent.kill9()?;
        witnesses.look()?;
        cluster.agent.restart()?;
        cluster.agent.wait_ready()?;
        witnesses.look()?;
    }
    witnesses.have_noticed_nothing()?;
    cluster.list(&[0])
}

#[test]
fn connections_survive_a_stop_of_the_agent_and_its_restart() -> Result<()> {
    let mut cluster = Cluster::serving(&["a", "b", "c"])?;
    let client = cluster.client_pod.guest()?;
    let witnesses = Witnesses::of(&client)?;
    let status = cluster.agent.stop()?;
    assert!(status.success(), "the agent answered SIGTERM with {status}");
    witnesses.look()?;
    cluster.agent.restart()?;
    cluster.agent.wait_ready()?;
    witnesses.look()?;
    witnesses.have_noticed_nothing()
}

#[test]
fn what_changed_while_the_agent_was_dead_is_in_force_after_its_restart() -> Result<()> {
    let mut cluster = Cluster::serving(&["a", "b", "c"])?;
    cluster.agent.kill9()?;
    cluster.manifests.write("web", &[&crate::cluster::web(&[&cluster.pods[2]])])?;
    assert_eq!(cluster.answers(Traffic::Tcp, at(WEB4).into())?.len(), 3, "a dead agent changes nothing");
    cluster.agent.restart()?;
    cluster.agent.wait_ready()?;
    assert_eq!(cluster.answers(Traffic::Tcp, at(WEB4).into())?, ["c".to_owned()].into());
    Ok(())
}

/// An earlier build noted less of each frontend in `lb_nofront4`, here nothing at all: by that map nobody is a Service.
#[test]
fn frontends_that_are_adopted_are_noted_again() -> Result<()> {
    let mut cluster = Cluster::serving(&["a"])?;
    cluster.agent.kill9()?;
    let map = MapData::from_pin(cluster.node.bpffs().path().join("lb/maps/lb_nofront4"))?;
    let mut map: Array<_, Absent> = Map::Array(map).try_into()?;
    (0..N_ABSENT).try_for_each(|line| map.set(line, Absent::NOBODY, 0))?;
    cluster.agent.restart()?;
    cluster.agent.wait_ready()?;
    assert_eq!(cluster.answers(Traffic::UdpUnconnected, at(WEB4).into())?, ["a".to_owned()].into());
    Ok(())
}

#[test]
fn an_agent_that_is_killed_at_any_moment_of_its_start_leaves_nothing_half_done() -> Result<()> {
    let mut cluster = Cluster::serving(&["a", "b", "c"])?;
    let client = cluster.client_pod.guest()?;
    let loads = EVERY_TRAFFIC.map(|traffic| client.load(load(traffic, at(WEB4))));
    for moment in 0..12 {
        let pods = [&cluster.pods[moment % 3], &cluster.pods[(moment + 1) % 3]];
        cluster.agent.kill9()?;
        cluster.manifests.write("web", &[&crate::cluster::web(&pods)])?;
        cluster.agent.restart()?;
        // Not to wait for anything: the moment of death is what this test varies, from the first instruction to about
        // when a debug build has adopted and written everything.
        thread::sleep(Duration::from_millis(40) * u32::try_from(moment)?);
    }
    cluster.agent.wait_ready()?;
    cluster.list(&[1])?;
    for load in loads {
        let report = load?.stop()?;
        assert!(report.attempts > 0 && report.errors.is_empty(), "{report:?}");
    }
    Ok(())
}
