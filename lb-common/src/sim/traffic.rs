//! The packet layer of a simulated node: its connection table, devices and routes, and what becomes of a packet that comes
//! in or leaves.

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, BTreeSet, VecDeque},
    mem,
};

use super::{SimNode, SimPacket};
use crate::{
    abi::{Answers, Device, Family, Flow, FlowKey, Fragment, FragmentKey, NodeConfig, Piece, Place, V4, V6, maps},
    logic::{
        deliver::{Delivery, Fib, deliver},
        foreign,
        forward::{self, Side, Verdict},
        seam::{Flows, Known, Network, NotAdded, Pieces, Route},
        work::Work,
    },
    packet::{Broken, glance::Glanced},
};

/// The connection table of a family, and where its addresses are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SimFlows<F: Family> {
    /// `lb_conns4/6`.
    pub conns: RefCell<BTreeMap<FlowKey<F>, Flow<F>>>,
    /// Entries that fit into it.
    pub n_conns: u32,
    /// `lb_frags4/6`.
    pub fragments: RefCell<BTreeMap<FragmentKey<F>, Fragment>>,
    /// Where frontends are or were: as strict as the agent may be. See [`crate::abi::Absent`].
    pub frontends: RefCell<BTreeSet<Place>>,
    /// Where flows have had backends.
    pub backends: RefCell<BTreeSet<Place>>,
    /// Prefixes, their lengths and where they lead; the longest counts.
    pub routes: Vec<(F::Addr, u32, Route)>,
    /// Prefixes, their lengths and the source that the node uses for them, where it is known; the longest counts.
    pub sources: Vec<(F::Addr, u32, F::Addr)>,
}

impl<F: Family> Default for SimFlows<F> {
    fn default() -> Self {
        Self {
            conns: RefCell::default(),
            n_conns: maps::N_CONNS,
            fragments: RefCell::default(),
            frontends: RefCell::default(),
            backends: RefCell::default(),
            routes: Vec::new(),
            sources: Vec::new(),
        }
    }
}

impl<F: Family> SimFlows<F> {
    fn route(&self, dst: F::Addr) -> Route {
        longest::<F, _>(&self.routes, dst).unwrap_or(Route::NotForwarded)
    }

    fn add(&self, key: &FlowKey<F>, half: &Flow<F>) -> Result<(), NotAdded> {
        let mut conns = self.conns.borrow_mut();
        if conns.contains_key(key) {
            return Err(NotAdded::Exists);
        }
        if conns.len() >= self.n_conns as usize {
            return Err(NotAdded::Full);
        }
        conns.insert(*key, *half);
        Ok(())
    }

    fn put(&self, key: &FlowKey<F>, half: &Flow<F>) -> bool {
        let mut conns = self.conns.borrow_mut();
        let fits = conns.contains_key(key) || conns.len() < self.n_conns as usize;
        if fits {
            conns.insert(*key, *half);
        }
        fits
    }

    fn with<R>(&self, key: &FlowKey<F>, f: impl FnOnce(&mut Flow<F>) -> R) -> Option<R> {
        let mut half = self.conns.borrow().get(key).copied()?;
        let result = f(&mut half);
        if let Some(stored) = self.conns.borrow_mut().get_mut(key) {
            (stored.last_seen_s, stored.seen) = (half.last_seen_s, half.seen);
        }
        Some(result)
    }
}

/// What the longest prefix says that holds an address.
fn longest<F: Family, T: Copy>(of: &[(F::Addr, u32, T)], dst: F::Addr) -> Option<T> {
    let holds = |prefix: &F::Addr, bits: u32| super::maps::shares_prefix(prefix.as_ref(), dst.as_ref(), bits);
    let found = of.iter().filter(|(prefix, bits, _)| holds(prefix, *bits)).max_by_key(|(_, bits, _)| *bits);
    found.map(|(_, _, says)| *says)
}

/// What only the packet layer has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SimTraffic {
    /// IPv4.
    pub v4: SimFlows<V4>,
    /// IPv6.
    pub v6: SimFlows<V6>,
    /// `lb_devices`.
    pub devices: BTreeMap<u32, Device>,
    /// What devices can carry, by index; the others anything.
    pub mtus: BTreeMap<u32, u32>,
    /// `lb_pieces`.
    pub pieces: RefCell<BTreeMap<u32, Piece>>,
    /// Devices whose neighbours have not told their link-layer addresses yet.
    pub unresolved: BTreeSet<u32>,
    /// `lb_node`.
    pub node: NodeConfig,
    /// `lb_answers`, of the one processor that there is.
    pub answers: Cell<Answers>,
    /// A packet that another processor takes in while this one is in the middle of beginning or ending a flow.
    pub rival: RefCell<Option<Rival>>,
}

/// See [`SimTraffic::rival`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rival {
    /// How many entries this processor still adds or removes before. (Of a copy of a fragment, before and after it is added.)
    pub after: u32,
    /// The packet.
    pub packet: SimPacket,
    /// Where it comes in.
    pub side: Side,
    /// What becomes of it; [`Outcome::Dropped`] before.
    pub outcome: Outcome,
}

macro_rules! family {
    ($family:ident, $flows:ident) => {
        impl Known<$family> for SimNode {
            fn may_be_backend(&self, place: Place) -> bool {
                self.traffic.$flows.backends.borrow().contains(&place)
            }

            fn note_backend(&self, place: Place) {
                self.traffic.$flows.backends.borrow_mut().insert(place);
            }
        }

        impl Flows<$family> for SimNode {
            fn with_flow<R>(&self, key: &FlowKey<$family>, f: impl FnOnce(&mut Flow<$family>) -> R) -> Option<R> {
                self.traffic.$flows.with(key, f)
            }

            fn add_flow(&self, key: &FlowKey<$family>, half: &Flow<$family>) -> Result<(), NotAdded> {
                self.let_rival_in();
                self.traffic.$flows.add(key, half)
            }

            fn put_flow(&self, key: &FlowKey<$family>, half: &Flow<$family>) -> bool {
                self.traffic.$flows.put(key, half)
            }

            fn remove_flow(&self, key: &FlowKey<$family>) -> bool {
                self.let_rival_in();
                self.traffic.$flows.conns.borrow_mut().remove(key).is_some()
            }

            fn fragment(&self, key: &FragmentKey<$family>) -> Option<Fragment> {
                self.traffic.$flows.fragments.borrow().get(key).copied()
            }

            fn put_fragment(&self, key: &FragmentKey<$family>, fragment: &Fragment) {
                self.traffic.$flows.fragments.borrow_mut().insert(*key, *fragment);
            }
        }

        impl Network<$family> for SimNode {
            fn route(&self, tuple: &FlowKey<$family>) -> Route {
                self.traffic.$flows.route(tuple.dst_addr)
            }

            fn source(&self, tuple: &FlowKey<$family>, addr: &mut <$family as Family>::Addr) {
                if let Some(source) = longest::<$family, _>(&self.traffic.$flows.sources, tuple.dst_addr) {
                    *addr = source;
                }
            }

            fn device(&self, index: u32) -> Option<Device> {
                self.traffic.devices.get(&index).copied()
            }

            fn node(&self) -> Option<NodeConfig> {
                Some(self.traffic.node)
            }

            fn with_answers<R>(&self, f: impl FnOnce(&mut Answers) -> R) -> Option<R> {
                let mut answers = self.traffic.answers.get();
                let result = f(&mut answers);
                self.traffic.answers.set(answers);
                Some(result)
            }
        }
    };
}

family!(V4, v4);
family!(V6, v6);

impl Pieces for SimNode {
    fn with_piece<R>(&self, place: u32, f: impl FnOnce(&Piece) -> R) -> Option<R> {
        self.traffic.pieces.borrow().get(&place).map(f)
    }

    fn add_piece(&self, place: u32, fill: impl FnOnce(&mut Piece) -> Result<(), Broken>) -> bool {
        self.let_rival_in();
        let mut piece = Piece::EMPTY;
        if fill(&mut piece).is_err() || self.traffic.pieces.borrow().contains_key(&place) {
            return false;
        }
        self.traffic.pieces.borrow_mut().insert(place, piece);
        self.let_rival_in();
        true
    }

    fn remove_piece(&self, place: u32) -> bool {
        self.traffic.pieces.borrow_mut().remove(&place).is_some()
    }
}

/// A family of a simulated node: which of its tables is meant.
pub trait Traffic: Glanced {
    /// The family's part.
    fn flows(traffic: &SimTraffic) -> &SimFlows<Self>;
    /// The family's part, to change it.
    fn flows_mut(traffic: &mut SimTraffic) -> &mut SimFlows<Self>;
    /// [`SimNode::arrives`] for this family.
    fn arrives(node: &SimNode, packet: SimPacket, side: Side) -> Outcome;
    /// [`SimNode::leaves`] for this family.
    fn leaves(node: &SimNode, packet: SimPacket) -> Outcome;
}

macro_rules! traffic {
    ($family:ident, $flows:ident) => {
        impl Traffic for $family {
            fn flows(traffic: &SimTraffic) -> &SimFlows<Self> {
                &traffic.$flows
            }

            fn flows_mut(traffic: &mut SimTraffic) -> &mut SimFlows<Self> {
                &mut traffic.$flows
            }

            fn arrives(node: &SimNode, mut packet: SimPacket, side: Side) -> Outcome {
                if foreign::arrives::<Self, _, _>(node, &packet) {
                    return Outcome::Passed(packet);
                }
                let mut work = Work::<Self>::default();
                match forward::ingress(node, &mut packet, side, &mut work) {
                    Verdict::Pass => Outcome::Passed(packet),
                    Verdict::Drop => Outcome::gone(packet),
                    Verdict::Again => Outcome::again(packet),
                    Verdict::Answer => Outcome::Answered(packet),
                    Verdict::Translated => {
                        let route = node.traffic.$flows.route(work.to.dst_addr);
                        let fib = node.traffic.fib(route, &packet);
                        match deliver(node, &mut packet, &mut work, fib) {
                            Delivery::Redirect(device) | Delivery::RedirectNeighbour(device) => {
                                Outcome::Sent(device, packet)
                            }
                            Delivery::RedirectPeer(device) => Outcome::Entered(device, packet),
                            Delivery::Stack => {
                                let from = node.traffic.$flows.route(work.headers.tuple.src_addr);
                                let forwarded = route != Route::NotForwarded;
                                let is_martian = forwarded && from == Route::NotForwarded;
                                if is_martian { Outcome::Lost } else { Outcome::Rewritten(packet) }
                            }
                            Delivery::Answer => Outcome::Answered(packet),
                            Delivery::Drop => Outcome::Dropped,
                        }
                    }
                }
            }

            fn leaves(node: &SimNode, mut packet: SimPacket) -> Outcome {
                if foreign::leaves::<Self, _, _>(node, &packet) {
                    return Outcome::Passed(packet);
                }
                let mut work = Work::<Self>::default();
                match forward::egress(node, &mut packet, &mut work) {
                    Verdict::Pass => Outcome::Passed(packet),
                    Verdict::Drop => Outcome::Dropped,
                    Verdict::Again => Outcome::again(packet),
                    Verdict::Answer => Outcome::Answered(packet),
                    Verdict::Translated => Outcome::Rewritten(packet),
                }
            }
        }
    };
}

traffic!(V4, v4);
traffic!(V6, v6);

impl SimTraffic {
    fn fib(&self, route: Route, packet: &SimPacket) -> Fib {
        match route {
            Route::NotForwarded | Route::Unknown => Fib::Stack,
            Route::Neighbour(index) | Route::Router(index) => match self.mtus.get(&index) {
                Some(mtu) if packet.bytes.len() > *mtu as usize => Fib::TooBig(*mtu),
                _ if self.unresolved.contains(&index) => Fib::NoNeighbour(index),
                _ => Fib::Forward(index),
            },
        }
    }
}

/// What became of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Untouched, on to the stack (ingress) or out (egress).
    Passed(SimPacket),
    /// Rewritten, on to the stack (ingress) or out (egress).
    Rewritten(SimPacket),
    /// Rewritten, straight out of this device.
    Sent(u32, SimPacket),
    /// Rewritten, straight into the namespace behind this device.
    Entered(u32, SimPacket),
    /// Back to where it came from.
    Answered(SimPacket),
    /// These come in again by the device that it came in by, in this order: copies of it, then what stands in its place.
    Again(Vec<SimPacket>),
    /// Gone.
    Dropped,
    /// Left to the stack, which does not forward what has an address of the node as its source.
    Lost,
}

impl Outcome {
    /// Of a packet that comes in again, and of copies that were made of it before.
    fn again(mut packet: SimPacket) -> Self {
        let copies = mem::take(&mut packet.again);
        Self::Again(copies.into_iter().chain([packet]).collect())
    }

    /// Of a packet that is dropped, of which copies may come in again.
    fn gone(packet: SimPacket) -> Self {
        if packet.again.is_empty() { Self::Dropped } else { Self::Again(packet.again) }
    }
}

impl SimNode {
    /// What becomes of a packet that comes in, and of those that come in again because of it, in their order. As
    /// [`Self::arrives`].
    pub fn arrives_until_settled(&self, packet: SimPacket, side: Side) -> Vec<Outcome> {
        let mut queue = VecDeque::from([packet]);
        let mut outcomes = Vec::new();
        while let Some(packet) = queue.pop_front() {
            match self.arrives(packet, side) {
                Outcome::Again(packets) => queue.extend(packets),
                outcome => outcomes.push(outcome),
            }
        }
        outcomes
    }

    /// A packet comes in by a device that leads there; IPv6 if it begins so, IPv4 otherwise.
    pub fn arrives(&self, packet: SimPacket, side: Side) -> Outcome {
        if is_v6(&packet) { V6::arrives(self, packet, side) } else { V4::arrives(self, packet, side) }
    }

    fn let_rival_in(&self) {
        let rival = self.traffic.rival.take();
        if let Some(mut rival) = rival {
            if rival.after == 0 {
                rival.outcome = self.arrives(rival.packet.clone(), rival.side);
                rival.after = u32::MAX;
            } else {
                rival.after -= 1;
            }
            self.traffic.rival.replace(Some(rival));
        }
    }

    /// A packet is about to leave by a device.
    pub fn leaves(&self, packet: SimPacket) -> Outcome {
        if is_v6(&packet) { V6::leaves(self, packet) } else { V4::leaves(self, packet) }
    }
}

fn is_v6(packet: &SimPacket) -> bool {
    packet.bytes.first().is_some_and(|first| first >> 4 == 6)
}
