//! What a packet costs in each program of the agent on a node's devices, with the node's own maps and routes: by
//! BPF_PROG_TEST_RUN, and by the kernel's account of runs in real traffic. Needs tcx (Linux 6.6), by which the programs are
//! found.

use std::{
    borrow::Cow,
    net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use aya::{
    programs::{ProgramInfo, SchedClassifier, TcAttachType, TestRun as _, TestRunOptions},
    sys::{Stats, enable_stats},
};
use lb_common::abi::{FlowKey, Proto, V4, context_at};
use lb_tests::{Outside, bpftool, flows, netns::NetNs};
use serde::Serialize;

use super::{
    frame::{Frame, UNKNOWN_PROTOCOL},
    island::Island,
    objects::{Place, first_node_port},
};
use crate::{figure::Figure, objects::ENDPOINT_PORTS, usage::as_f64};

/// Runs of which the kernel tells the mean.
const REPEAT: u32 = 300_000;

/// Single runs of which the median is taken: for packets that a run changes, so that it cannot be repeated by the kernel.
const RUNS: usize = 20_001;

const UPLINK: &str = "eth0";

/// TCX_NEXT and TC_ACT_REDIRECT: a packet goes on, with the node's stack or past it.
const GOES_ON: [i32; 2] = [-1, 7];

/// One row: what, in which program, nanoseconds.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Cost {
    pub(super) packet: String,
    pub(super) program: String,
    pub(super) ns: f64,
}

impl Cost {
    /// What a packet is called that belongs to no Service and no flow.
    pub(super) const FOREIGN: &str = "not ours";
}

/// By test runs, of what the agent of this island has attached.
pub(super) fn by_test_runs(island: &Island) -> Result<Vec<Cost>> {
    let mut costs = Vec::new();
    let netns = island.node().netns();
    let uplink = Device::new(netns, UPLINK)?;
    let client = SocketAddrV4::new(Outside::V4, 40_000);
    let elsewhere = SocketAddrV4::new(Ipv4Addr::new(203, 0, 113, 1), 443);
    let foreign = Frame { to: uplink.mac, src: client, dst: elsewhere, protocol: Proto::Tcp.number() };
    for attach in [TcAttachType::Ingress, TcAttachType::Egress] {
        for (packet, frame) in [
            (Cost::FOREIGN, &foreign),
            ("of a protocol that is none of ours", &Frame { protocol: UNKNOWN_PROTOCOL, ..foreign }),
        ] {
            costs.push(netns.run(|| uplink.mean(attach, packet, frame))??);
        }
    }
    for place in Place::ALL {
        let flow = Flow::open(island, place)?;
        let forward = Frame { src: flow.client, dst: flow.frontend, ..foreign };
        let reply = Frame { src: flow.backend, dst: flow.seen_as, ..foreign };
        let of = |what: &str| format!("{what}, {place} backend");
        let request = of("request");
        costs.push(netns.run(|| uplink.median(TcAttachType::Ingress, &request, &forward))??);
        let reply_name = of("reply");
        match place {
            Place::Remote => {
                costs.push(netns.run(|| uplink.median(TcAttachType::Ingress, &reply_name, &reply))??);
            }
            Place::Local => {
                costs.push(netns.run(|| uplink.median(TcAttachType::Egress, &reply_name, &reply))??);
                let link = Device::new(netns, island.pod(place).device())?;
                let reply = Frame { to: link.mac, ..reply };
                if netns.run(|| link.programs(TcAttachType::Ingress))??.len() == 1 {
                    costs.push(netns.run(|| link.median(TcAttachType::Ingress, &reply_name, &reply))??);
                }
            }
        }
    }
    Ok(costs)
}

/// By the kernel's account, while small datagrams are exchanged with the backends at each place.
pub(super) fn in_traffic(island: &mut Island, n_services: usize) -> Result<Vec<Cost>> {
    let netns = island.node().netns().clone();
    let link = island.pod(Place::Local).device().to_owned();
    let mut costs = Vec::new();
    for place in Place::ALL {
        let mut ids = Vec::new();
        for (device, attach) in
            [(UPLINK, TcAttachType::Ingress), (UPLINK, TcAttachType::Egress), (&link, TcAttachType::Ingress)]
        {
            let device = Device::new(&netns, device)?;
            ids.extend(netns.run(|| device.programs(attach))??.iter().map(ProgramInfo::id));
        }
        // Off again when this is dropped.
        let _on = enable_stats(Stats::RunTime).context("cannot turn on the statistics of programs")?;
        let before = ids.iter().map(|&id| Account::of(id)).collect::<Result<Vec<_>>>()?;
        island.block(place, Figure::UdpBurst, n_services, 0)?;
        for (id, before) in ids.into_iter().zip(before) {
            let Account { program, runs, time_ns } = Account::of(id)?;
            // Fewer are of something else than the requests.
            if runs - before.runs >= Figure::UdpBurst.ops() as u64 / 2 {
                let ns = as_f64(time_ns - before.time_ns) / as_f64(runs - before.runs);
                costs.push(Cost { packet: format!("mean in real traffic, {place} backend"), program, ns });
            }
        }
    }
    Ok(costs)
}

/// What the kernel counted of a program.
struct Account {
    program: String,
    runs: u64,
    time_ns: u64,
}

impl Account {
    fn of(id: u32) -> Result<Self> {
        let shown = bpftool::shown(&[&"prog", &"show", &"id", &id.to_string()])?;
        let number = |key: &str| shown[key].as_u64().unwrap_or_default();
        let program = shown["name"].as_str().unwrap_or_default().to_owned();
        Ok(Self { program, runs: number("run_cnt"), time_ns: number("run_time_ns") })
    }
}

/// A TCP connection through the node that is open while this lives.
struct Flow {
    _connection: TcpStream,
    client: SocketAddrV4,
    frontend: SocketAddrV4,
    backend: SocketAddrV4,
    /// What the backend takes for the client.
    seen_as: SocketAddrV4,
}

impl Flow {
    fn open(island: &Island, place: Place) -> Result<Self> {
        let frontend = first_node_port(island.node().v4().into(), place)?;
        let connection = island.outside().machine().run(|| TcpStream::connect(frontend))??;
        let (client, frontend) = (v4(connection.local_addr()?)?, v4(frontend)?);
        let key = FlowKey {
            src_addr: client.ip().octets(),
            dst_addr: frontend.ip().octets(),
            src_port: client.port(),
            dst_port: frontend.port(),
            proto: Proto::Tcp.number(),
            reserved: [0; 3],
        };
        let table = flows::table::<V4>(island.node().bpffs().path())?;
        let half = table.get(&key, 0).context("the flow is not in the table")?;
        Ok(Self {
            _connection: connection,
            client,
            frontend,
            backend: SocketAddrV4::new(island.pod(place).v4(), ENDPOINT_PORTS[0]),
            seen_as: SocketAddrV4::new(half.src_addr.into(), half.src_port),
        })
    }
}

fn v4(address: SocketAddr) -> Result<SocketAddrV4> {
    match address {
        SocketAddr::V4(address) => Ok(address),
        SocketAddr::V6(_) => bail!("{address} is no IPv4 address"),
    }
}

/// A device of the node. All but [`Self::new`] has to run in the node's network namespace.
struct Device {
    name: String,
    index: u32,
    mac: [u8; 6],
}

impl Device {
    fn new(netns: &NetNs, name: &str) -> Result<Self> {
        let shown: serde_json::Value =
            serde_json::from_str(&netns.output("ip", &["-j", "link", "show", "dev", name])?)?;
        let index = shown[0]["ifindex"].as_u64().context("a device without index")?.try_into()?;
        let mac = shown[0]["address"].as_str().context("a device without address")?;
        let mac: Vec<u8> = mac.split(':').map(|byte| u8::from_str_radix(byte, 16)).collect::<Result<_, _>>()?;
        let mac = mac.try_into().ok().with_context(|| format!("{name} is no Ethernet device"))?;
        Ok(Self { name: name.to_owned(), index, mac })
    }

    fn programs(&self, attach: TcAttachType) -> Result<Vec<ProgramInfo>> {
        let attached = SchedClassifier::query_tcx(&self.name, attach);
        Ok(attached.with_context(|| format!("cannot ask for the programs of {} (tcx)", self.name))?.1)
    }

    fn program(&self, attach: TcAttachType) -> Result<(String, SchedClassifier)> {
        let mut all = self.programs(attach)?;
        let info = all.pop().with_context(|| format!("no program on {}", self.name))?;
        ensure!(all.is_empty(), "several programs on {}", self.name);
        let name = info.name_as_str().unwrap_or_default().to_owned();
        Ok((name.clone(), SchedClassifier::from_program_info(info, Cow::Owned(name))?))
    }

    /// The mean of many runs on a packet that none of them changes.
    fn mean(&self, attach: TcAttachType, packet: &str, frame: &Frame) -> Result<Cost> {
        let (name, program) = self.program(attach)?;
        let (time, after) = self.run(&program, &frame.bytes(), REPEAT)?;
        ensure!(after == frame.bytes(), "{name} has changed {frame:?}");
        Ok(Cost { packet: packet.to_owned(), program: name, ns: ns(time) })
    }

    /// The median of single runs on a packet that is translated.
    fn median(&self, attach: TcAttachType, packet: &str, frame: &Frame) -> Result<Cost> {
        let (name, program) = self.program(attach)?;
        let bytes = frame.bytes();
        let mut times = Vec::new();
        for _ in 0..RUNS {
            let (time, after) = self.run(&program, &bytes, 1)?;
            ensure!(after != bytes, "{name} has not changed {frame:?}");
            times.push(time);
        }
        times.sort_unstable();
        Ok(Cost { packet: packet.to_owned(), program: name, ns: ns(times[RUNS / 2]) })
    }

    /// The time of a run, and the frame after the last one.
    fn run(&self, program: &SchedClassifier, frame: &[u8], repeat: u32) -> Result<(Duration, Vec<u8>)> {
        let context = context_at(self.index);
        let mut after = vec![0; frame.len()];
        let options = TestRunOptions {
            data_in: Some(frame),
            data_out: Some(&mut after),
            ctx_in: Some(&context),
            repeat,
            ..TestRunOptions::new()
        };
        let result = program.test_run(options)?;
        let verdict = result.return_value.cast_signed();
        ensure!(GOES_ON.contains(&verdict), "verdict {verdict} on {}", self.name);
        Ok((result.duration, after))
    }
}

fn ns(time: Duration) -> f64 {
    time.as_secs_f64() * 1e9
}
