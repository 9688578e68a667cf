//! The course of the benchmark at one number of Services: start each proxy, take turns on the data path, change
//! endpoints.

use std::{collections::BTreeMap, thread::sleep, time::Duration};

use anyhow::{Context as _, Result};
use nix::sys::signal::Signal;
use serde::Serialize;

use crate::{
    Args,
    figure::Figure,
    objects::{self, ENDPOINT_PORTS, N_UDP},
    protocol::{Request, now_ns},
    proxy::Kind,
    rig::{Rig, Target},
    usage::{Usage, as_f64},
};

/// Who is measured.
const KINDS: [Kind; 5] = [Kind::Direct, Kind::DirectAgain, Kind::Agent, Kind::Nftables, Kind::Iptables];

/// Before each change: kube-proxy puts off what comes within a second of its last sync (its `minSyncPeriod`), and what
/// is measured is a change that comes alone.
const REST: Duration = Duration::from_millis(1500);

/// Everything measured at one number of Services, by target.
#[derive(Serialize)]
pub(crate) struct Measured {
    pub(crate) services: usize,
    pub(crate) targets: BTreeMap<Kind, TargetMeasured>,
}

/// What one target gave. Each list has one value a round, in the order of the rounds.
#[derive(Default, Serialize)]
pub(crate) struct TargetMeasured {
    /// Median time of one operation in each block, nanoseconds.
    pub(crate) block_ns: BTreeMap<Figure, Vec<u64>>,
    /// From the start of the proxy to when the last Service had answered.
    pub(crate) start_s: Option<f64>,
    /// From before a change was sent to the API server to the first connection that followed it.
    pub(crate) change_ms: Vec<f64>,
    /// The part of that which the API server's answer took.
    pub(crate) write_ms: Vec<f64>,
    /// Of the proxy once all Services were reachable.
    pub(crate) started: Option<Usage>,
    /// Of the proxy before the changes.
    pub(crate) before_changes: Option<Usage>,
    /// Of the proxy at the end.
    pub(crate) ended: Option<Usage>,
}

/// A whole run at one number of Services, whose objects exist.
pub(crate) fn run(rig: &Rig, services: usize, args: &Args) -> Result<Measured> {
    let mut targets = Vec::new();
    let kinds = KINDS.into_iter().filter(|kind| !args.without.contains(kind));
    for (index, kind) in (1..).zip(kinds) {
        targets.push(rig.target(kind, index, services).with_context(|| format!("cannot set up {kind}"))?);
    }
    let mut measured: BTreeMap<Kind, TargetMeasured> = BTreeMap::new();
    for target in &mut targets {
        let entry = measured.entry(target.kind).or_default();
        start(rig, target, entry).with_context(|| format!("{} with {services} Services", target.kind))?;
    }
    for round in 0..args.rounds {
        eprint!("\r{services} Services: round {} of {}   ", round + 1, args.rounds);
        take_turns(&mut targets, &mut measured, round)?;
    }
    eprintln!("\r{services} Services: {} changes per proxy   ", args.changes);
    change_endpoints(rig, &mut targets, &mut measured, services, args.changes)?;
    Ok(Measured { services, targets: measured })
}

fn start(rig: &Rig, target: &mut Target, measured: &mut TargetMeasured) -> Result<()> {
    let start = now_ns()?;
    target.start_proxy(&rig.control_plane)?;
    let end = target.client.wait(&Request::WaitForAll)?;
    measured.start_s = target.kind.has_proxy().then(|| seconds(start, end));
    measured.started = target.usage()?;
    Ok(())
}

/// One block of every figure for every target. Who is first changes from round to round, so that what the machine does
/// beside this hits all of them alike.
fn take_turns(targets: &mut [Target], measured: &mut BTreeMap<Kind, TargetMeasured>, round: usize) -> Result<()> {
    for figure in Figure::OF_PODS {
        for turn in 0..targets.len() {
            let n = targets.len();
            let target = &mut targets[(turn + round) % n];
            // Another Service is first in each round: the place in a rule set must not decide.
            let among = if figure.is_udp() && target.kind.has_proxy() { N_UDP } else { usize::MAX };
            let request = Request::Block { figure, ops: figure.ops(), first: round * 997, among };
            let ns = target.client.block(&request)?;
            measured.entry(target.kind).or_default().block_ns.entry(figure).or_default().push(ns);
        }
    }
    Ok(())
}

/// Changes the endpoints of one Service after the other. All proxies see each change; only one of them runs while it
/// is measured, since the work of the others would count against it on a machine with few processors.
fn change_endpoints(
    rig: &Rig,
    targets: &mut [Target],
    measured: &mut BTreeMap<Kind, TargetMeasured>,
    services: usize,
    changes: usize,
) -> Result<()> {
    let mut ports = vec![ENDPOINT_PORTS[0]; services];
    for target in targets.iter() {
        measured.entry(target.kind).or_default().before_changes = target.usage()?;
    }
    for change in 0..changes {
        for turn in 0..targets.len() {
            if !targets[turn].kind.has_proxy() {
                continue;
            }
            let service = (change * targets.len() + turn) * 7 % services;
            let port = ENDPOINT_PORTS[usize::from(ports[service] == ENDPOINT_PORTS[0])];
            ports[service] = port;
            let entry = measured.entry(targets[turn].kind).or_default();
            change_once(rig, targets, turn, service, port, entry)
                .with_context(|| format!("change {change} of Service {service} at {}", targets[turn].kind))?;
            for target in targets.iter_mut().filter(|target| target.kind.has_proxy()) {
                target.client.wait(&Request::WaitFor { address: service, port })?;
            }
        }
    }
    for target in targets.iter() {
        measured.entry(target.kind).or_default().ended = target.usage()?;
    }
    Ok(())
}

fn change_once(
    rig: &Rig,
    targets: &mut [Target],
    turn: usize,
    service: usize,
    port: u16,
    measured: &mut TargetMeasured,
) -> Result<()> {
    sleep(REST);
    signal_others(targets, turn, Signal::SIGSTOP)?;
    let target = &mut targets[turn];
    target.client.begin(&Request::WaitFor { address: service, port })?;
    let sent = now_ns()?;
    objects::set_endpoint_port(rig.control_plane.admin(), service, port)?;
    let written = now_ns()?;
    let followed = target.client.came_true()?;
    measured.change_ms.push(seconds(sent, followed) * 1000.0);
    measured.write_ms.push(seconds(sent, written) * 1000.0);
    signal_others(targets, turn, Signal::SIGCONT)
}

fn signal_others(targets: &[Target], turn: usize, signal: Signal) -> Result<()> {
    let others = targets.iter().enumerate().filter(|(other, _)| *other != turn);
    others.filter_map(|(_, target)| target.proxy()).try_for_each(|process| process.signal(signal))
}

/// The time between two readings of the clock; 0 if they are the other way round.
pub(crate) fn seconds(from_ns: u64, to_ns: u64) -> f64 {
    as_f64(to_ns.saturating_sub(from_ns)) / 1e9
}
