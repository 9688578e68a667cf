//! The packet layer: what becomes of a packet at ingress and at egress of a device.
//!
//! At ingress a client's packet to a Service goes on to a backend, and a backend's answer goes back to the client as the
//! Service's. At egress only answers are of interest: those that the node's own network stack has forwarded or sent, because
//! their backend is on the node or on a device without our programs. Everything else is left alone.

use super::{
    claim::{self, Claim},
    client::Address,
    flow::{self, Halves},
    fragment::{self, First},
    icmp,
    lookup::{self, Found, lookup_packet},
    nat::{self, Hop},
    piece::{self, Kept, Next},
    refuse,
    seam::{Environment, Network, Route, Router},
    select::{Refusal, select},
    work::Work,
};
use crate::{
    abi::{Counter, Endpoint, device_flags, endpoint_sets, flow_flags, frontend_flags},
    packet::{
        Packet,
        headers::{self, Ip, Kind, tcp_flags},
    },
};

/// What is to be done with a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Not ours: untouched.
    Pass,
    /// Gone (counted).
    Drop,
    /// It gets another tuple, [`Work::to`], and goes on: at ingress to its new destination, on the way to which it is written
    /// ([`super::deliver`]); at egress it is, and goes out of the device.
    Translated,
    /// Once more: what stands in its place, a fragment, is to come in again by the device that the packet came in by.
    Again,
    /// An answer stands in its place, which goes back out of the device that it came in by, with the link-layer addresses
    /// exchanged.
    Answer,
}

/// Where a device leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Out of the node.
    Uplink,
    /// To pods of this node.
    Pod,
}

/// A packet that came in by a device. Its headers are put into `work`.
#[inline(always)]
pub fn ingress<F, K, P>(kernel: &K, packet: &mut P, side: Side, work: &mut Work<F>) -> Verdict
where
    F: Ip,
    K: Router<F>,
    P: Packet,
{
    match recognise(kernel, packet, work, Halves::Both) {
        Recognised::Foreign => Verdict::Pass,
        Recognised::Error => icmp::translate(kernel, packet, work),
        Recognised::Flow => go_on(kernel, packet, work, Halves::Both),
        Recognised::Early => early_fragment(kernel, packet, work),
        // The first fragment was not translated, or its flow is over.
        Recognised::Stranger if work.headers.kind == Kind::LaterFragment => stray_fragment(kernel, work),
        Recognised::Stranger => begin(kernel, packet, side, work),
    }
}

/// A packet that is about to leave by a device. Its headers are put into `work`. Copies of early fragments are not kept here: who
/// sends these is on this node, and nothing on the way was there to mix them up.
#[inline(always)]
pub fn egress<F, K, P>(kernel: &K, packet: &mut P, work: &mut Work<F>) -> Verdict
where
    F: Ip,
    K: Router<F>,
    P: Packet,
{
    match recognise(kernel, packet, work, Halves::Reply) {
        Recognised::Foreign | Recognised::Stranger | Recognised::Early => Verdict::Pass,
        Recognised::Error => icmp::translate(kernel, packet, work),
        Recognised::Flow => match go_on(kernel, packet, work, Halves::Reply) {
            Verdict::Translated if !write(kernel, packet, work, Hop::Kept) => Verdict::Drop,
            verdict => verdict,
        },
    }
}

/// Gives a packet its new tuple. `false` (and counted) where that cannot be done: it must be dropped.
#[inline(always)]
pub(super) fn write<F, K, P>(kernel: &K, packet: &mut P, work: &mut Work<F>, hop: Hop) -> bool
where
    F: Ip,
    K: Environment,
    P: Packet,
{
    let Work { headers, to, .. } = work;
    let written = match (headers.kind, hop) {
        // It was written together with what it quotes.
        (Kind::IcmpError, Hop::Kept) => Ok(()),
        (Kind::IcmpError, Hop::Taken) => nat::take_hop(packet, headers),
        _ => nat::rewrite(packet, headers, to, hop),
    };
    if written.is_err() {
        kernel.count(Counter::Unwritable);
    }
    written.is_ok()
}

/// What a packet is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Recognised {
    /// Nothing that the packet layer looks at.
    Foreign,
    /// An ICMP error.
    Error,
    /// One of the flow whose half is in [`Work`].
    Flow,
    /// One of no flow that is known.
    Stranger,
    /// A later fragment, of whose first one nothing is known.
    Early,
}

/// Not inlined, as [`go_on`] and [`look_up`]: what each has on the stack is given back before the next one.
#[inline(never)]
fn recognise<F, K, P>(kernel: &K, packet: &P, work: &mut Work<F>, halves: Halves) -> Recognised
where
    F: Ip,
    K: Router<F>,
    P: Packet,
{
    if !headers::read(packet, &mut work.headers) {
        return Recognised::Foreign;
    }
    if work.headers.kind == Kind::IcmpError {
        return Recognised::Error;
    }
    if work.headers.kind == Kind::Other {
        return Recognised::Stranger;
    }
    if work.headers.kind == Kind::LaterFragment {
        match fragment::recall(kernel, &mut work.headers) {
            First::Translated => {}
            First::Other => return Recognised::Stranger,
            First::Unknown => {
                kernel.count(Counter::FragmentUnknown);
                return Recognised::Early;
            }
        }
    }
    if flow::find(kernel, work, halves) { Recognised::Flow } else { Recognised::Stranger }
}

/// A later fragment before its first one. A copy of it is kept where it may be of a flow. Itself it passes, except at a ClusterIP.
#[inline(never)]
fn early_fragment<F, K, P>(kernel: &K, packet: &P, work: &mut Work<F>) -> Verdict
where
    F: Ip,
    K: Router<F>,
    P: Packet,
{
    match piece::keep(kernel, packet, &work.headers) {
        Kept::Again => Verdict::Again,
        Kept::Released => Verdict::Drop,
        Kept::Copy if lookup::is_guarded(kernel, work.headers.tuple.dst_addr) => Verdict::Drop,
        Kept::Copy => Verdict::Pass,
        Kept::No => stray_fragment(kernel, work),
    }
}

/// A later fragment that is of no flow. For a ClusterIP it would go astray: where the routes lead, out of the node as a rule.
/// Other addresses may be somebody's, whatever Services they have.
#[inline(never)]
fn stray_fragment<F: Ip, K: Router<F>>(kernel: &K, work: &mut Work<F>) -> Verdict {
    if !lookup::is_guarded(kernel, work.headers.tuple.dst_addr) {
        return Verdict::Pass;
    }
    kernel.count(Counter::FragmentDropped);
    Verdict::Drop
}

/// Finds the tuple that its flow gives a packet.
#[inline(never)]
fn go_on<F, K, P>(kernel: &K, packet: &mut P, work: &mut Work<F>, halves: Halves) -> Verdict
where
    F: Ip,
    K: Router<F>,
    P: Packet,
{
    if work.headers.kind == Kind::FirstFragment {
        fragment::remember(kernel, &work.headers);
    }
    if work.headers.is_fragment() && halves == Halves::Both {
        match piece::release(kernel, packet, &work.headers) {
            Next::Absent => {}
            Next::Here => return Verdict::Again,
            Next::Lost => return Verdict::Drop,
        }
    }
    work.to = work.half.translated(&work.headers.tuple);
    Verdict::Translated
}

/// A packet that belongs to no flow: to a Service, or not our business.
#[inline(always)]
fn begin<F, K, P>(kernel: &K, packet: &mut P, side: Side, work: &mut Work<F>) -> Verdict
where
    F: Ip,
    K: Router<F>,
    P: Packet,
{
    let opened = match look_up(kernel, side, work) {
        Asked::Nobody => Open::Pass,
        Asked::Guard => Open::Refuse,
        Asked::GuardByRest => Open::Drop,
        Asked::Service if work.headers.is_tcp() && !work.headers.is_syn() => {
            return reset_stray(kernel, packet, side, work);
        }
        Asked::Service => open(kernel, side, work),
    };
    if opened != Open::Flow && work.headers.is_fragment() {
        fragment::set_aside(kernel, &work.headers);
    }
    match opened {
        Open::Flow => go_on(kernel, packet, work, Halves::Both),
        Open::Refuse => refuse(kernel, packet, side, work),
        Open::Drop => Verdict::Drop,
        Open::Pass => Verdict::Pass,
    }
}

/// Whom a packet is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    /// No Service.
    Nobody,
    /// The Service whose frontend is in [`Work`].
    Service,
    /// A Service that has no such port, or protocol.
    Guard,
    /// The same, by a later fragment of a protocol that no Service has: its first one is answered (RFC 1122 section 3.2.2).
    GuardByRest,
}

#[inline(never)]
fn look_up<F, K>(kernel: &K, side: Side, work: &mut Work<F>) -> Asked
where
    F: Ip,
    K: Router<F>,
{
    if work.headers.kind == Kind::Other {
        return look_up_other(kernel, work);
    }
    let tuple = &work.headers.tuple;
    let dst = Endpoint { addr: tuple.dst_addr, port: tuple.dst_port };
    match lookup_packet(kernel, dst, tuple.proto, side == Side::Uplink) {
        Found::NotAService => Asked::Nobody,
        Found::Refuse => Asked::Guard,
        Found::Frontend(_, frontend) => {
            work.frontend = frontend;
            Asked::Service
        }
    }
}

/// Of a packet of a protocol that no Service has, an ICMP echo say. At a ClusterIP it is refused, as kube-proxy does: the network
/// may lead that address to this node, and this node's routes it back. Unless somebody has given the address to the node itself.
/// Other addresses may be somebody's, whatever Services they have.
#[inline(always)]
fn look_up_other<F: Ip, K: Router<F>>(kernel: &K, work: &Work<F>) -> Asked {
    let tuple = &work.headers.tuple;
    if !lookup::is_guarded(kernel, tuple.dst_addr) || kernel.route(tuple) == Route::NotForwarded {
        return Asked::Nobody;
    }
    if work.headers.piece_at != 0 {
        kernel.count(Counter::FragmentDropped);
        return Asked::GuardByRest;
    }
    Asked::Guard
}

/// What became of a new flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Open {
    /// It is there.
    Flow,
    /// The client is to be told that nobody serves.
    Refuse,
    /// The client is told nothing (counted).
    Drop,
    /// There is no Service.
    Pass,
}

/// Begins a flow to a Service, whose forward half is put into `work`.
#[inline(never)]
fn open<F, K>(kernel: &K, side: Side, work: &mut Work<F>) -> Open
where
    F: Ip,
    K: Router<F>,
{
    let Some(reached) = client_of(kernel, work, side) else {
        return Open::Drop;
    };
    let frontend = &work.frontend;
    if frontend.n_slots == 0 && frontend.flags & frontend_flags::DROP != 0 {
        kernel.count(Counter::PolicyDrop);
        return Open::Drop;
    }
    work.slot = match select(kernel, frontend, Address::<F>(work.headers.tuple.src_addr)) {
        Ok(slot) => slot,
        Err(Refusal::Source) => return Open::Drop,
        Err(Refusal::NoBackend) => return Open::Refuse,
    };
    work.to = work.headers.tuple;
    (work.to.dst_addr, work.to.dst_port) = (work.slot.addr, work.slot.port);
    match kernel.route(&work.to) {
        Route::NotForwarded => keep_source(kernel, work),
        route if choose_source(kernel, reached, route, work) == UNDER_THE_NODES_NAME => {
            kernel.source(&work.to, &mut work.source.addr);
        }
        _ => {}
    }
    let now_s = kernel.now_s();
    let half = &mut work.half;
    (half.dst_addr, half.dst_port) = (work.slot.addr, work.slot.port);
    (half.service, half.backend) = (work.frontend.service, work.slot.backend);
    (half.created_s, half.last_seen_s) = (now_s, now_s);
    half.seen = flow::seen(&work.headers);
    half.flags = if side == Side::Pod { flow_flags::FROM_POD } else { 0 };
    match claim::claim(kernel, work) {
        Claim::Claimed => {
            kernel.count(if work.headers.is_tcp() { Counter::FlowTcp } else { Counter::FlowUdp });
            Open::Flow
        }
        // The flow is the faster processor's.
        Claim::Exists if flow::find(kernel, work, Halves::Both) => Open::Flow,
        Claim::Exists | Claim::Full | Claim::NoPort => Open::Drop,
    }
}

/// What [`choose_source`] says of a flow that gets an address of the node, in [`super::work::Work`]: the device's, or else the
/// node's primary one.
const UNDER_THE_NODES_NAME: u32 = 1;
/// And of one that does not.
const UNDER_ITS_OWN_NAME: u32 = 0;

/// How a client is reached, as far as that matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Client {
    /// By a pod-facing device of ours, [`Work::device`].
    Pod,
    /// By a device with our programs.
    Covered,
    /// By one without: what goes there under a backend's name is not turned back.
    Uncovered,
}

/// `None` (and counted) for a martian: a source that nobody outside can have, one of this node's, a ClusterIP, or one that is
/// reached on the other side. Its answers would go to the wrong one.
#[inline(always)]
fn client_of<F, K>(kernel: &K, work: &mut Work<F>, side: Side) -> Option<Client>
where
    F: Ip,
    K: Router<F>,
{
    let Work { headers, to: answers, device: index, .. } = work;
    *answers = headers.tuple.reversed();
    let client = answers.dst_addr;
    let usable = F::is_source(client) && client != answers.src_addr && !lookup::is_guarded(kernel, client);
    let route = if usable { kernel.route(answers) } else { Route::NotForwarded };
    *index = route.device();
    let (is_covered, is_pod) = match &Network::<F>::device(kernel, *index) {
        Some(device) => (true, device.flags & device_flags::POD != 0),
        None => (false, false),
    };
    match side {
        Side::Pod if is_pod => Some(Client::Pod),
        Side::Uplink if is_covered && !is_pod => Some(Client::Covered),
        Side::Uplink if !is_pod && !matches!(route, Route::NotForwarded) => Some(Client::Uncovered),
        Side::Pod | Side::Uplink => {
            kernel.count(Counter::Martian);
            None
        }
    }
}

/// Under which name the backend sees the client. Its own stays whenever the answers are certain to come by one of our
/// programs: on their way out to a client by a covered device, if the backend is on this node, or on their way in to a pod
/// of this node; where another flow has its port, that alone changes. Otherwise it is the node's: the answers come to the
/// node then.
///
/// Who shares a device with the client, a bridge, would answer it past the node. With the policy `Local` a client outside
/// keeps its name all the same, as that promises.
///
/// A backend that is the node itself cannot be sent packets under a name of the node's (the kernel takes them for martians),
/// and what a pod on an uncovered device answers to the node never meets a program: such a flow changes its port at most.
#[inline(never)]
fn choose_source<F, K>(kernel: &K, reached: Client, route: Route, work: &mut Work<F>) -> u32
where
    F: Ip,
    K: Router<F>,
{
    keep_source(kernel, work);
    let Work { slot, source, to, frontend, device: device_of_client, .. } = work;
    let device = Network::<F>::device(kernel, route.device());
    // Written out: of an `Option` the compiler would read what is not there, and make no use of it.
    let (is_covered, flags, own) = match &device {
        Some(device) => (true, device.flags, device.addr::<F>()),
        None => (false, 0, F::Addr::default()),
    };
    let is_on_link = !is_covered && matches!(route, Route::Neighbour(_));
    let on_node = flags & device_flags::POD != 0 || is_on_node(kernel, slot.backend, is_on_link);
    let from_pod = reached == Client::Pod;
    let promised = !from_pod && frontend.flags & frontend_flags::LOCAL != 0;
    let neighbours = is_covered && *device_of_client == route.device() && !promised;
    let unseen = on_node && !is_covered;
    let stays = (on_node || from_pod) && (reached != Client::Uncovered || unseen);
    source.replace = !stays || neighbours || slot.addr == to.src_addr;
    if source.replace && !unseen {
        source.addr = own;
        if own == F::Addr::default() {
            source.addr = Network::<F>::node(kernel).map_or(own, |node| node.addr::<F>());
        }
        return UNDER_THE_NODES_NAME;
    }
    UNDER_ITS_OWN_NAME
}

/// Whether a backend is on this node by what its EndpointSlice says. Where that says nothing (somebody wrote the endpoints by
/// hand), who is on the link of a device without programs is taken for a pod: devices that lead to other machines have
/// programs.
#[inline(always)]
fn is_on_node<F: Ip, K: Router<F>>(kernel: &K, backend: u32, is_on_link: bool) -> bool {
    match kernel.backend(backend) {
        Some(backend) => backend.sets & endpoint_sets::ON_NODE != 0 || is_on_link && backend.node == 0,
        None => false,
    }
}

/// The client keeps its name. Should its answers lead to another flow, it keeps its address.
#[inline(always)]
fn keep_source<F: Ip, K: Router<F>>(kernel: &K, work: &mut Work<F>) {
    let source = &mut work.source;
    source.replace = false;
    source.addr = work.headers.tuple.src_addr;
    if let Some(node) = Network::<F>::node(kernel) {
        (source.first, source.last) = (node.snat_first, node.snat_last);
    }
}

/// A TCP segment that belongs to no connection. At an address of the node's own the stack answers it, which may know it:
/// a connection may be older than the Service. Elsewhere nobody else would.
#[inline(never)]
fn reset_stray<F, K, P>(kernel: &K, packet: &mut P, side: Side, work: &mut Work<F>) -> Verdict
where
    F: Ip,
    K: Router<F>,
    P: Packet,
{
    if kernel.route(&work.headers.tuple) == Route::NotForwarded {
        return Verdict::Pass;
    }
    kernel.count(Counter::NoFlow);
    if work.headers.tcp_flags & tcp_flags::RST != 0 {
        return Verdict::Drop;
    }
    refuse(kernel, packet, side, work)
}

/// Tells a client that nobody serves here, if it can be told.
#[inline(never)]
fn refuse<F, K, P>(kernel: &K, packet: &mut P, side: Side, work: &mut Work<F>) -> Verdict
where
    F: Ip,
    K: Router<F>,
    P: Packet,
{
    if client_of(kernel, work, side).is_none() {
        return Verdict::Drop;
    }
    refuse::refuse(kernel, packet, &mut work.headers)
}
