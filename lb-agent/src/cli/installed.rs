//! Opens what is pinned, for the tools: needs no agent, no lock, and never writes.

use std::net::IpAddr;

use lb_common::abi::{AgentStatus, Device, device_flags, maps};

use super::{
    Exit, Failure, PlaceArgs,
    status::{AgentFacts, CounterFacts, DeviceFacts, Facts, MapFacts, ProgramFacts},
};
use crate::{
    clock,
    datapath::{
        bpf::{self, Attached, BIND_PROGRAMS, MapUse, OpenError, PROGRAMS, Reader, ServedDevice},
        store::StoreError,
    },
    devices::Role,
};

/// Opens the installation below `--bpffs`.
pub(super) fn open(place: &PlaceArgs) -> Result<Reader, Failure> {
    Ok(Reader::open(&place.bpffs)?)
}

/// Everything `status` shows.
pub(super) fn facts(place: &PlaceArgs) -> Result<Facts, Failure> {
    let reader = open(place)?;
    let status = reader.status()?;
    let alive = reader.agent_alive()?;
    let attached = reader.attached()?;
    Ok(Facts {
        now_ms: clock::now_ms(),
        pins: place.bpffs.join("lb").display().to_string(),
        agent: status.map_or_else(
            || AgentFacts { running: alive, ..AgentFacts::default() },
            |status: AgentStatus| AgentFacts::new(alive, &status),
        ),
        maps: reader.map_use()?.iter().map(map_facts).collect(),
        programs: programs(&attached),
        devices: reader.devices()?.iter().map(device_facts).collect(),
        counters: reader
            .counters()?
            .into_iter()
            .map(|(counter, value)| CounterFacts { name: counter.label(), value })
            .collect(),
    })
}

/// Those that there should be. The two against binding NodePorts may be turned off, both together.
fn programs(attached: &[Attached]) -> Vec<ProgramFacts> {
    let protected = attached.iter().any(|found| BIND_PROGRAMS.contains(&found.program));
    let expected = PROGRAMS.iter().filter(|name| protected || !BIND_PROGRAMS.contains(name));
    expected.map(|name| program_facts(name, attached)).collect()
}

fn map_facts(map: &MapUse) -> MapFacts {
    MapFacts { name: map.map, entries: map.used.into(), capacity: map.capacity.into(), flag: flag(map.map) }
}

/// The flag of `run` that sets a map's capacity, if one does.
fn flag(map: &str) -> Option<&'static str> {
    match map {
        maps::BACKENDS4 | maps::BACKENDS6 | maps::SLOTS4 | maps::SLOTS6 => Some("--max-backends"),
        maps::AFFINITY => Some("--max-affinities"),
        maps::CONNS4 | maps::CONNS6 => Some("--max-connections"),
        maps::CLIENTS4 | maps::CLIENTS6 | maps::EXCLUDED => None,
        _ => Some("--max-frontends"),
    }
}

fn program_facts(name: &'static str, attached: &[Attached]) -> ProgramFacts {
    let found = attached.iter().find(|attached| attached.program == name);
    let cgroup = found.map(|found| match (&found.cgroup, found.cgroup_id) {
        (Some(path), _) => path.display().to_string(),
        (None, 0) => "a cgroup that is gone".to_owned(),
        (None, id) => format!("cgroup id {id}"),
    });
    ProgramFacts { name, id: found.map(|found| found.program_id), cgroup }
}

fn device_facts(device: &ServedDevice) -> DeviceFacts {
    let of_entry = |entry: Device| {
        let [v4, v6] = [IpAddr::from(entry.addr4), IpAddr::from(entry.addr6)];
        [v4, v6].into_iter().filter(|ip| !ip.is_unspecified()).collect()
    };
    DeviceFacts {
        index: device.index,
        name: device.name.clone(),
        role: device.entry.and_then(|entry| served_as(entry.flags)),
        why: device.why.clone(),
        ingress: device.programs.ingress,
        egress: device.programs.egress,
        addresses: device.entry.map(of_entry).unwrap_or_default(),
    }
}

/// As [`Role`] says it, and whether packets go past the device.
fn served_as(flags: u32) -> Option<String> {
    let role = Role::of(flags & !device_flags::PEER)?;
    Some(if flags & device_flags::PEER == 0 { role.to_string() } else { format!("{role}, gone past") })
}

/// Says on stderr that the rows on stdout are the last state of an agent that has ended.
pub(super) fn warn_unless_agent_runs(reader: &Reader) {
    if matches!(reader.agent_alive(), Ok(false)) {
        eprintln!("lb-agent: no agent is running; this is the last state, which traffic still follows");
    }
}

/// A map that cannot be read.
pub(super) fn map_failure(error: StoreError) -> Failure {
    OpenError::from(error).into()
}

/// Each error knows its exit status, but for one that only its cause tells.
impl From<OpenError> for Failure {
    fn from(error: OpenError) -> Self {
        let exit = match error.exit_status() {
            bpf::EXIT_UNAVAILABLE => Exit::Unavailable,
            bpf::EXIT_NO_PERMISSION => Exit::Denied,
            bpf::EXIT_CONFIG => Exit::Config,
            _ => Exit::Unexpected,
        };
        let error = anyhow::Error::new(error);
        if exit == Exit::Unexpected && is_denied(&error) {
            return Self::new(Exit::Denied, error.context("root is needed (CAP_BPF, and access to the pins)"));
        }
        Self::new(exit, error)
    }
}

/// Whether the kernel refused for want of a permission.
fn is_denied(error: &anyhow::Error) -> bool {
    let causes = error.chain().filter_map(|cause| cause.downcast_ref::<std::io::Error>());
    causes.into_iter().any(|cause| cause.kind() == std::io::ErrorKind::PermissionDenied)
}
