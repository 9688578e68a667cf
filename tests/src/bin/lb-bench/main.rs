//! `lb-bench`: measures this agent beside a direct connection and kube-proxy, all in one run, taking turns.
//!
//! `lb-bench scale` measures what large clusters cost instead: start, memory, changes. `lb-bench outside` measures clients
//! outside the cluster.
//!
//! For `cargo xtask bench`, which builds everything in release mode first. Ratios within a round are what to look at:
//! absolute times of this kind drift from minute to minute on most machines. Needs root, as the tests do.

mod client;
mod figure;
mod measure;
mod objects;
mod outside;
mod protocol;
mod proxy;
mod remote;
mod report;
mod rig;
mod scale;
mod server;
mod stats;
mod usage;
mod whole;

use std::{
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
    thread::available_parallelism,
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, Result};
use clap::{Parser, Subcommand};
use lb_tests::components::{self, Component};
use nix::{
    sched::{CpuSet, sched_setaffinity},
    sys::utsname::uname,
    unistd::Pid,
};
use serde_json::json;

use crate::{objects::ENDPOINT_PORTS, proxy::Kind, rig::Rig};

/// Measures Service connections: direct, this agent, kube-proxy in nftables and iptables mode.
#[derive(Parser)]
struct Args {
    #[command(subcommand)]
    part: Option<Part>,
    /// Numbers of Services to measure at, ascending.
    #[arg(long, value_delimiter = ',', default_value = "10,2000")]
    services: Vec<usize>,
    /// Endpoints of each Service.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u8).range(1..=200))]
    endpoints: u8,
    /// Rounds on the data path; in each, every target has one block of every figure.
    #[arg(long, default_value_t = 30)]
    rounds: usize,
    /// Changes of an EndpointSlice that are measured for each proxy.
    #[arg(long, default_value_t = 10)]
    changes: usize,
    /// What is left out.
    #[arg(long, value_delimiter = ',', value_enum)]
    without: Vec<Kind>,
}

/// Another benchmark, and the processes that the benchmarks start themselves.
#[derive(Subcommand)]
enum Part {
    /// Measures starting, memory and changes in large clusters: this agent, then kube-proxy in nftables mode.
    Scale(scale::Args),
    /// Measures NodePorts from outside the cluster: plain forwarding, this agent's packet layer, kube-proxy.
    Outside(outside::Args),
    /// The measuring client: requests on stdin.
    #[command(hide = true)]
    Client,
    /// The endpoints.
    #[command(hide = true)]
    Server {
        /// The endpoints' addresses.
        addresses: Vec<IpAddr>,
    },
}

fn main() -> Result<()> {
    let mut args = Args::parse();
    match args.part.take() {
        None => bench(&args),
        Some(Part::Scale(args)) => scale::run(&args),
        Some(Part::Outside(args)) => outside::run(&args),
        Some(Part::Client) => {
            pin()?;
            client::run()
        }
        Some(Part::Server { addresses }) => {
            pin()?;
            server::run(&addresses, &ENDPOINT_PORTS)
        }
    }
}

fn ensure_components() -> Result<()> {
    for component in [Component::Etcd, Component::ApiServer, Component::KubeProxy] {
        components::ensure(component)?;
    }
    Ok(())
}

fn bench(args: &Args) -> Result<()> {
    ensure_components()?;
    eprintln!("starting a control plane");
    let rig = Rig::start(args.endpoints)?;
    let mut all = Vec::new();
    let mut existing = 0;
    for &services in &args.services {
        anyhow::ensure!(services > existing, "--services must be ascending numbers from 1 on");
        eprintln!("{services} Services: creating objects");
        objects::create(rig.control_plane.admin(), existing, services, rig.endpoints())?;
        existing = services;
        let measured = measure::run(&rig, services, args)?;
        println!("{}\n", report::table(&measured));
        all.push(measured);
    }
    let report = json!({"endpoints": args.endpoints, "rounds": args.rounds, "measured": all});
    eprintln!("written to {}", write_json(report, None)?.display());
    Ok(())
}

/// Keeps what was measured, with what it was measured on: in this file, or in a new one.
fn write_json(mut report: serde_json::Value, file: Option<&Path>) -> Result<PathBuf> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).context("the clock is before 1970")?.as_secs();
    let path = match file {
        Some(file) => file.to_owned(),
        None => {
            let directory = components::target_dir().join("bench");
            fs::create_dir_all(&directory).with_context(|| format!("cannot create {}", directory.display()))?;
            directory.join(format!("{now}.json"))
        }
    };
    report["unix_time_s"] = now.into();
    report["kernel"] = uname()?.release().to_string_lossy().into();
    report["processors"] = available_parallelism()?.get().into();
    fs::write(&path, format!("{report:#}\n")).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path)
}

/// Client and endpoints share the last processor: what is measured is the work on the way there and back, not how fast
/// an idle processor wakes up. The proxies are left free.
fn pin() -> Result<()> {
    let mut set = CpuSet::new();
    set.set(available_parallelism()?.get() - 1)?;
    sched_setaffinity(Pid::from_raw(0), &set).context("cannot pin to a processor")
}
