//! Where packets go past a pod's device, and where not.

use super::*;

/// The device of a pod that packets may go past.
pub(in crate::devices) fn veth_of_pod(index: u32) -> Link {
    Link {
        index,
        name: format!("veth{index}"),
        kind: Some("veth".into()),
        layer: 1,
        is_up: true,
        is_peer_elsewhere: true,
        queue: "noqueue".into(),
        max_mtu: 65_535,
        ..Link::default()
    }
}

fn veth() -> Link {
    veth_of_pod(7)
}

fn at(hook: &'static str) -> Foreign {
    Foreign { device: "veth7".into(), hook, what: "program policy (id 7)".into() }
}

#[test]
fn a_veth_to_another_namespace_with_nothing_at_its_egress_is_gone_past() {
    assert_eq!(obstacle(&veth(), Some(&[]), &Chains::None), None);
    assert_eq!(obstacle(&veth(), Some(&[at("ingress")]), &Chains::None), None, "that sees what the pod sends");
}

#[test]
fn whatever_may_be_on_the_way_out_of_a_device_is_an_obstacle() {
    type Change = fn(&mut Link);
    let changed: [(Change, Obstacle); 6] = [
        (|link| link.kind = None, Obstacle::NotAVeth),
        (|link| link.is_peer_elsewhere = false, Obstacle::PeerIsHere),
        (|link| link.master = Some(3), Obstacle::Member),
        (|link| link.is_up = false, Obstacle::Down),
        (|link| link.queue = "tbf".into(), Obstacle::Queue("tbf".into())),
        (|link| link.max_mtu = 3_506, Obstacle::PeerHasXdp),
    ];
    for (change, expected) in changed {
        let mut link = veth();
        change(&mut link);
        assert_eq!(obstacle(&link, Some(&[]), &Chains::None), Some(expected));
    }
    let other = Obstacle::Other("program policy (id 7)".into());
    assert_eq!(obstacle(&veth(), Some(&[at("ingress"), at("egress")]), &Chains::None), Some(other));
    assert_eq!(obstacle(&veth(), Some(&[]), &Chains::Some), Some(Obstacle::Chains));
}

#[test]
fn what_is_not_known_is_an_obstacle() {
    assert_eq!(obstacle(&veth(), None, &Chains::None), Some(Obstacle::Unknown));
    let chains = Chains::Unknown("no permission".into());
    assert_eq!(obstacle(&veth(), Some(&[]), &chains), Some(Obstacle::UnknownChains("no permission".into())));
    assert_eq!(obstacle(&Link { queue: String::new(), ..veth() }, Some(&[]), &Chains::None).map(drop), Some(()));
}

/// Devices with what is in the way past them.
fn seen(all: &[(u32, Option<Obstacle>)]) -> Ways {
    all.iter().cloned().collect()
}

#[test]
fn a_way_is_taken_after_it_was_clear_for_a_while_and_left_at_once() {
    let (mut ways, start) = (Settling::default(), Instant::now());
    let (none, one) = (BTreeSet::new(), BTreeSet::from([1]));
    let blocked = seen(&[(1, Some(Obstacle::Chains))]);
    let clear = seen(&[(1, None)]);
    let unsettled = seen(&[(1, Some(Obstacle::Unsettled))]);
    assert_eq!(ways.look(clear.clone(), &none, start), (unsettled.clone(), Some(start + SETTLED)));
    assert_eq!(ways.look(blocked.clone(), &none, start + SETTLED), (blocked.clone(), None));
    let later = start + 2 * SETTLED;
    assert_eq!(ways.look(clear.clone(), &none, later), (unsettled, Some(later + SETTLED)), "it begins anew");
    let settled = later + SETTLED;
    assert_eq!(ways.look(clear.clone(), &none, settled), (clear, Some(settled + LOOK_AGAIN)));
    assert_eq!(ways.look(blocked.clone(), &one, settled), (blocked, None));
}

#[test]
fn a_way_that_an_earlier_agent_took_is_kept_while_it_is_clear() {
    let (mut ways, now) = (Settling::default(), Instant::now());
    let both = seen(&[(1, None), (2, None)]);
    let expected = seen(&[(1, None), (2, Some(Obstacle::Unsettled))]);
    assert_eq!(ways.look(both, &[1].into(), now).0, expected);
}
