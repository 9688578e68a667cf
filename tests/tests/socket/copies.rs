//! Frontends have copies that sockets' programs ask first. Whatever becomes of a frontend or of the agent, nobody is told what is no
//! more.

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::{Context as _, Result};
use aya::maps::{HashMap, Map, MapData};
use lb_common::abi::{Family, Frontend, FrontendCopy, FrontendKey, V4, V6, maps, scope};
use lb_tests::{
    eventually,
    guest::{Proto, Traffic},
    manifests::Service,
    poll::PATIENCE,
};

use crate::cluster::{Cluster, EVERY_TRAFFIC, POD_PORT, WEB4, WEB6, at};

/// Two addresses and ports whose copies have one place.
fn neighbours() -> Result<[SocketAddr; 2]> {
    let key = |addr: Ipv4Addr, port| FrontendKey::<V4> {
        addr: addr.octets(),
        port,
        proto: lb_common::abi::Proto::Tcp.number(),
        scope: scope::INTERNAL,
    };
    let [first, second] = [Ipv4Addr::new(10, 96, 0, 20), Ipv4Addr::new(10, 96, 0, 21)];
    let place = FrontendCopy::place(&key(first, 80));
    let port = (1..u16::MAX).find(|port| FrontendCopy::place(&key(second, *port)) == place);
    Ok([(first, 80).into(), (second, port.context("no port has this place")?).into()])
}

#[test]
fn of_two_services_whose_copies_have_one_place_both_answer_and_what_becomes_of_one_is_not_the_others() -> Result<()> {
    let mut cluster = Cluster::serving(&["a", "b", "c"])?;
    let at = neighbours()?;
    // Without the port it still has another one, so that its address refuses at once.
    let write = |cluster: &Cluster, which: usize, pod: Option<usize>| {
        let service = Service::new(["first", "second"][which], &[at[which].ip()]);
        let service = service.port("other", Proto::Udp, 9, POD_PORT).to(&[&cluster.pods[pod.unwrap_or(0)]]);
        let with_port = pod.map(|_| service.clone().port("asked", Proto::Tcp, at[which].port(), POD_PORT));
        cluster.manifests.write(["first", "second"][which], &[&with_port.unwrap_or(service)])
    };
    let lead_to = |cluster: &Cluster, expected: [Option<&str>; 2]| {
        let asked = || at.map(|address| cluster.client.ask(Traffic::Tcp, address).ok());
        let what = format!("{at:?} to lead to {expected:?}");
        eventually(&what, PATIENCE, || Ok((asked().each_ref().map(Option::as_deref) == expected).then_some(())))?;
        // And to nobody else from then on.
        (0..20).for_each(|_| assert_eq!(asked().each_ref().map(Option::as_deref), expected));
        anyhow::Ok(())
    };
    write(&cluster, 1, None)?;
    write(&cluster, 0, Some(0))?;
    lead_to(&cluster, [Some("a"), None])?;
    write(&cluster, 1, Some(1))?;
    lead_to(&cluster, [Some("a"), Some("b")])?;
    write(&cluster, 0, Some(2))?;
    lead_to(&cluster, [Some("c"), Some("b")])?;
    cluster.agent.kill9()?;
    cluster.agent.restart()?;
    cluster.agent.wait_ready()?;
    lead_to(&cluster, [Some("c"), Some("b")])?;
    write(&cluster, 1, Some(0))?;
    lead_to(&cluster, [Some("c"), Some("a")])?;
    write(&cluster, 1, None)?;
    lead_to(&cluster, [Some("c"), None])?;
    write(&cluster, 0, None)?;
    lead_to(&cluster, [None, None])
}

/// Takes every frontend out of the hash map, by hand.
fn forget_frontends<F: Family>(cluster: &Cluster, name: &str) -> Result<()> {
    let map = MapData::from_pin(cluster.node.bpffs().path().join("lb/maps").join(name))?;
    let mut map: HashMap<_, FrontendKey<F>, Frontend> = Map::HashMap(map).try_into()?;
    let keys = map.keys().collect::<Result<Vec<_>, _>>()?;
    assert!(!keys.is_empty(), "{name}");
    Ok(keys.iter().try_for_each(|key| map.remove(key))?)
}

/// Only the copies are left then, which no other build and no other agent has.
#[test]
fn copies_are_asked_first_and_an_agent_that_adopts_frontends_makes_them_anew() -> Result<()> {
    let mut cluster = Cluster::serving(&["a"])?;
    for adopted in [false, true] {
        if adopted {
            cluster.agent.restart()?;
            cluster.agent.wait_ready()?;
            cluster.agent.kill9()?;
            cluster.agent.restart()?;
            cluster.agent.wait_ready()?;
        }
        cluster.agent.kill9()?;
        forget_frontends::<V4>(&cluster, maps::FRONTENDS4)?;
        forget_frontends::<V6>(&cluster, maps::FRONTENDS6)?;
        for traffic in EVERY_TRAFFIC {
            for address in [at(WEB4), at(WEB6)] {
                assert_eq!(cluster.client.ask(traffic, address)?, "a", "{traffic:?} {address}, adopted: {adopted}");
            }
        }
    }
    Ok(())
}
