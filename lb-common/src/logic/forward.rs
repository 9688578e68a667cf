//! The packet layer: what becomes of a packet at ingress and at egress of a device.
//!
//! At ingress a client's packet to a Service goes on to a backend, and a backend's answer goes back to the client as the
//! Service's. At egress only answers are of interest: those that the node's own network stack has forwarded or sent, because
//! their backend is on the node or on a device without our programs. Everything else is left alone.

use super::{
    client::Address,
    flow::{self, Claim, Halves, Source},
    fragment, icmp,
    lookup::{self, Found, lookup_packet},
    nat, refuse,
    seam::{Network, Route, Router},
    select::{Refusal, select},
};
use crate::{
    abi::{Counter, Endpoint, Flow, Frontend, Slot, device_flags, endpoint_sets, flow_flags, frontend_flags},
    packet::{
        Packet,
        headers::{self, Headers, Ip, Kind, tcp_flags},
    },
};

/// What is to be done with a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Not ours: untouched.
    Pass,
    /// Gone (counted).
    Drop,
    /// It has another tuple now, see [`Headers::tuple`], and goes on: at ingress to its new destination
    /// ([`super::deliver`]), at egress out of the device.
    Rewritten,
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

/// A packet that came in by a device. `headers` are filled in.
#[inline(always)]
pub fn ingress<F, K, P>(kernel: &K, packet: &mut P, side: Side, headers: &mut Headers<F>) -> Verdict
where
    F: Ip,
    K: Router<F>,
    P: Packet,
{
    let Some(read) = headers::read(packet) else {
        return Verdict::Pass;
    };
    *headers = read;
    if headers.kind == Kind::IcmpError {
        return icmp::translate(kernel, packet, headers);
    }
    if headers.kind == Kind::LaterFragment && !fragment::recall(kernel, headers) {
        return Verdict::Pass;
    }
    match flow::find(kernel, headers, Halves::Both) {
        Some(half) => go_on(kernel, packet, headers, &half),
        // Its first fragment was of a flow that is over.
        None if headers.kind == Kind::LaterFragment => Verdict::Pass,
        None => begin(kernel, packet, side, headers),
    }
}

/// A packet that is about to leave by a device. `headers` are filled in.
#[inline(always)]
pub fn egress<F, K, P>(kernel: &K, packet: &mut P, headers: &mut Headers<F>) -> Verdict
where
    F: Ip,
    K: Router<F>,
    P: Packet,
{
    let Some(read) = headers::read(packet) else {
        return Verdict::Pass;
    };
    *headers = read;
    if headers.kind == Kind::IcmpError {
        return icmp::translate(kernel, packet, headers);
    }
    if headers.kind == Kind::LaterFragment && !fragment::recall(kernel, headers) {
        return Verdict::Pass;
    }
    match flow::find(kernel, headers, Halves::Reply) {
        Some(half) => go_on(kernel, packet, headers, &half),
        None => Verdict::Pass,
    }
}

/// Gives a packet the tuple that its flow says.
#[inline(always)]
fn go_on<F, K, P>(kernel: &K, packet: &mut P, headers: &mut Headers<F>, half: &Flow<F>) -> Verdict
where
    F: Ip,
    K: Router<F>,
    P: Packet,
{
    if headers.kind == Kind::FirstFragment {
        fragment::remember(kernel, headers);
    }
    let to = half.translated(&headers.tuple);
    if nat::rewrite(packet, headers, &to).is_err() {
        kernel.count(Counter::Unwritable);
        return Verdict::Drop;
    }
    Verdict::Rewritten
}

/// A packet that belongs to no flow: to a Service, or not our business.
#[inline(always)]
fn begin<F, K, P>(kernel: &K, packet: &mut P, side: Side, headers: &mut Headers<F>) -> Verdict
where
    F: Ip,
    K: Router<F>,
    P: Packet,
{
    let tuple = &headers.tuple;
    let dst = Endpoint { addr: tuple.dst_addr, port: tuple.dst_port };
    let frontend = match lookup_packet(kernel, dst, tuple.proto, side == Side::Uplink) {
        Found::NotAService => return Verdict::Pass,
        Found::Refuse => return refuse(kernel, packet, side, headers),
        Found::Frontend(_, frontend) => frontend,
    };
    if headers.is_tcp() && !headers.is_syn() {
        return reset_stray(kernel, packet, side, headers);
    }
    let mut half = Flow::default();
    match open(kernel, &frontend, side, headers, &mut half) {
        Open::Flow => go_on(kernel, packet, headers, &half),
        Open::Refuse => refuse(kernel, packet, side, headers),
        Open::Drop => Verdict::Drop,
    }
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
}

/// Begins a flow to a Service, whose forward half is put into `half`.
#[inline(never)]
fn open<F, K>(kernel: &K, frontend: &Frontend, side: Side, headers: &Headers<F>, half: &mut Flow<F>) -> Open
where
    F: Ip,
    K: Router<F>,
{
    let client = headers.tuple.src_addr;
    let Some(covered) = client_of(kernel, headers, side) else {
        return Open::Drop;
    };
    if frontend.n_slots == 0 && frontend.flags & frontend_flags::DROP != 0 {
        kernel.count(Counter::PolicyDrop);
        return Open::Drop;
    }
    let slot = match select(kernel, frontend, Address::<F>(client)) {
        Ok(slot) => slot,
        Err(Refusal::Source) => return Open::Drop,
        Err(Refusal::NoBackend) => return Open::Refuse,
    };
    let mut source = Source::default();
    choose_source(kernel, client, &slot, covered, &mut source);
    let now_s = kernel.now_s();
    *half = Flow {
        dst_addr: slot.addr,
        dst_port: slot.port,
        service: frontend.service,
        backend: slot.backend,
        created_s: now_s,
        last_seen_s: now_s,
        seen: flow::seen(headers),
        flags: if side == Side::Pod { flow_flags::FROM_POD } else { 0 },
        ..Flow::default()
    };
    match flow::claim(kernel, &headers.tuple, half, &source) {
        Claim::Claimed => {
            kernel.count(if headers.is_tcp() { Counter::FlowTcp } else { Counter::FlowUdp });
            Open::Flow
        }
        Claim::Exists => match flow::find(kernel, headers, Halves::Both) {
            Some(theirs) => {
                *half = theirs;
                Open::Flow
            }
            None => Open::Drop,
        },
        Claim::Full | Claim::NoPort => Open::Drop,
    }
}

/// How a client is reached, as far as that matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Client {
    /// On a pod-facing device of ours.
    Pod,
    /// By a device with our programs.
    Covered,
    /// By one without: what goes there under a backend's name is not turned back.
    Uncovered,
}

/// `None` (and counted) for a martian: a source that nobody outside can have, one of this node's, or a ClusterIP. Its answers
/// would go to the wrong one.
#[inline(always)]
fn client_of<F, K>(kernel: &K, headers: &Headers<F>, side: Side) -> Option<Client>
where
    F: Ip,
    K: Router<F>,
{
    let (client, service) = (headers.tuple.src_addr, headers.tuple.dst_addr);
    let usable = F::is_source(client) && client != service && !lookup::is_guarded(kernel, client);
    match if usable { kernel.route(service, client) } else { Route::NotForwarded } {
        Route::NotForwarded => {
            kernel.count(Counter::Martian);
            None
        }
        _ if side == Side::Pod => Some(Client::Pod),
        Route::Device(index) if Network::<F>::device(kernel, index).is_some() => Some(Client::Covered),
        Route::Device(_) | Route::Unknown => Some(Client::Uncovered),
    }
}

/// Under which name the backend sees the client. Its own stays whenever the answers are certain to come by one of our
/// programs: on their way out to a client by a covered device, if the backend is on this node, or on their way in to a pod
/// of this node. Otherwise it is the node's: the answers come to the node then.
///
/// A backend that is the node itself cannot be sent packets under a name of the node's (the kernel takes them for martians),
/// and what a pod on an uncovered device answers to the node never meets a program: such a flow changes its port at most.
#[inline(never)]
fn choose_source<F, K>(kernel: &K, client: F::Addr, slot: &Slot<F>, reached: Client, source: &mut Source<F>) -> u32
where
    F: Ip,
    K: Router<F>,
{
    let node = Network::<F>::node(kernel).unwrap_or_default();
    (source.first, source.last) = (node.snat_first, node.snat_last);
    source.addr = client;
    let device = match kernel.route(client, slot.addr) {
        Route::NotForwarded => return 0,
        Route::Device(index) => Network::<F>::device(kernel, index),
        Route::Unknown => None,
    };
    let from_pod = reached == Client::Pod;
    let behind_pod_device = device.is_some_and(|device| device.flags & device_flags::POD != 0);
    let on_node = behind_pod_device
        || kernel.backend(slot.backend).is_some_and(|backend| backend.sets & endpoint_sets::ON_NODE != 0);
    let unseen = on_node && device.is_none();
    let own = device.map_or_else(F::Addr::default, |device| device.addr::<F>());
    if !unseen {
        source.addr = if own == F::Addr::default() { node.addr::<F>() } else { own };
    }
    let stays = (on_node || from_pod) && (reached != Client::Uncovered || unseen);
    source.replace = !stays || slot.addr == client;
    0
}

/// A TCP segment that belongs to no connection. At an address of the node's own the stack answers it, which may know it:
/// a connection may be older than the Service. Elsewhere nobody else would.
#[inline(never)]
fn reset_stray<F, K, P>(kernel: &K, packet: &mut P, side: Side, headers: &mut Headers<F>) -> Verdict
where
    F: Ip,
    K: Router<F>,
    P: Packet,
{
    if kernel.route(headers.tuple.src_addr, headers.tuple.dst_addr) == Route::NotForwarded {
        return Verdict::Pass;
    }
    kernel.count(Counter::NoFlow);
    if headers.tcp_flags & tcp_flags::RST != 0 {
        return Verdict::Drop;
    }
    refuse(kernel, packet, side, headers)
}

/// Tells a client that nobody serves here, if it can be told.
#[inline(never)]
fn refuse<F, K, P>(kernel: &K, packet: &mut P, side: Side, headers: &mut Headers<F>) -> Verdict
where
    F: Ip,
    K: Router<F>,
    P: Packet,
{
    if client_of(kernel, headers, side).is_none() {
        return Verdict::Drop;
    }
    refuse::refuse(kernel, packet, headers)
}
