//! What NodePorts cost clients outside the cluster: the packet layer beside plain forwarding and kube-proxy, taking turns.

mod aims;
mod frame;
mod garbage;
mod island;
mod objects;
mod programs;
mod report;

use std::{collections::BTreeMap, path::PathBuf, thread::sleep, time::Duration};

use anyhow::{Context as _, Result, ensure};
use serde::Serialize;
use serde_json::json;

use self::{
    garbage::{Pass, fill_table, watch_pass},
    island::{Island, Mainland},
    objects::Place,
    programs::Cost,
};
use crate::{ensure_components, figure::Figure, proxy::Kind, usage::Usage, write_json};

/// Who is measured.
const KINDS: [Kind; 6] =
    [Kind::Direct, Kind::DirectAgain, Kind::Agent, Kind::AgentOnPods, Kind::Nftables, Kind::Iptables];

/// After a start: what was asked of the proxies before is done.
const REST: Duration = Duration::from_secs(3);

/// Flags of `lb-bench outside`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Numbers of Services to measure at, ascending. Half of them have their endpoint on the other node, so there are at
    /// least two
    #[arg(long, value_delimiter = ',', default_value = "2,10000")]
    services: Vec<usize>,
    /// Flows in the agent's connection table in one more measurement, with the largest number of Services; 0 for none
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u32).range(..=1 << 24))]
    flows: u32,
    /// Rounds; in each, every target has one block of every figure
    #[arg(long, default_value_t = 12)]
    rounds: usize,
    /// What is left out
    #[arg(long, value_delimiter = ',', value_enum)]
    without: Vec<Kind>,
    /// Where every value goes, as JSON [default: a new file in target/bench]
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// Everything measured at one size, by target.
#[derive(Serialize)]
struct Measured {
    services: usize,
    flows: u32,
    targets: BTreeMap<Kind, Target>,
}

/// What one target gave.
#[derive(Default, Serialize)]
struct Target {
    /// Time of one operation in each block, nanoseconds, in the order of the rounds.
    block_ns: BTreeMap<Place, BTreeMap<Figure, Vec<u64>>>,
    /// From the start of the proxy to when the last NodePort had answered.
    start_s: Option<f64>,
    /// Of the proxy at the end.
    usage: Option<Usage>,
    /// Of the kernel's memory, for the agent's maps.
    maps_mib: Option<f64>,
    /// Of the agent's programs.
    costs: Vec<Cost>,
    /// One walk of the agent through the connection table.
    pass: Option<Pass>,
}

impl Target {
    fn blocks(&self, place: Place, figure: Figure) -> Option<&[u64]> {
        Some(self.block_ns.get(&place)?.get(&figure)?)
    }
}

pub(crate) fn run(args: &Args) -> Result<()> {
    ensure!(args.services.iter().all(|&n| n >= 2), "--services: at least 2, one for each place of an endpoint");
    ensure!(args.services.is_sorted_by(|a, b| a < b), "--services must be ascending");
    ensure_components()?;
    eprintln!("starting a control plane and the nodes");
    let mut course = Course::new(args)?;
    let mut all = Vec::new();
    for &services in &args.services {
        course.grow_to(services)?;
        all.push(course.measure(0)?);
    }
    if args.flows > 0 {
        all.push(course.measure(args.flows)?);
    }
    for measured in &all {
        println!("{}\n", report::table(measured));
    }
    println!("{}\n", aims::table(&all));
    let report = json!({"outside": all, "rounds": args.rounds});
    eprintln!("written to {}", write_json(report, args.json.as_deref())?.display());
    Ok(())
}

/// Dropped from top to bottom.
struct Course<'a> {
    islands: Vec<Island>,
    mainland: Mainland,
    args: &'a Args,
    services: usize,
}

impl<'a> Course<'a> {
    fn new(args: &'a Args) -> Result<Self> {
        let mainland = Mainland::new()?;
        let kinds = KINDS.into_iter().filter(|kind| !args.without.contains(kind));
        let island = |(number, kind)| {
            Island::new(&mainland, kind, number).with_context(|| format!("cannot set up the nodes of {kind}"))
        };
        let islands: Vec<Island> = (1..).zip(kinds).map(island).collect::<Result<_>>()?;
        islands.first().context("--without leaves nobody")?.register(&mainland)?;
        Ok(Self { islands, mainland, args, services: 0 })
    }

    /// Creates Services up to this number. No proxy runs meanwhile.
    fn grow_to(&mut self, services: usize) -> Result<()> {
        eprintln!("{services} Services: creating objects");
        self.islands.iter_mut().for_each(Island::stop);
        let admin = self.mainland.control_plane.admin();
        objects::create(admin, self.services, services, &self.islands[0].endpoints()?)?;
        self.services = services;
        Ok(())
    }

    fn measure(&mut self, flows: u32) -> Result<Measured> {
        let mut targets = BTreeMap::new();
        for island in &mut self.islands {
            let target: &mut Target = targets.entry(island.kind).or_default();
            // With flows, it is only agents that differ from before.
            if flows == 0 || island.kind.is_agent() {
                eprintln!("{} Services, {flows} flows: starting {}", self.services, island.kind);
                let took = island.start(&self.mainland, self.services, flows);
                let took = took.with_context(|| format!("{} with {} Services", island.kind, self.services))?;
                // Nothing is new with flows: the programs answer before the agent does.
                target.start_s = took.filter(|_| flows == 0).map(|took| took.as_secs_f64());
            }
            if flows > 0 && island.kind.is_agent() {
                fill_table(island, flows)?;
            }
        }
        sleep(REST);
        for round in 0..self.args.rounds {
            eprint!("\r{} Services, {flows} flows: round {} of {}   ", self.services, round + 1, self.args.rounds);
            self.take_turns(&mut targets, round)?;
        }
        eprintln!();
        for island in &mut self.islands {
            let target = targets.entry(island.kind).or_default();
            (target.usage, target.maps_mib) = (island.usage()?, island.maps_mib()?);
            if let Some(agent) = island.agent() {
                // Both agents walk alike.
                if flows > 0 && island.kind == Kind::Agent {
                    target.pass = Some(watch_pass(agent.process().pid())?);
                }
                target.costs = programs::by_test_runs(island)?;
                target.costs.extend(programs::in_traffic(island, self.services)?);
            }
        }
        Ok(Measured { services: self.services, flows, targets })
    }

    /// One block of every figure at each place for every target. Who is first changes from round to round.
    fn take_turns(&mut self, targets: &mut BTreeMap<Kind, Target>, round: usize) -> Result<()> {
        for place in Place::ALL {
            for figure in Figure::FROM_OUTSIDE {
                let n = self.islands.len();
                for turn in 0..n {
                    let island = &mut self.islands[(turn + round) % n];
                    let ns = island.block(place, figure, self.services, round * 97);
                    let ns = ns.with_context(|| format!("{} at the {place} backend", island.kind))?;
                    let blocks = &mut targets.entry(island.kind).or_default().block_ns;
                    blocks.entry(place).or_default().entry(figure).or_default().push(ns);
                }
            }
        }
        Ok(())
    }
}
