//! Passes over a table in the place of the kernel: what is attached and listed, in which order, and what is told.

use std::{io, mem};

use lb_common::abi::NodeConfig;

use super::*;
use crate::{
    devices::{
        delivery::{Chains, LOOK_AGAIN, PodDelivery, SETTLED, tests::veth_of_pod},
        findings::Foreign,
        network::{Address, DefaultRoute, Link, Rank},
    },
    model::NodePortAddresses,
};

/// A kernel with some devices; programs have the ids 1 (ingress) and 2 (egress).
#[derive(Default)]
struct Table {
    attached: BTreeMap<u32, Programs>,
    roles: BTreeMap<u32, Role>,
    listed: BTreeMap<u32, Device>,
    names: BTreeMap<u32, String>,
    node: NodeConfig,
    /// What was done, in order.
    done: Vec<String>,
    /// What was attached whenever an earlier agent's notes were taken over.
    taken_over_with: Vec<Vec<Programs>>,
    /// What others have at every device.
    others: Vec<Foreign>,
    /// Attaching fails.
    refuses: bool,
    /// The kernel does not tell what is attached.
    tells_nothing: bool,
    /// The kernel does not tell what others have.
    tells_no_others: bool,
    /// How often taking over an earlier agent's notes still fails.
    take_over_fails: u32,
}

const OURS: Programs = Programs { ingress: Some(1), egress: Some(2) };
const EARLIER: Programs = Programs { ingress: Some(91), egress: Some(92) };

impl DeviceStore for Table {
    type Error = io::Error;

    fn attach(&mut self, device: DeviceRef<'_>, role: Role) -> io::Result<()> {
        if self.refuses {
            return Err(io::Error::other(format!("no programs on {}", device.name)));
        }
        self.done.push(format!("attach {} {role}", device.name));
        self.attached.insert(device.index, OURS);
        self.roles.insert(device.index, role);
        Ok(())
    }

    fn detach(&mut self, device: DeviceRef<'_>) -> io::Result<()> {
        self.done.push(format!("detach {}", device.name));
        self.attached.remove(&device.index);
        Ok(())
    }

    fn attached(&mut self) -> io::Result<BTreeMap<u32, Programs>> {
        if self.tells_nothing {
            return Err(io::Error::other("no list of programs"));
        }
        Ok(self.attached.clone())
    }

    fn are_current(&self, programs: Programs, role: Role) -> bool {
        programs == OURS && self.roles.values().all(|attached| *attached == role)
    }

    fn take_over(&mut self) -> io::Result<()> {
        if let Some(fewer) = self.take_over_fails.checked_sub(1) {
            self.take_over_fails = fewer;
            return Err(io::Error::other("no room in the table"));
        }
        self.taken_over_with.push(self.attached.values().copied().collect());
        Ok(())
    }

    fn foreign(&self, _: DeviceRef<'_>) -> io::Result<Vec<Foreign>> {
        if self.tells_no_others {
            return Err(io::Error::other("nobody knows"));
        }
        Ok(self.others.clone())
    }

    fn egress_chains(&self) -> Chains {
        Chains::None
    }

    fn devices(&self) -> io::Result<BTreeMap<u32, Device>> {
        Ok(self.listed.clone())
    }

    fn put_device(&mut self, index: u32, device: &Device) -> io::Result<()> {
        self.done.push(format!("list {index}"));
        self.listed.insert(index, *device);
        Ok(())
    }

    fn delete_device(&mut self, index: u32) -> io::Result<()> {
        self.done.push(format!("unlist {index}"));
        self.listed.remove(&index);
        self.names.remove(&index);
        Ok(())
    }

    fn put_name(&mut self, index: u32, name: &str) -> io::Result<()> {
        self.names.insert(index, name.to_owned());
        Ok(())
    }

    fn node(&self) -> io::Result<NodeConfig> {
        Ok(self.node)
    }

    fn put_node(&mut self, node: &NodeConfig) -> io::Result<()> {
        self.node = *node;
        Ok(())
    }
}

fn settings(devices: &str) -> Settings {
    Settings {
        devices: devices.parse().unwrap(),
        pods: "none".parse().unwrap(),
        pod_delivery: PodDelivery::Auto,
        snat_ports: "61000-65535".parse().unwrap(),
        nodeport_range: "30000-32767".parse().unwrap(),
        nodeport_addresses: NodePortAddresses::Primary,
    }
}

/// A keeper, its time, and what passes come to.
struct Rig {
    keeper: Keeper<Table>,
    now: Instant,
}

impl Rig {
    fn new(devices: &str, table: Table) -> Self {
        Self { keeper: Keeper::new(table, settings(devices), |_| Sysctls::default()), now: Instant::now() }
    }

    /// What a pass does.
    fn pass(&mut self, network: &Network) -> Vec<String> {
        self.outcome(network);
        mem::take(&mut self.keeper.store.done)
    }

    fn outcome(&mut self, network: &Network) -> Outcome {
        self.keeper.pass(network, &[], self.now)
    }
}

/// `lo` (1) and `eth0` (2) with an address.
fn network() -> Network {
    let link = |index, name: &str, layer| Link { index, name: name.into(), layer, is_up: true, ..Link::default() };
    Network {
        links: vec![Link { is_loopback: true, ..link(1, "lo", 772) }, link(2, "eth0", 1)],
        addresses: vec![Address { link: 2, ip: "192.0.2.1".parse().unwrap(), rank: Rank::Primary }],
        default_routes: Vec::new(),
        unread: Vec::new(),
    }
}

fn with_route() -> Network {
    Network { default_routes: vec![DefaultRoute { link: 2, is_v4: true }], ..network() }
}

#[test]
fn a_device_is_listed_after_its_programs_are_attached_and_only_once() {
    let mut rig = Rig::new("auto", Table::default());
    assert_eq!(rig.pass(&with_route()), ["attach eth0 uplink", "list 2"]);
    let table = &rig.keeper.store;
    assert_eq!((table.listed[&2].addr4, table.listed[&2].flags), ([192, 0, 2, 1], device_flags::UPLINK));
    assert_eq!(table.names[&2], "eth0 has a default route");
    assert_eq!((table.node.addr4, table.node.snat_first), ([192, 0, 2, 1], 61000));
    assert_eq!(rig.pass(&with_route()), [""; 0]);
    let mut renumbered = with_route();
    renumbered.addresses[0].ip = "192.0.2.2".parse().unwrap();
    assert_eq!(rig.pass(&renumbered), ["list 2"], "its address changed");
}

#[test]
fn programs_that_others_took_away_are_put_back() {
    let mut rig = Rig::new("auto", Table::default());
    rig.pass(&with_route());
    rig.keeper.store.attached.get_mut(&2).unwrap().egress = None;
    assert_eq!(rig.pass(&with_route()), ["attach eth0 uplink"]);
}

#[test]
fn a_device_keeps_its_programs_for_a_minute_after_the_reason_is_gone() {
    let mut rig = Rig::new("auto", Table::default());
    rig.pass(&with_route());
    let outcome = rig.outcome(&network());
    assert_eq!((outcome.served, outcome.again), (1, Some(rig.now + GRACE)));
    assert_eq!(rig.pass(&network()), [""; 0]);
    rig.now += GRACE;
    assert_eq!(rig.pass(&network()), ["unlist 2", "detach eth0"]);
    assert_eq!(rig.outcome(&network()).again, None);
    assert_eq!(rig.pass(&with_route()), ["attach eth0 uplink", "list 2"]);
}

#[test]
fn what_an_earlier_agent_chose_is_taken_over_and_stays_until_the_reason_is_known() {
    let adopted = || Table {
        attached: [(2, EARLIER)].into(),
        listed: [(2, Device { addr4: [192, 0, 2, 1], flags: device_flags::UPLINK, ..Device::default() })].into(),
        ..Table::default()
    };
    let mut rig = Rig::new("auto", adopted());
    assert_eq!(rig.pass(&network()), ["attach eth0 uplink"], "and never unlisted");
    rig.now += GRACE;
    assert_eq!(rig.pass(&network()), ["unlist 2", "detach eth0"]);
    assert_eq!(Rig::new("none", adopted()).pass(&network()), ["unlist 2", "detach eth0"], "the flags say so");
}

#[test]
fn a_pods_device_of_an_earlier_agent_is_never_taken_for_an_uplink() {
    let table = Table {
        attached: [(2, EARLIER)].into(),
        listed: [(2, Device { flags: device_flags::POD, ..Device::default() })].into(),
        ..Table::default()
    };
    assert_eq!(Rig::new("auto", table).pass(&network()), ["unlist 2", "detach eth0"]);
}

#[test]
fn a_device_that_is_gone_is_unlisted_at_once_and_one_of_the_same_number_begins_anew() {
    let mut rig = Rig::new("auto", Table::default());
    rig.pass(&with_route());
    let mut gone = network();
    gone.links.pop();
    rig.keeper.store.attached.clear();
    assert_eq!(rig.pass(&gone), ["unlist 2"]);
    let mut another = network();
    another.links[1].name = "eth9".into();
    assert_eq!(rig.pass(&another), [""; 0], "it was never chosen itself");
}

#[test]
fn a_device_without_both_programs_is_not_listed_and_is_tried_again() {
    let mut rig = Rig::new("auto", Table { refuses: true, ..Table::default() });
    let outcome = rig.outcome(&with_route());
    assert_eq!((outcome.served, outcome.again), (0, Some(rig.now + RETRY)));
    assert_eq!(outcome.failures, ["no programs on eth0"]);
    assert!(rig.keeper.store.listed.is_empty());
    rig.keeper.store.refuses = false;
    assert_eq!(rig.pass(&with_route()), ["unlist 2", "attach eth0 uplink", "list 2"]);
    assert_eq!(rig.keeper.store.names[&2], "eth0 has a default route");
}

/// With an earlier agent's programs on `eth0`, for which no others can be attached.
fn refusing() -> Rig {
    let (attached, listed) = ([(2, EARLIER)].into(), [(2, Device::default())].into());
    Rig::new("auto", Table { attached, listed, refuses: true, ..Table::default() })
}

#[test]
fn an_earlier_agents_programs_stay_where_the_new_ones_are_refused() {
    let mut rig = refusing();
    assert_eq!(rig.outcome(&with_route()).served, 0);
    assert_eq!(rig.keeper.store.done, [""; 0]);
}

#[test]
fn what_earlier_programs_noted_is_taken_over_when_none_of_them_is_attached_any_more() {
    let mut rig = refusing();
    rig.pass(&with_route());
    assert_eq!(rig.keeper.store.taken_over_with, [] as [Vec<Programs>; 0]);
    rig.keeper.store.refuses = false;
    rig.pass(&with_route());
    assert_eq!(rig.keeper.store.taken_over_with, [vec![OURS]]);
}

#[test]
fn what_could_not_be_taken_over_is_told_and_tried_again() {
    let mut rig = Rig::new("auto", Table { take_over_fails: 1, ..Table::default() });
    let outcome = rig.outcome(&with_route());
    assert_eq!((outcome.failures, outcome.again), (vec!["no room in the table".to_owned()], Some(rig.now + RETRY)));
    rig.now += RETRY;
    assert_eq!(rig.outcome(&with_route()).failures, [""; 0]);
    assert_eq!(rig.keeper.store.taken_over_with, [vec![OURS]]);
}

#[test]
fn what_others_have_need_not_be_known_to_take_over_what_earlier_programs_noted() {
    let mut rig = Rig::new("auto", Table { tells_no_others: true, ..Table::default() });
    assert_eq!(rig.outcome(&with_route()).failures, ["nobody knows"]);
    assert_eq!(rig.keeper.store.taken_over_with, [vec![OURS]]);
}

#[test]
fn where_the_kernel_does_not_tell_what_is_attached_the_outcome_stays_as_it_was() {
    let mut rig = Rig::new("eth0,eth7", Table::default());
    let before = rig.outcome(&network());
    rig.keeper.store.tells_nothing = true;
    let outcome = rig.outcome(&network());
    assert_eq!((outcome.failures, outcome.again), (vec!["no list of programs".to_owned()], Some(rig.now + RETRY)));
    assert_eq!((outcome.served, outcome.findings), (before.served, before.findings));
}

#[test]
fn findings_come_with_the_outcome() {
    let mut rig = Rig::new("eth0,eth7", Table::default());
    let outcome = rig.outcome(&network());
    assert_eq!(outcome.served, 1);
    assert_eq!(outcome.findings.len(), 1, "{:?}", outcome.findings);
    assert_eq!(outcome.findings[0].about, "--devices eth7");
}

/// `eth0` again, by another number and bare as a device is when it is made.
fn made_anew(index: u32) -> Network {
    let mut network = network();
    network.links[1] = Link { index, name: "eth0".into(), layer: 1, ..Link::default() };
    network.addresses.clear();
    network
}

#[test]
fn an_uplink_that_is_made_anew_has_its_programs_before_addresses_and_routes() {
    let mut rig = Rig::new("auto", Table::default());
    rig.pass(&with_route());
    rig.now += REMEMBERED / 2;
    rig.pass(&with_route());
    rig.keeper.store.attached.clear();
    rig.now += REMEMBERED / 2;
    assert!(rig.keeper.awaits(3, "eth0") && !rig.keeper.awaits(2, "eth0") && !rig.keeper.awaits(3, "eth1"));
    assert_eq!(rig.pass(&made_anew(3)), ["unlist 2", "attach eth0 uplink", "list 3"]);
    assert!(!rig.keeper.awaits(3, "eth0"), "known by now");
    rig.now += GRACE;
    assert_eq!(rig.pass(&made_anew(3)), ["unlist 3", "detach eth0"], "no reason came, and it was there before");
    assert_eq!(rig.pass(&made_anew(3)), [""; 0], "the name is no reason for a device that is known");
    rig.now += REMEMBERED;
    assert_eq!(rig.pass(&made_anew(4)), [""; 0], "long ago");
}

#[test]
fn devices_that_are_named_or_match_a_pattern_are_awaited_until_they_are_known() {
    let mut rig = Rig::new("eth7", Table::default());
    rig.keeper.settings.pods = "veth*".parse().unwrap();
    rig.pass(&network());
    assert_eq!(["eth7", "veth1", "eth0"].map(|name| rig.keeper.awaits(9, name)), [true, true, false]);
    let mut more = network();
    more.links.push(Link { index: 9, name: "veth1".into(), layer: 1, ..Link::default() });
    rig.pass(&more);
    assert!(!rig.keeper.awaits(9, "veth1"));
}

/// With `veth9` (9) to a pod, and a keeper that serves such devices.
fn with_pod() -> (Rig, Network) {
    let mut rig = Rig::new("auto", Table::default());
    rig.keeper.settings.pods = "veth*".parse().unwrap();
    let mut network = network();
    network.links.push(veth_of_pod(9));
    (rig, network)
}

#[test]
fn packets_go_past_a_pods_device_after_a_while_until_another_is_at_its_egress() {
    let (mut rig, network) = with_pod();
    let flags = |rig: &Rig| rig.keeper.store.listed[&9].flags;
    assert_eq!(rig.outcome(&network).again, Some(rig.now + SETTLED));
    assert_eq!(flags(&rig), device_flags::POD, "what a network plugin attaches comes after the device");
    rig.now += SETTLED;
    assert_eq!(rig.outcome(&network).again, Some(rig.now + LOOK_AGAIN));
    assert_eq!(flags(&rig), device_flags::POD | device_flags::PEER);
    rig.keeper.store.others = vec![Foreign { device: "veth9".into(), hook: "egress", what: "a policy".into() }];
    rig.pass(&network);
    assert_eq!(flags(&rig), device_flags::POD);
}

#[test]
fn packets_leave_by_a_pods_device_where_that_is_wanted_whatever_an_earlier_agent_did() {
    let (mut rig, network) = with_pod();
    rig.keeper.settings.pod_delivery = PodDelivery::Device;
    let flags = device_flags::POD | device_flags::PEER;
    rig.keeper.store.listed.insert(9, Device { flags, ..Device::default() });
    rig.pass(&network);
    assert_eq!(rig.keeper.store.listed[&9].flags, device_flags::POD);
}

#[test]
fn packets_go_past_a_pods_device_no_more_also_where_the_earlier_programs_cannot_be_replaced() {
    let (mut rig, network) = with_pod();
    let addr4 = [192, 0, 2, 9];
    let listed = |flags| Device { addr4, flags, ..Device::default() };
    rig.keeper.store.attached.insert(9, EARLIER);
    rig.keeper.store.listed.insert(9, listed(device_flags::POD | device_flags::PEER));
    rig.keeper.store.refuses = true;
    assert_eq!(rig.pass(&network), [""; 0], "nothing is in the way");
    rig.keeper.store.others = vec![Foreign { device: "veth9".into(), hook: "egress", what: "a policy".into() }];
    assert_eq!(rig.pass(&network), ["list 9"]);
    assert_eq!(rig.keeper.store.listed[&9], listed(device_flags::POD), "else it stays as the earlier agent made it");
    assert_eq!(rig.pass(&network), [""; 0], "once");
}
