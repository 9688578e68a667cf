//! The agent dies and comes back: connections from outside do not notice.

use anyhow::Result;
use lb_tests::{
    Layout, eventually,
    guest::{Hold, HoldSpec, Traffic},
    poll::PATIENCE,
};

use crate::world::{Offload, World};

/// Flows of each traffic and family; 200 together.
const EACH: u32 = 50;

struct Flows<'w>(Vec<Hold<'w>>);

impl<'w> Flows<'w> {
    fn open(world: &'w World) -> Result<Self> {
        let mut holds = Vec::new();
        for target in world.node_port() {
            for traffic in [Traffic::Tcp, Traffic::UdpConnected] {
                let spec = HoldSpec { traffic, target: target.into(), sockets: EACH, interval_ms: 50 };
                holds.push(world.client.hold(spec)?);
            }
        }
        Ok(Self(holds))
    }

    /// Waits until each has been asked some times more.
    fn look(&self) -> Result<()> {
        self.0.iter().try_for_each(|hold| hold.wait_for(3).map(|_| ()))
    }

    /// Ends them; none broke, and none was answered by another pod than before.
    fn are_unharmed(self) -> Result<()> {
        for hold in self.0 {
            let report = hold.stop()?;
            assert!(report.breaks.is_empty() && report.moves.is_empty(), "{report:?}");
            assert_eq!(report.holders.values().sum::<u64>(), u64::from(EACH));
        }
        Ok(())
    }
}

#[test]
fn none_of_200_flows_breaks_or_moves_when_the_agent_is_killed_and_restarted() -> Result<()> {
    let mut world = World::new(Layout::PointToPoint, Offload::On)?;
    let mut agents = std::mem::take(&mut world.agents);
    let flows = Flows::open(&world)?;
    for _ in 0..2 {
        agents[0].kill9()?;
        flows.look()?;
        agents[0].restart()?;
        agents[0].wait_ready()?;
        flows.look()?;
    }
    flows.are_unharmed()
}

#[test]
fn flows_to_a_pod_that_is_no_endpoint_any_more_but_still_terminates_go_on() -> Result<()> {
    let world = World::new(Layout::Bridge, Offload::On)?;
    world.list(&[0, 2])?;
    let flows = Flows::open(&world)?;
    world.publish(&[1], |web| web.and_terminating(&[&world.pods[0], &world.pods[2]]))?;
    eventually("new connections to go to a2", PATIENCE, || {
        let mut answers = (0..20).map(|_| world.client.ask(Traffic::Tcp, world.node_port()[0]).unwrap_or_default());
        Ok(answers.all(|answer| answer.starts_with("a2 ")).then_some(()))
    })?;
    flows.look()?;
    flows.are_unharmed()
}
