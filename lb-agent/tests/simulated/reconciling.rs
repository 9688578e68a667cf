//! How the loop spends its time: work in proportion to the change, small changes before long batches, retries, and what
//! is said about all that.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr},
    time::Duration,
};

use lb_agent::{
    datapath::{faulty::FaultyStore, sim::SimStore, store::Capacity},
    event::{Endpoint, EndpointSlice, Event, Node, ObjectName, Service, ServicePort, SlicePort},
    model::ModelConfig,
    reconcile::{Reconciler, Report, Step, Update, run},
    watch::{Message, SourceKind, SourceStatus},
};
use lb_common::{abi::Proto, sim::SimSocket};
use tokio::sync::{mpsc, oneshot};

use crate::agent::{Agent, Faults, ROOMY};

/// Room for thousands of Services.
const LARGE: Capacity = Capacity { frontends: 20_000, backends: 100_000, slots: 200_000, ..ROOMY };

fn ip(kind: u8, index: u16) -> Ipv4Addr {
    let [high, low] = index.to_be_bytes();
    Ipv4Addr::new(10, kind, high, low)
}

fn service(index: u16) -> Service {
    Service {
        cluster_ips: vec![ip(96, index).into()],
        ports: vec![ServicePort { name: "".into(), proto: Proto::Tcp, port: 80, node_port: None }],
        ..Service::named(ObjectName::new("default", format!("s{index}")))
    }
}

/// The slice of the Service of this index; each of `endpoints` is the end of an address.
fn slice(index: u16, endpoints: impl IntoIterator<Item = u16>) -> EndpointSlice {
    let endpoint = |end| Endpoint {
        address: IpAddr::V4(ip(244, end)),
        ready: true,
        serving: true,
        terminating: false,
        node: Some("n1".into()),
        zone: None,
        hints: None,
    };
    EndpointSlice {
        name: ObjectName::new("default", format!("s{index}-1")),
        service: format!("s{index}").into(),
        ports: vec![SlicePort { name: "".into(), proto: Proto::Tcp, port: Some(8080) }],
        endpoints: endpoints.into_iter().map(endpoint).collect(),
    }
}

/// Full lists of so many Services with ten endpoints each.
fn lists(services: u16) -> [Event; 2] {
    let slices: Vec<_> = (0..services).map(|index| slice(index, 0..10)).collect();
    let services: Vec<_> = (0..services).map(service).collect();
    [Event::SlicesReset(slices.into()), Event::ServicesReset(services.into())]
}

/// Where a new connection to the Service goes, if anywhere else.
fn lookup(maps: &SimStore, index: u16) -> Option<IpAddr> {
    let to = (IpAddr::from(ip(96, index)), 80).into();
    let reached = SimSocket::for_destination(ip(96, index).into(), Proto::Tcp).connect(maps.node(), to).ok()?;
    (reached != to).then_some(reached.ip())
}

#[test]
fn a_change_costs_the_same_few_operations_in_a_small_and_a_large_cluster() {
    let costs = [10, 2_000].map(|services| {
        let mut agent = Agent::start(LARGE, Faults::NONE);
        agent.receive(lists(services));
        agent.settle();
        let before = agent.maps().operations();
        agent.receive([Event::SliceApplied(slice(5, 1..11))]);
        agent.settle();
        agent.maps().operations() - before
    });
    // The new backend, the range, the frontend, the old backend.
    assert_eq!(costs, [4, 4]);
}

#[test]
fn a_change_does_not_wait_for_a_long_batch() {
    let mut agent = Agent::start(LARGE, Faults::NONE);
    agent.receive(lists(1));
    agent.settle();
    agent.receive(
        (1..3_000).flat_map(|index| [Event::SliceApplied(slice(index, 0..10)), Event::ServiceApplied(service(index))]),
    );
    assert_eq!(agent.step(), Step::More);
    assert!(agent.report().pending_since.is_some());
    agent.receive([Event::SliceApplied(slice(0, [77]))]);
    assert_eq!(agent.step(), Step::More, "the batch goes on");
    assert_eq!(lookup(agent.maps(), 0), Some(ip(244, 77).into()));

    agent.settle();
    assert!(agent.report().pending_since.is_none());
    assert!((1..3_000).all(|index| lookup(agent.maps(), index).is_some()));
}

/// A node with a tenth of all endpoints is gone, and every Service changes.
#[test]
fn a_large_change_is_done_in_short_steps_between_which_events_are_taken_in() {
    const SERVICES: u16 = 2_000;
    let mut agent = Agent::start(LARGE, Faults::NONE);
    agent.receive(lists(SERVICES));
    agent.settle();
    agent.receive((1..SERVICES).map(|index| Event::SliceApplied(slice(index, 1..10))));
    let mut steps = 0;
    loop {
        let before = agent.maps().operations();
        let more = agent.step();
        let done = agent.maps().operations() - before;
        assert!(done <= 1_000 + 20, "{done} operations in one step");
        steps += 1;
        if steps == 4 {
            agent.receive([Event::SliceApplied(slice(0, [77]))]);
            agent.step();
            assert_eq!(lookup(agent.maps(), 0), Some(ip(244, 77).into()), "after one step");
        }
        if more == Step::Idle {
            break;
        }
    }
    // A range, a frontend and a backend less for each.
    assert!(steps <= 10, "{steps} steps");
    assert_eq!(agent.report().usage.v4.backends, 9 * u32::from(SERVICES - 1) + 1);
}

#[test]
fn a_relist_without_a_change_writes_nothing() {
    let mut agent = Agent::start(LARGE, Faults::NONE);
    agent.receive(lists(1_000));
    agent.settle();
    let before = agent.maps().operations();
    agent.receive(lists(1_000));
    agent.settle();
    agent.restart(|_| {});
    agent.receive(lists(1_000));
    agent.settle();
    assert_eq!(agent.maps().operations(), before);
}

#[test]
fn a_failure_is_retried_ever_more_rarely_and_at_once_when_the_service_changes() {
    let mut agent = Agent::start(ROOMY, Faults::NONE);
    agent.receive(lists(2));
    agent.settle();
    agent.reconciler().store_mut().set_percent(100);
    agent.receive([Event::SliceApplied(slice(0, [1]))]);
    let mut pauses = Vec::new();
    for _ in 0..3 {
        assert_eq!(agent.step(), Step::Idle);
        let pause = agent.next_try().unwrap();
        pauses.push(pause.as_millis());
        assert_eq!(agent.step(), Step::Idle, "not before its time");
        assert_eq!(agent.next_try(), Some(pause));
        agent.wait(pause);
    }
    assert_eq!(pauses, [20, 40, 80]);
    agent.step();
    let report = agent.report();
    assert_eq!((report.failing, report.write_errors), (1, 4));
    let error = report.last_error.unwrap().text;
    assert_eq!(error, "Service default/s0: write of slots on map lb_faulty: injected fault");
    assert!(report.pending_since.is_some());

    agent.reconciler().store_mut().set_percent(0);
    agent.receive([Event::SliceApplied(slice(0, [2]))]);
    agent.step();
    assert_eq!(lookup(agent.maps(), 0), Some(ip(244, 2).into()), "without waiting for the retry");
    assert_eq!((agent.report().failing, agent.next_try()), (0, None));
    assert!(agent.report().pending_since.is_none());
}

#[test]
fn a_failing_service_does_not_keep_the_others() {
    let mut agent = Agent::start(ROOMY, Faults { percent: 5, seed: 7 });
    agent.receive(lists(100));
    while agent.step() == Step::More {}
    let report = agent.report();
    assert!(report.failing > 10 && report.failing < 100, "{report:?}");
    // Of some only the refusal of other ports is still missing.
    let served = (0..100).filter(|&index| lookup(agent.maps(), index).is_some()).count();
    assert!(served >= 100 - report.failing, "{served} and {report:?}");
    agent.settle();
    assert!((0..100).all(|index| lookup(agent.maps(), index).is_some()));
}

#[test]
fn the_report_counts_what_the_maps_hold_and_tells_each_latency_once() {
    let mut agent = Agent::start(ROOMY, Faults::NONE);
    let [slices, services] = lists(3);
    agent.receive([slices]);
    agent.step();
    assert!(agent.report().synced.is_none());
    agent.wait(Duration::from_millis(5));
    agent.receive([services]);
    agent.wait(Duration::from_millis(7));
    agent.settle();

    let report = agent.report();
    assert!(report.synced.is_some());
    assert_eq!(report.usage.services, 3);
    let v4 = report.usage.v4;
    assert_eq!((v4.frontends, v4.backends, v4.slots, v4.slots_resting), (6, 30, 30, 0));
    assert_eq!(v4.capacity, ROOMY);
    assert_eq!(report.latencies, [Duration::from_millis(7); 3]);
    assert!(agent.report().latencies.is_empty());

    agent.receive(lists(3));
    agent.settle();
    assert!(agent.report().latencies.is_empty(), "a relist without a change is none");
}

#[test]
fn a_service_that_does_not_fit_waits_for_room_and_not_for_time() {
    let mut agent = Agent::start(Capacity { frontends: 2, ..ROOMY }, Faults::NONE);
    agent.receive(lists(1));
    agent.settle();
    agent.receive([Event::ServiceApplied(service(1))]);
    agent.settle();
    let report = agent.report();
    assert_eq!((report.not_fitting, report.failing), (1, 0));
    assert!(report.pending_since.is_none() && agent.next_try().is_none());
    let error = report.last_error.unwrap().text;
    assert!(error.starts_with("Service default/s1: map lb_frontends4 is full (2 entries): raise"), "{error}");
}

#[test]
fn a_service_whose_ranges_do_not_fit_is_named_and_changes_nothing_until_they_do() {
    // Two ranges for eight frontends.
    let mut agent = Agent::start(Capacity { frontends: 8, ..ROOMY }, Faults::NONE);
    let restricted = |ranges: &[&str]| Service {
        ingress_ips: vec![ip(50, 1).into()],
        source_ranges: ranges.iter().map(|range| range.parse().unwrap()).collect(),
        ..service(0)
    };
    agent.receive([Event::SlicesReset(vec![slice(0, 0..2)].into())]);
    let two = ["10.0.0.0/8", "172.16.0.0/12"];
    agent.receive([Event::ServicesReset(vec![restricted(&["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"])].into())]);
    agent.settle();
    let report = agent.report();
    assert_eq!((report.not_fitting, report.failing, report.usage.v4.sources), (1, 0, 0));
    let why = report.first_not_fitting.unwrap();
    assert!(why.starts_with("Service default/s0: map lb_sources4 is full (2 entries): raise"), "{why}");
    assert_eq!(report.usage.v4.backends, 0, "nothing of what could not be used was written");

    agent.receive([Event::ServiceApplied(restricted(&two))]);
    agent.settle();
    let report = agent.report();
    assert_eq!((report.not_fitting, report.usage.v4.sources), (0, 2));
    assert!(lookup(agent.maps(), 0).is_some());

    agent.receive([Event::ServiceApplied(restricted(&["0.0.0.0/0"]))]);
    agent.settle();
    assert_eq!(agent.report().usage.v4.sources, 0, "whoever lets everybody in needs no range");
}

/// Runs the shell until it has told this, or ten seconds have passed.
async fn told(updates: &mut mpsc::UnboundedReceiver<Update>, right: impl Fn(&Report) -> bool) -> Vec<SourceStatus> {
    let mut sources = Vec::new();
    let found = async {
        while let Some(update) = updates.recv().await {
            match update {
                Update::Maps(report) if right(&report) => return,
                Update::Maps(_)
                | Update::Gone(_)
                | Update::HealthChecks(_)
                | Update::NodeAddresses(_)
                | Update::Pods(_) => {}
                Update::Source(status) => sources.push(status),
            }
        }
        panic!("the loop ended");
    };
    tokio::time::timeout(Duration::from_secs(10), found).await.expect("the loop reports it");
    sources
}

#[test]
fn two_services_with_one_address_are_reported_by_name_until_one_gives_it_up() {
    let mut agent = Agent::start(ROOMY, Faults::NONE);
    let twin = |name: &str, address: u16| Service {
        name: ObjectName::new("default", name),
        cluster_ips: vec![ip(96, address).into()],
        ..service(0)
    };
    agent.receive([Event::SlicesReset(vec![].into()), Event::ServicesReset(vec![twin("a", 1), twin("b", 1)].into())]);
    agent.settle();
    let report = agent.report();
    let text = report.first_conflict.unwrap();
    assert_eq!(report.conflicts, 1);
    for word in ["default/a", "default/b", "spec.clusterIP", "10.96.0.1:80 TCP"] {
        assert!(text.contains(word), "{word:?} is not in {text:?}");
    }
    agent.receive([Event::ServiceApplied(twin("b", 2))]);
    agent.settle();
    let report = agent.report();
    assert_eq!((report.conflicts, report.first_conflict), (0, None));
}

#[test]
fn a_node_is_going_away_when_its_object_says_so_or_is_gone_after_it_was_there() {
    let mut agent = Agent::start(ROOMY, Faults::NONE);
    let node = |going_away| Event::NodeApplied(Node { going_away, ..Node::default() });
    let mut after = |event: Event| {
        agent.receive([event]);
        agent.report().node_going_away
    };
    assert!(!after(Event::NodeDeleted), "there never was one, as with manifests");
    assert!(!after(node(false)));
    assert!(after(node(true)));
    assert!(!after(node(false)), "the taint was taken away again");
    assert!(after(Event::NodeDeleted));
}

#[tokio::test]
async fn the_loop_follows_the_channel_retries_by_itself_and_leaves_the_maps_at_its_end() {
    let store = FaultyStore::new(SimStore::new(1, ROOMY), 10, 3);
    let reconciler = Reconciler::new(store, ModelConfig::default()).unwrap();
    let (tx, rx) = mpsc::channel(4);
    let (tell, mut updates) = mpsc::unbounded_channel();
    let (stop, stopped) = oneshot::channel::<()>();
    let tell = move |update| tell.send(update).unwrap();
    let shell = tokio::spawn(run(reconciler, rx, tell, async { stopped.await.unwrap() }));

    let status = SourceStatus {
        kind: SourceKind::Manifests,
        location: "manifests".into(),
        synced_since: None,
        last_error: None,
        problems: Vec::new(),
    };
    let node = [Event::NodeDeleted, Event::AddressesChanged(BTreeSet::new())];
    for event in node.into_iter().chain(lists(50)) {
        tx.send(Message::Event(event)).await.unwrap();
    }
    tx.send(Message::Status(status.clone())).await.unwrap();
    let done = |report: &Report| report.synced.is_some() && report.pending_since.is_none();
    let sources = told(&mut updates, |report| done(report) && report.usage.services == 50).await;
    assert_eq!(sources, [status]);

    tx.send(Message::Event(Event::ServiceDeleted(service(7).name))).await.unwrap();
    drop(tx);
    told(&mut updates, |report| done(report) && report.usage.services == 49).await;
    stop.send(()).unwrap();
    let maps = tokio::time::timeout(Duration::from_secs(10), shell).await.unwrap().unwrap().into_store().into_inner();
    let served: Vec<_> = (0..50).filter(|&index| lookup(&maps, index).is_some()).collect();
    assert_eq!(served, (0..50).filter(|&index| index != 7).collect::<Vec<_>>());
    assert!(maps.violations().is_empty(), "{:?}", maps.violations());
}
