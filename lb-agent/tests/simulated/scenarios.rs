//! Runs the scenario files: manifests in; map contents and where connections go out; with restarts, crashes and failing
//! map writes in between. The model, the plan and the kernel's decisions are the real ones. Each file is run once as it
//! is, and many times with one in ten map writes failing.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
};

use lb_agent::{
    datapath::{sim::SimStore, store::Capacity},
    event::Event,
    reconcile::Step as Progress,
    watch::manifests::memory::InMemory,
};
use lb_common::{
    abi::{Device, NodeConfig, Proto, SNAT_FIRST, SNAT_LAST, device_flags},
    logic::{forward::Side, seam::Route},
    sim::{
        Outcome, Refused, SimSocket, SimTraffic,
        frames::{self, Frame},
    },
};

use crate::{
    agent::{Agent, Faults, NODE, ROOMY},
    script::{self, Step},
};

/// How many runs with failing writes each scenario has.
const SEEDS: u64 = 25;
/// So many connections are made to see where they go: among four backends, one is missed once in 10^7 times.
const CONNECTIONS: usize = 64;

/// Clients outside (RFC 5737, RFC 3849), and the first port that they come from.
const CLIENT4: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 9);
const CLIENT6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 9);
const FIRST_PORT: u16 = 40_000;
/// The TCP flag.
const SYN: u8 = 2;

/// Everything is reached by one device, with our programs.
fn lay_uplink(traffic: &mut SimTraffic) {
    const UPLINK: u32 = 1;
    traffic.devices = [(UPLINK, Device { flags: device_flags::UPLINK, ..Device::default() })].into();
    traffic.v4.routes = vec![([0; 4], 0, Route::Router(UPLINK))];
    traffic.v6.routes = vec![([0; 16], 0, Route::Router(UPLINK))];
    traffic.node = NodeConfig {
        addr4: [192, 0, 2, 254],
        addr6: Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 254).octets(),
        snat_first: SNAT_FIRST,
        snat_last: SNAT_LAST,
        answers_per_s: u32::MAX,
        flags: 0,
    };
}

struct Scenario {
    manifests: InMemory,
    agent: Agent,
    /// Whether the agent hears of changes.
    connected: bool,
    percent: u32,
    operations: u64,
}

impl Scenario {
    fn start(capacity: Capacity, faults: Faults) -> Self {
        let agent = Agent::start(capacity, faults);
        let manifests = InMemory::on(NODE);
        let mut scenario = Self { manifests, agent, connected: true, percent: faults.percent, operations: 0 };
        scenario.agent.reconciler().store_mut().inner_mut().edit(|node, _| lay_uplink(&mut node.traffic));
        scenario.list("slices");
        scenario.list("services");
        scenario
    }

    fn run(&mut self, step: &Step) {
        match step.command.as_str() {
            "apply" => self.put(step, Some(&step.body)),
            "delete" => self.put(step, None),
            "list" => self.list(&step.arguments[0]),
            "relist" => self.connect(),
            "stop" => self.connected = false,
            "start" => self.restart(|_| {}),
            "restart" => {
                self.restart(|_| {});
                self.connect();
            }
            "crash-after" => self.crash_after(step.number(0)),
            "capacity" => {
                let capacity = capacity(step);
                self.restart(|maps| maps.set_capacity(capacity));
                self.connect();
            }
            "addresses" => self.agent.set_addresses(step.arguments.iter().map(|ip| step.parsed(ip)).collect()),
            "flag" => self.set_flag(step),
            "complaints" => self.check_complaints(step),
            "writes" => self.writes(&step.arguments[0]),
            "maps" => self.check_maps(step, |line| !is_of_guards(line)),
            "guards" => self.check_maps(step, is_of_guards),
            "connect" => self.check_connections(step, Self::outcomes),
            "outside" => self.check_connections(step, Self::outcomes_outside),
            "full" => self.check_full(step),
            "nothing-written" => self.check_nothing_written(step),
            other => panic!("{step}: no such command as {other}"),
        }
        let violations = self.agent.maps().violations();
        assert!(violations.is_empty(), "{step}: {violations:?}");
    }

    fn put(&mut self, step: &Step, text: Option<&str>) {
        let (events, problems) = self.manifests.put(&step.arguments[0], text);
        assert!(problems.is_empty(), "{step}: {problems:?}");
        if self.connected {
            self.agent.receive(events);
        }
    }

    /// One of the two lists is delivered.
    fn list(&mut self, kind: &str) {
        let [node, slices, services] = self.manifests.full_lists();
        assert!(matches!((&slices, &services), (Event::SlicesReset(_), Event::ServicesReset(_))));
        self.agent.receive([node, if kind == "slices" { slices } else { services }]);
        self.agent.step();
    }

    fn connect(&mut self) {
        self.connected = true;
        self.agent.receive(self.manifests.full_lists());
    }

    fn restart(&mut self, meanwhile: impl FnOnce(&mut SimStore)) {
        self.connected = false;
        self.agent.restart(|store| {
            store.revive();
            meanwhile(store.inner_mut());
        });
        self.operations = self.agent.maps().operations();
    }

    fn crash_after(&mut self, writes: u64) {
        self.restart(|_| {});
        self.agent.reconciler().store_mut().die_after(writes);
        self.agent.receive(self.manifests.full_lists());
        while self.agent.step() == Progress::More {}
    }

    /// Another agent takes over, with this flag.
    fn set_flag(&mut self, step: &Step) {
        let [flag, value] = &step.arguments[..] else { panic!("{step}: a flag and its value") };
        let config = self.agent.config();
        match flag.as_str() {
            "--nodeport-addresses" => config.nodeport_addresses = step.parsed(value),
            "--external-ips" => config.external_ips = step.parsed(value),
            "--api-servers" => config.api_servers = value.split(',').map(|server| step.parsed(server)).collect(),
            _ => panic!("{step}: no such flag"),
        }
        self.restart(|_| {});
        self.connect();
    }

    fn check_complaints(&mut self, step: &Step) {
        self.agent.settle();
        let report = self.agent.report();
        let first: Vec<_> = report.first_conflict.into_iter().collect();
        assert_eq!(first, step.expected(), "{step}: the first of {} complaints", report.conflicts);
    }

    fn writes(&mut self, how: &str) {
        let percent = if how == "fail" { 100 } else { self.percent };
        self.agent.reconciler().store_mut().set_percent(percent);
        while self.agent.step() == Progress::More {}
    }

    /// `maps` and `guards` wait until the agent has nothing to do; `maps now` and `guards now` do not.
    fn check_maps(&mut self, step: &Step, concerned: impl Fn(&str) -> bool) {
        if step.arguments.is_empty() {
            self.agent.settle();
        }
        let lines: Vec<_> = self.agent.dump().into_iter().filter(|line| concerned(line)).collect();
        assert_eq!(lines, step.expected(), "{step}: in the maps (left) and expected (right)");
        self.operations = self.agent.maps().operations();
    }

    fn check_connections(&self, step: &Step, outcomes: fn(&Self, SocketAddr, Proto) -> BTreeSet<String>) {
        for line in step.expected() {
            let (to, expected) = line.split_once(' ').unwrap_or_else(|| panic!("{step}: {line}"));
            let (to, proto) = to.split_once('/').unwrap_or_else(|| panic!("{step}: {line}"));
            let to: SocketAddr = to.parse().unwrap_or_else(|e| panic!("{step}: {to}: {e}"));
            let expected: BTreeSet<String> = match expected.split_once("-> ") {
                Some((_, backends)) => backends.split(' ').map(str::to_owned).collect(),
                None => [expected.to_owned()].into(),
            };
            let proto = if proto == "UDP" { Proto::Udp } else { Proto::Tcp };
            assert_eq!(outcomes(self, to, proto), expected, "{step}: {line}");
        }
    }

    /// Where clients end up: by connect, and with UDP also by sendto without it.
    fn outcomes(&self, to: SocketAddr, proto: Proto) -> BTreeSet<String> {
        let node = self.agent.maps().node();
        let told = |outcome: Result<SocketAddr, Refused>| match outcome {
            Ok(address) if address == to => "passes".to_owned(),
            Ok(address) => address.to_string(),
            Err(Refused) => "refused".to_owned(),
        };
        let socket = || SimSocket::for_destination(to.ip(), proto);
        let mut outcomes: BTreeSet<_> = (0..CONNECTIONS).map(|_| told(socket().connect(node, to))).collect();
        if proto == Proto::Udp {
            outcomes.extend((0..CONNECTIONS).map(|_| told(socket().send_to(node, to))));
        }
        outcomes
    }

    /// Where packets of clients outside end up, which come in by an uplink.
    fn outcomes_outside(&self, to: SocketAddr, proto: Proto) -> BTreeSet<String> {
        let node = self.agent.maps().node();
        let client: IpAddr = if to.is_ipv4() { CLIENT4.into() } else { CLIENT6.into() };
        let told = |from: SocketAddr| {
            let frame = if proto == Proto::Tcp { Frame::tcp(from, to, SYN) } else { Frame::udp(from, to) };
            match node.arrives(frame.packet(false), Side::Uplink) {
                Outcome::Passed(_) => "passes".to_owned(),
                Outcome::Answered(_) => "refused".to_owned(),
                Outcome::Dropped | Outcome::Lost => "dropped".to_owned(),
                Outcome::Again(_) => "again, as fragments".to_owned(),
                Outcome::Rewritten(packet) | Outcome::Sent(_, packet) | Outcome::Entered(_, packet) => {
                    frames::ends(&packet.bytes).expect("a packet with addresses").1.to_string()
                }
            }
        };
        let outcomes = (FIRST_PORT..).take(CONNECTIONS).map(|port| told(SocketAddr::new(client, port))).collect();
        node.traffic.v4.conns.borrow_mut().clear();
        node.traffic.v6.conns.borrow_mut().clear();
        outcomes
    }

    fn check_full(&mut self, step: &Step) {
        self.agent.settle();
        let full: Vec<_> = self.agent.reconciler().not_fitting().map(|(name, why)| format!("{name}: {why}")).collect();
        assert_eq!(full, step.expected(), "{step}: does not fit (left) and expected (right)");
    }

    fn check_nothing_written(&mut self, step: &Step) {
        self.agent.settle();
        assert_eq!(self.agent.maps().operations(), self.operations, "{step}: operations on the maps");
    }

    /// An agent that starts on empty maps would write the same.
    fn check_end(&mut self, path: &Path) {
        self.connect();
        self.agent.settle();
        if self.agent.reconciler().not_fitting().next().is_some() {
            return;
        }
        let mut fresh = self.agent.on_empty_maps();
        fresh.receive(self.manifests.full_lists());
        fresh.settle();
        assert_eq!(self.agent.dump(), fresh.dump(), "{}: at the end (left) and by a fresh agent", path.display());
    }
}

/// Every ClusterIP has a guard: scenarios that are not about them say nothing of them.
fn is_of_guards(line: &str) -> bool {
    line.contains(" any other port ") || line.starts_with("guards ")
}

/// `frontends N backends N slots N`.
fn capacity(step: &Step) -> Capacity {
    Capacity { frontends: step.number(1), backends: step.number(3), slots: step.number(5), ..ROOMY }
}

fn run(path: &Path, faults: Faults) {
    let steps = script::read(path);
    let mut scenario = Scenario::start(ROOMY, faults);
    for step in &steps {
        scenario.run(step);
    }
    scenario.check_end(path);
}

fn scenarios() -> Vec<PathBuf> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scenarios");
    let files = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = files.filter(|path| path.extension().is_some_and(|e| e == "scenario")).collect();
    files.sort();
    assert!(files.len() >= 15, "only {} scenarios were found", files.len());
    files
}

/// Runs all of them before it says which failed.
fn run_all(faults: impl Iterator<Item = Faults> + Clone) {
    let mut failed = Vec::new();
    for path in scenarios() {
        for faults in faults.clone() {
            if std::panic::catch_unwind(|| run(&path, faults)).is_err() {
                failed.push(format!("{} with {faults:?}", path.file_name().unwrap().display()));
                break;
            }
        }
    }
    assert!(failed.is_empty(), "failed: {failed:#?}");
}

#[test]
fn scenarios_hold() {
    run_all(std::iter::once(Faults::NONE));
}

#[test]
fn scenarios_hold_when_one_write_in_ten_fails() {
    run_all((0..SEEDS).map(|seed| Faults { percent: 10, seed }));
}
