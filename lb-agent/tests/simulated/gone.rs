//! Which backends are said to be gone, for those who have to tell the clients.

use std::net::{IpAddr, Ipv4Addr};

use lb_agent::event::{Endpoint, EndpointSlice, Event, ObjectName, Service, ServicePort, SlicePort};
use lb_common::abi::Proto;

use crate::agent::{Agent, Faults, ROOMY};

fn service(port: &str) -> Service {
    Service {
        cluster_ips: vec![Ipv4Addr::new(10, 96, 0, 1).into()],
        ports: vec![ServicePort { name: port.into(), proto: Proto::Udp, port: 53, node_port: None }],
        ..Service::named(ObjectName::new("default", "dns"))
    }
}

/// What an endpoint is.
#[derive(Clone, Copy)]
enum Is {
    Ready,
    Terminating,
    NotServing,
}

fn slice(port: &str, endpoints: &[(u8, Is)]) -> EndpointSlice {
    let endpoint = |&(end, is): &(u8, Is)| Endpoint {
        address: IpAddr::from([10, 244, 0, end]),
        ready: matches!(is, Is::Ready),
        serving: !matches!(is, Is::NotServing),
        terminating: !matches!(is, Is::Ready),
        node: None,
        zone: None,
        hints: None,
    };
    EndpointSlice {
        name: ObjectName::new("default", "dns-1"),
        service: "dns".into(),
        ports: vec![SlicePort { name: port.into(), proto: Proto::Udp, port: Some(5353) }],
        endpoints: endpoints.iter().map(endpoint).collect(),
    }
}

fn agent(percent: u32, endpoints: &[(u8, Is)]) -> Agent {
    let mut agent = Agent::start(ROOMY, Faults { percent, seed: 3 });
    agent.receive([Event::SlicesReset(vec![slice("", endpoints)].into())]);
    agent.receive([Event::ServicesReset(vec![service("")].into())]);
    agent.settle();
    agent
}

/// The ends of the addresses that are gone since the last call; each was told with its ids and its port.
fn gone(agent: &mut Agent) -> Vec<u8> {
    agent.settle();
    let gone = agent.reconciler().take_gone();
    assert!(gone.iter().all(|gone| gone.proto == Proto::Udp && gone.addr.port() == 5353 && gone.service == 1));
    let end = |ip: IpAddr| if let IpAddr::V4(ip) = ip { ip.octets()[3] } else { 0 };
    let mut ends: Vec<u8> = gone.iter().map(|gone| end(gone.addr.ip())).collect();
    ends.sort_unstable();
    ends
}

#[test]
fn a_backend_is_gone_when_it_is_deleted_or_stops_serving_and_not_while_it_terminates() {
    for percent in [0, 30] {
        let mut agent = agent(percent, &[(1, Is::Ready), (2, Is::Ready), (3, Is::Ready)]);
        let backend =
            agent.maps().node().v4.backends.iter().find(|(_, b)| b.addr == [10, 244, 0, 2]).map(|(id, _)| *id);
        assert!(gone(&mut agent).is_empty());
        agent.receive([Event::SliceApplied(slice("", &[(1, Is::Ready), (2, Is::Terminating), (3, Is::Terminating)]))]);
        assert!(gone(&mut agent).is_empty());
        agent.receive([Event::SliceApplied(slice("", &[(1, Is::Ready), (2, Is::NotServing)]))]);
        agent.settle();
        let told = agent.reconciler().take_gone();
        let mut ids: Vec<_> = told.iter().map(|gone| (gone.addr.to_string(), gone.backend)).collect();
        ids.sort();
        assert_eq!(ids.len(), 2);
        assert_eq!((ids[0].0.as_str(), Some(ids[0].1)), ("10.244.0.2:5353", backend));
        assert_eq!(ids[1].0, "10.244.0.3:5353");
        // It is told once, also when the entry that does not serve goes later.
        agent.receive([Event::SliceApplied(slice("", &[(1, Is::Ready)]))]);
        assert!(gone(&mut agent).is_empty());
        agent.receive([Event::ServiceDeleted(service("").name)]);
        assert_eq!(gone(&mut agent), [1]);
    }
}

#[test]
fn an_endpoint_that_serves_the_same_service_under_another_id_is_not_gone() {
    let mut agent = agent(0, &[(1, Is::Ready), (2, Is::Ready)]);
    let before = agent.maps().node().v4.backends.clone();
    let renamed = [(1, Is::Ready)];
    agent.receive([Event::SliceApplied(slice("dns", &renamed)), Event::ServiceApplied(service("dns"))]);
    assert_eq!(gone(&mut agent), [2]);
    let after = agent.maps().node().v4.backends.clone();
    assert!(after.keys().all(|id| !before.contains_key(id)), "{before:?} {after:?}");
}

#[test]
fn a_backend_that_went_while_no_agent_ran_is_gone_for_the_next_one() {
    let mut agent = agent(0, &[(1, Is::Ready), (2, Is::Ready)]);
    agent.restart(|_| {});
    agent.receive([Event::SlicesReset(vec![slice("", &[(1, Is::Ready)])].into())]);
    agent.receive([Event::ServicesReset(vec![service("")].into())]);
    assert_eq!(gone(&mut agent), [2]);
}

#[test]
fn a_tcp_backend_that_is_not_ready_is_gone_only_when_it_is_deleted() {
    let tcp = |endpoints: &[(u8, Is)]| {
        let mut slice = slice("", endpoints);
        slice.ports[0].proto = Proto::Tcp;
        slice
    };
    let mut service = service("");
    service.ports[0].proto = Proto::Tcp;
    let mut agent = Agent::start(ROOMY, Faults { percent: 0, seed: 3 });
    agent.receive([Event::SlicesReset(vec![tcp(&[(1, Is::Ready), (2, Is::Ready)])].into())]);
    agent.receive([Event::ServicesReset(vec![service].into())]);
    agent.settle();
    agent.receive([Event::SliceApplied(tcp(&[(1, Is::Ready), (2, Is::NotServing)]))]);
    agent.settle();
    assert!(agent.reconciler().take_gone().is_empty(), "a readiness flap resets no connection");
    agent.receive([Event::SliceApplied(tcp(&[(1, Is::Ready)]))]);
    agent.settle();
    let gone = agent.reconciler().take_gone();
    let told: Vec<_> = gone.iter().map(|gone| (gone.proto, gone.addr.to_string())).collect();
    assert_eq!(told, [(Proto::Tcp, "10.244.0.2:5353".to_owned())]);
}
