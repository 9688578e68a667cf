//! Random histories of one socket: whatever it does and whatever happens to the backends, it is never lied to.

use std::collections::BTreeMap;

use lb_common::{logic::peers::UDP_PEER_TIMEOUT_S, sim::Refused};
use proptest::prelude::*;

use super::*;

const SERVICES: u8 = 12;
const PODS: u8 = 6;

/// One step of a history.
#[derive(Clone, Debug)]
enum Step {
    Serve { service: u8, pods: Vec<u8> },
    Send { service: u8 },
    Connect { service: u8 },
    ConnectPod { pod: u8 },
    Disconnect,
    Receive { pod: u8 },
    Wait { seconds: u32 },
}

fn step() -> impl Strategy<Value = Step> {
    // Pods of a Service are its own, so that a backend id belongs to one Service, as the plan gives them out.
    let pods = proptest::collection::btree_set(1..=PODS, 0..4);
    prop_oneof![
        (1..=SERVICES, pods).prop_map(|(service, pods)| {
            let pods = pods.into_iter().map(|pod| service * 10 + pod).collect();
            Step::Serve { service, pods }
        }),
        (1..=SERVICES).prop_map(|service| Step::Send { service }),
        (1..=SERVICES).prop_map(|service| Step::Connect { service }),
        (1..=SERVICES, 1..=PODS).prop_map(|(service, pod)| Step::ConnectPod { pod: service * 10 + pod }),
        Just(Step::Disconnect),
        (1..=SERVICES, 1..=PODS).prop_map(|(service, pod)| Step::Receive { pod: service * 10 + pod }),
        (0..2 * UDP_PEER_TIMEOUT_S).prop_map(|seconds| Step::Wait { seconds }),
    ]
}

/// What is true: who serves what, and which Services led this socket to which pods.
#[derive(Default)]
struct Truth {
    serving: BTreeMap<u8, Vec<u8>>,
    asked: BTreeMap<u8, Vec<u8>>,
}

impl Truth {
    fn check(&mut self, world: World, service: u8, outcome: Result<SocketAddr, Refused>) -> Result<(), TestCaseError> {
        let Some(pods) = self.serving.get(&service) else {
            prop_assert_eq!(outcome, Ok(world.service(service)), "not a Service: untouched");
            return Ok(());
        };
        let Ok(to) = outcome else {
            prop_assert!(pods.is_empty(), "refused although {pods:?} serve");
            return Ok(());
        };
        let pod = pods.iter().find(|pod| world.pod(**pod) == to);
        prop_assert!(pod.is_some(), "sent to {to}, but {pods:?} serve");
        self.asked.entry(service).or_default().extend(pod);
        Ok(())
    }
}

fn history(world: World, steps: Vec<Step>) -> Result<(), TestCaseError> {
    let mut node = SimNode::new(7);
    let socket = world.socket(Proto::Udp);
    let mut truth = Truth::default();
    for step in steps {
        match step {
            Step::Serve { service, pods } => {
                truth
                    .serving
                    .get(&service)
                    .into_iter()
                    .flatten()
                    .for_each(|pod| world.set_state(&mut node, *pod, None));
                world.serve(&mut node, service, &pods);
                truth.serving.insert(service, pods);
            }
            Step::Send { service } if !socket.is_connected() => {
                truth.check(world, service, socket.send_to(&node, world.service(service)))?;
            }
            Step::Send { .. } => {}
            Step::Connect { service } => {
                let outcome = socket.connect(&node, world.service(service));
                truth.check(world, service, outcome)?;
                if outcome.is_ok() {
                    prop_assert_eq!(socket.peer_name(&node), Some(world.service(service)));
                }
            }
            Step::ConnectPod { pod } => {
                prop_assert_eq!(socket.connect(&node, world.pod(pod)), Ok(world.pod(pod)));
                prop_assert_eq!(socket.peer_name(&node), Some(world.pod(pod)));
            }
            Step::Disconnect => socket.disconnect(),
            Step::Receive { pod } => {
                let shown = socket.recv_from(&node, world.pod(pod));
                let asked =
                    truth.asked.iter().any(|(service, pods)| pods.contains(&pod) && shown == world.service(*service));
                prop_assert!(shown == world.pod(pod) || asked, "{shown} was shown for pod {pod}");
            }
            Step::Wait { seconds } => node.environment.advance(seconds),
        }
    }
    Ok(())
}

proptest! {
    #[test]
    fn a_socket_reaches_only_who_serves_and_hears_only_whom_it_asked(
        steps in proptest::collection::vec(step(), 1..80),
        world in proptest::sample::select(&WORLDS[..]),
    ) {
        history(world, steps)?;
    }
}
