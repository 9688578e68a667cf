//! `lb-agent run`: wires the parts together, one function per stage.
//!
//! Order: the machine is checked, the lock taken and the maps opened before anything is changed; programs are attached
//! before the first map write; nothing is written before the source has delivered its first full lists. When the agent
//! ends, for whatever reason, programs and maps stay as they are.
//!
//! Threads: sources, HTTP and signals share the main one. The reconcile loop has one of its own, see [`reconciling`].

mod adopted;
mod devices;
mod followers;
mod logging;
mod memory;
mod news;
mod reconciling;
mod selftest;
mod source;

use std::{future::Future, time::SystemTime};

use tokio::{
    runtime::{Builder, Runtime},
    signal::unix::{SignalKind, signal},
    sync::{mpsc, watch},
};
use tracing::{error, info, warn};

use self::{
    devices::Devices,
    followers::{Exclude, Followers},
    memory::Memory,
    news::Heard,
    reconciling::{Audience, Reconciling},
    source::Source,
};
use crate::{
    EBPF_OBJECT, VERSION,
    cli::{Failure, RunArgs},
    config::{self, Surroundings},
    datapath::{
        bpf::{Datapath, Note, Options, SelfTester, StatusWriter},
        store::Capacity,
    },
    model::ModelConfig,
    observe::{
        Identity, Observer, Problem, State, agent_status,
        http::{health_routes, metrics_routes, serve},
        metrics::{Metrics, ReadCounters},
        service_health,
    },
    reconcile::Checks,
    watch::addresses::Addresses,
};

/// Messages that may wait for the reconcile loop. Only bounds memory: a slower loop makes the source wait.
const MESSAGES: usize = 1024;

/// Runs the agent until SIGTERM or SIGINT.
///
/// # Errors
/// What keeps it from starting, or what ended it otherwise.
pub fn run(args: RunArgs) -> Result<(), Failure> {
    logging::init(&args)?;
    let around = Surroundings::read();
    let source = config::source(&args, &around)?;
    let has_pods = source.has_pods();
    let node = config::node_name(&args, &around)?;
    announce(&node);
    let runtime = runtime()?;
    // Before the kernel is touched: a wrong path ends the agent with nothing changed.
    let source = runtime.block_on(Source::open(&source))?;
    let addresses = Addresses::open().map_err(|error| unexpected(error, "watching this node's addresses"))?;
    let model = config::model(&args, node, source.api_servers());
    let mut datapath = open_datapath(&args, has_pods)?;
    let source = source.adopting(&mut datapath)?;
    let observer = Observer::default();
    let mut record = Record::start(&datapath)?;
    // `status` must not show the last agent's words as this one's.
    record.write(&observer.state());
    attach(&mut datapath)?;
    let failed = selftest::note(&observer, || datapath.self_test()).is_err();
    let tester = failed.then(|| datapath.self_tester()).transpose()?;
    let exclude = Exclude { patterns: args.packet.socket_lb_exclude.clone(), has_pods };
    let followers = Followers::start(&mut datapath, args.terminate_tcp, exclude, &observer);
    let devices = devices::start(&mut datapath, &args.packet, &args.nodeport_addresses, &observer);
    let parts = Parts { source, addresses, model, datapath, tester, followers, devices, observer, record };
    runtime.block_on(operate(&args, parts))
}

fn announce(node: &str) {
    info!(version = VERSION, node, pid = std::process::id(), "starting");
}

fn runtime() -> Result<Runtime, Failure> {
    Builder::new_current_thread().enable_all().build().map_err(|error| unexpected(error, "starting the runtime"))
}

/// An error that has no exit status of its own.
fn unexpected(error: impl std::error::Error + Send + Sync + 'static, doing: &'static str) -> Failure {
    anyhow::Error::new(error).context(doing).into()
}

/// Checks the machine, takes the lock, opens the maps and loads the programs.
fn open_datapath(args: &RunArgs, has_pods: bool) -> Result<Datapath, Failure> {
    let options = Options {
        object: EBPF_OBJECT,
        bpffs: args.place.bpffs.clone(),
        cgroup_root: args.place.cgroup_root.clone(),
        capacity: Capacity {
            frontends: args.max_frontends,
            backends: args.max_backends,
            // A Service's new range is written before its old one is given back.
            slots: args.max_backends.saturating_mul(2),
            affinities: args.max_affinities,
            // Each connection has an entry for either direction.
            conns: args.max_connections.saturating_mul(2),
        },
        bind_protection: args.nodeport_bind_protection,
        exclusion: has_pods || !args.packet.socket_lb_exclude.is_empty(),
    };
    let (datapath, notes) = Datapath::open(&options)?;
    log_notes(&notes);
    Ok(datapath)
}

fn attach(datapath: &mut Datapath) -> Result<(), Failure> {
    log_notes(&datapath.attach()?);
    info!(cgroup = %datapath.cgroup_root().display(), "programs attached");
    Ok(())
}

fn log_notes(notes: &[Note]) {
    for note in notes {
        info!("{note}");
    }
}

/// What the start has made ready.
struct Parts {
    source: Source,
    addresses: Addresses,
    model: ModelConfig,
    datapath: Datapath,
    /// Where the self-test has to be repeated.
    tester: Option<SelfTester>,
    followers: Followers,
    devices: Option<Devices>,
    observer: Observer,
    record: Record,
}

/// Everything after the start: source, reconcile loop, HTTP servers, status, until a signal comes.
async fn operate(args: &RunArgs, parts: Parts) -> Result<(), Failure> {
    let Parts { source, addresses, model, datapath, tester, followers, devices, observer, record } = parts;
    let signal = end_signal()?;
    let (health_checks, checks) = watch::channel(Checks::default());
    serve_http(args, &datapath, &observer, checks)?;
    tokio::spawn(record.keep(observer.clone()));
    let (sender, messages) = mpsc::channel(MESSAGES);
    if let Some(mut tester) = tester {
        tokio::spawn(selftest::repeat(observer.clone(), move || tester.run()));
    }
    let (node_addresses, node) = watch::channel(Vec::new());
    let devices = async {
        match devices {
            Some(devices) => source::ended("watch on this node's devices", devices.follow(node)).await,
            None => std::future::pending().await,
        }
    };
    let audience = Audience {
        observer,
        followers,
        health_checks,
        node_addresses,
        memory: Memory::default(),
        heard: Heard::default(),
    };
    let mut reconciling = Reconciling::start(datapath, model, messages, audience)?;
    let addresses = source::ended("watch on this node's addresses", tokio::spawn(addresses.run(sender.clone())));
    let source = source::ended("source of Services and endpoints", tokio::spawn(source.run(sender)));
    let result = tokio::select! {
        name = signal => {
            info!(signal = name, "stopping; programs and maps stay in place, and traffic goes on with the last state");
            Ok(())
        }
        () = reconciling.ended() => Ok(()),
        failure = source => Err(failure),
        failure = addresses => Err(failure),
        failure = devices => Err(failure),
    };
    // The source ends also when the loop has: then the loop's own failure is the one to tell.
    reconciling.stop().and(result)
}

/// Completes with the name of the signal that asks for the end.
fn end_signal() -> Result<impl Future<Output = &'static str>, Failure> {
    let listen = |kind| signal(kind).map_err(|error| unexpected(error, "listening for signals"));
    let (mut terminate, mut interrupt) = (listen(SignalKind::terminate())?, listen(SignalKind::interrupt())?);
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        }
    })
}

fn another(flag: &str) -> String {
    format!("free that port or set another with {flag}")
}

fn serve_http(
    args: &RunArgs,
    datapath: &Datapath,
    observer: &Observer,
    checks: watch::Receiver<Checks>,
) -> Result<(), Failure> {
    let report = {
        let observer = observer.clone();
        move |error: &anyhow::Error| {
            let text = format!("{error:#}; trying again");
            error!("{text}");
            observer.update(|state| state.note(Problem { at: SystemTime::now(), text }));
        }
    };
    if let Some(address) = args.healthz_address.socket() {
        tokio::spawn(serve(another("--healthz-address"), address, health_routes(observer), report.clone()));
    }
    tokio::spawn(service_health::serve(checks, observer.clone(), report.clone()));
    if let Some(address) = args.metrics_address.socket() {
        let reader = datapath.counters()?;
        let counters: ReadCounters = Box::new(move || Ok(reader.read()?));
        let metrics = std::sync::Arc::new(Metrics::new(observer, VERSION, counters));
        tokio::spawn(serve(another("--metrics-address"), address, metrics_routes(metrics), report));
    }
    Ok(())
}

/// The map `lb_agent`: what `lb-agent status` knows of this agent.
struct Record {
    writer: StatusWriter,
    identity: Identity,
    failed: bool,
}

impl Record {
    fn start(datapath: &Datapath) -> Result<Self, Failure> {
        let identity = Identity { started: SystemTime::now(), pid: std::process::id(), version: VERSION };
        Ok(Self { writer: datapath.status_writer()?, identity, failed: false })
    }

    /// Failure is said once: what the agent is for does not need this map.
    fn write(&mut self, state: &State) {
        let result = self.writer.write(&agent_status(&self.identity, state));
        if let Err(error) = &result
            && !self.failed
        {
            warn!("`lb-agent status` will be out of date: {error}");
        }
        self.failed = result.is_err();
    }

    /// Keeps it up to date, a few times a second at most.
    async fn keep(mut self, observer: Observer) {
        const PAUSE: std::time::Duration = std::time::Duration::from_millis(200);
        loop {
            self.write(&observer.state());
            observer.changed().await;
            tokio::time::sleep(PAUSE).await;
        }
    }
}
