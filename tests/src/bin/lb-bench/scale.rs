//! What a large cluster costs: from start to the last Service, memory, one change, many changes a second, a node's worth
//! of endpoints gone at once. This agent first, then kube-proxy in nftables mode, each alone on the machine with the same
//! objects.

use std::{fmt, str::FromStr, thread::sleep, time::Duration};

use anyhow::{Context as _, Result};
use comfy_table::Table;
use serde::Serialize;
use serde_json::json;

use crate::{
    ensure_components,
    measure::seconds,
    objects::{self, ENDPOINT_PORTS},
    protocol::{Request, now_ns},
    proxy::Kind,
    report::{grid, spread},
    rig::{Rig, Target},
    usage::{Usage, as_f64},
    write_json,
};

/// Who is measured, in this order.
const KINDS: [Kind; 2] = [Kind::Agent, Kind::Nftables];

/// Before a measurement: what was asked of the proxy before is done, and kube-proxy's `minSyncPeriod` of 1 s is over.
const REST: Duration = Duration::from_secs(3);

/// Flags of `lb-bench scale`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Sizes of clusters: Services times endpoints of each (at most 200).
    #[arg(long, value_delimiter = ',', default_value = "10000x10,2000x100")]
    shapes: Vec<Shape>,
    /// Single changes of an EndpointSlice, each alone.
    #[arg(long, default_value_t = 10)]
    changes: usize,
    /// For so long, 200 changes are made a second.
    #[arg(long, default_value_t = 20)]
    busy_seconds: u32,
    /// What is left out.
    #[arg(long, value_delimiter = ',', value_enum)]
    without: Vec<Kind>,
}

/// The size of a cluster.
#[derive(Clone, Copy, Debug, Serialize)]
struct Shape {
    services: usize,
    endpoints: u8,
}

impl FromStr for Shape {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is no size such as 10000x10 (Services x endpoints, 2 to 200)");
        let (services, endpoints) = text.split_once('x').ok_or_else(wrong)?;
        let shape = Self {
            services: services.parse().map_err(|_| wrong())?,
            endpoints: endpoints.parse().map_err(|_| wrong())?,
        };
        if shape.services == 0 || !(2..=200).contains(&shape.endpoints) { Err(wrong()) } else { Ok(shape) }
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} Services x {} endpoints", self.services, self.endpoints)
    }
}

/// What one proxy needed at one size.
#[derive(Debug, Serialize)]
struct Measured {
    kind: Kind,
    /// From the proxy's start to when the last Service had answered.
    start_s: f64,
    /// Then.
    started: Usage,
    /// Of the kernel's memory, for the agent's maps.
    maps_mib: Option<f64>,
    /// From the API server's answer to the first connection that followed a change; below 0 where the watch was faster.
    follow_ms: Vec<f64>,
    /// Processor time of one change that comes alone.
    cpu_per_change_ms: f64,
    /// From a change's arrival at the agent to its last map write, mean of the single changes, as the agent says it.
    programming_ms: Option<f64>,
    busy: Burst,
    node_gone: Burst,
    /// At the end.
    ended: Usage,
}

/// Many changes.
#[derive(Debug, Serialize)]
struct Burst {
    /// How many objects were changed.
    changes: usize,
    /// How long the API server took to take them all.
    written_s: f64,
    /// From its last answer to the first connection that followed the last change.
    late_ms: f64,
    /// Processor time that the proxy used.
    cpu_s: f64,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    ensure_components()?;
    let mut all = Vec::new();
    for &shape in &args.shapes {
        eprintln!("{shape}: starting a control plane, creating objects");
        let rig = Rig::start(shape.endpoints)?;
        objects::create(rig.control_plane.admin(), 0, shape.services, rig.endpoints())?;
        let measured: Vec<Measured> = KINDS
            .into_iter()
            .filter(|kind| !args.without.contains(kind))
            .zip(1..)
            .map(|(kind, index)| Course { rig: &rig, shape, args }.run(kind, index).with_context(|| kind.to_string()))
            .collect::<Result<_>>()?;
        println!("{}\n", table(shape, &measured));
        all.push(json!({"shape": shape, "measured": measured}));
    }
    eprintln!("written to {}", write_json(json!({"scale": all}), None)?.display());
    Ok(())
}

/// One size, which every proxy goes through.
struct Course<'a> {
    rig: &'a Rig,
    shape: Shape,
    args: &'a Args,
}

impl Course<'_> {
    fn run(&self, kind: Kind, index: u8) -> Result<Measured> {
        eprintln!("{}: {kind}", self.shape);
        let mut target = self.rig.target(kind, index, self.shape.services)?;
        let start = now_ns()?;
        target.start_proxy(&self.rig.control_plane)?;
        let start_s = seconds(start, target.client.wait(&Request::WaitForAll)?);
        sleep(REST);
        let (started, maps_mib) = (usage(&target)?, target.maps_mib()?);
        let before = programmed(&target)?;
        let follow_ms = self.single_changes(&mut target)?;
        let cpu_per_change_ms = (usage(&target)?.cpu_s - started.cpu_s) * 1000.0 / as_f64(follow_ms.len() as u64);
        let programming_ms = before.zip(programmed(&target)?).map(|(before, after)| before.mean_ms_until(after));
        let busy = self.busy(&mut target)?;
        let node_gone = self.node_gone(&mut target)?;
        sleep(REST);
        let ended = usage(&target)?;
        let measured = Measured {
            kind,
            start_s,
            started,
            maps_mib,
            follow_ms,
            cpu_per_change_ms,
            programming_ms,
            busy,
            node_gone,
            ended,
        };
        // As the next proxy has to find it.
        objects::set_endpoints(self.rig.control_plane.admin(), self.shape.services, self.rig.endpoints())?;
        Ok(measured)
    }

    /// Each alone, there and back again.
    fn single_changes(&self, target: &mut Target) -> Result<Vec<f64>> {
        let mut follow_ms = Vec::new();
        for change in 0..self.args.changes {
            let service = change * 7919 % self.shape.services;
            for port in [ENDPOINT_PORTS[1], ENDPOINT_PORTS[0]] {
                sleep(REST / 2);
                target.client.begin(&Request::WaitFor { address: service, port })?;
                objects::set_endpoint_port(self.rig.control_plane.admin(), service, port)?;
                let written = now_ns()?;
                let followed = target.client.came_true()?;
                follow_ms.push(signed_ms(written, followed));
            }
        }
        Ok(follow_ms)
    }

    /// 200 changes a second for a while, then all as before.
    fn busy(&self, target: &mut Target) -> Result<Burst> {
        let rate = 200;
        // Round after round over so many Services, there and back: two changes of one Service never overtake each other.
        let n = (rate * self.args.busy_seconds) as usize;
        let distinct = self.shape.services.min(n / 2).max(1);
        let steps = 0..n / (2 * distinct) * 2 * distinct;
        let mut changes: Vec<(usize, u16)> =
            steps.map(|step| (step % distinct, ENDPOINT_PORTS[(step / distinct + 1) % 2])).collect();
        let last = self.shape.services - 1;
        changes.push((last, ENDPOINT_PORTS[1]));
        let burst =
            self.burst(target, changes.len(), Request::WaitFor { address: last, port: ENDPOINT_PORTS[1] }, || {
                objects::set_endpoint_ports(self.rig.control_plane.admin(), rate, changes)
            })?;
        objects::set_endpoint_port(self.rig.control_plane.admin(), last, ENDPOINT_PORTS[0])?;
        Ok(burst)
    }

    /// Every Service loses half of its endpoints, as when a node is lost that had them.
    fn node_gone(&self, target: &mut Target) -> Result<Burst> {
        let (services, endpoints) = (self.shape.services, self.rig.endpoints());
        let admin = self.rig.control_plane.admin();
        let marker = Request::WaitFor { address: services - 1, port: ENDPOINT_PORTS[1] };
        let burst = self.burst(target, services, marker, || {
            objects::set_endpoints(admin, services, &endpoints[..endpoints.len() / 2])?;
            // What comes after all the others shows when they are done.
            objects::set_endpoint_port(admin, services - 1, ENDPOINT_PORTS[1])
        })?;
        objects::set_endpoint_port(admin, services - 1, ENDPOINT_PORTS[0])?;
        Ok(burst)
    }

    fn burst(
        &self,
        target: &mut Target,
        changes: usize,
        marker: Request,
        write: impl FnOnce() -> Result<()>,
    ) -> Result<Burst> {
        sleep(REST);
        let before = usage(target)?;
        let start = now_ns()?;
        write()?;
        let written = now_ns()?;
        let followed = target.client.wait(&marker)?;
        let cpu_s = usage(target)?.cpu_s - before.cpu_s;
        Ok(Burst { changes, written_s: seconds(start, written), late_ms: signed_ms(written, followed), cpu_s })
    }
}

fn usage(target: &Target) -> Result<Usage> {
    target.usage()?.context("no proxy runs")
}

/// What the agent's histogram of programming times says so far.
#[derive(Clone, Copy)]
struct Programmed {
    sum_s: f64,
    count: f64,
}

impl Programmed {
    fn mean_ms_until(self, later: Self) -> f64 {
        (later.sum_s - self.sum_s) * 1000.0 / (later.count - self.count)
    }
}

fn programmed(target: &Target) -> Result<Option<Programmed>> {
    let Some(agent) = target.agent() else { return Ok(None) };
    let page = agent.metrics()?;
    let value = |name: &str| -> Result<f64> {
        let line = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        Ok(line.with_context(|| format!("no metric {name}"))?.parse()?)
    };
    Ok(Some(Programmed {
        sum_s: value("lb_programming_duration_seconds_sum")?,
        count: value("lb_programming_duration_seconds_count")?,
    }))
}

fn table(shape: Shape, measured: &[Measured]) -> Table {
    let columns = measured.iter().map(|of| of.kind.to_string());
    let rows = ROWS.iter().map(|(name, cell)| ((*name).to_owned(), measured.iter().map(cell).collect()));
    grid(shape.to_string(), columns, rows)
}

type Row = (&'static str, fn(&Measured) -> String);

const ROWS: &[Row] = &[
    ("start to last Service reachable, s", |of| format!("{:.2}", of.start_s)),
    ("CPU until then, s", |of| format!("{:.2}", of.started.cpu_s)),
    ("memory then, MiB", |of| format!("{:.0}", of.started.rss_mib)),
    ("memory at the end (peak), MiB", |of| format!("{:.0} ({:.0})", of.ended.rss_mib, of.ended.peak_rss_mib)),
    ("memory of the maps, MiB", |of| of.maps_mib.map(|mib| format!("{mib:.0}")).unwrap_or_default()),
    ("one change: API server's answer to first connection, ms", |of| {
        spread(of.follow_ms.iter().copied(), 1).unwrap_or_default()
    }),
    ("one change: arrival to last map write, mean ms", |of| {
        of.programming_ms.map(|ms| format!("{ms:.2}")).unwrap_or_default()
    }),
    ("one change: CPU, ms", |of| format!("{:.1}", of.cpu_per_change_ms)),
    ("200 changes a second: CPU per change, ms", |of| format!("{:.2}", per_change_ms(&of.busy))),
    ("200 changes a second: last one followed after, ms", |of| format!("{:.1}", of.busy.late_ms)),
    ("half of all endpoints gone: writes took, s", |of| format!("{:.1}", of.node_gone.written_s)),
    ("half of all endpoints gone: followed after, ms", |of| format!("{:.1}", of.node_gone.late_ms)),
    ("half of all endpoints gone: CPU, s", |of| format!("{:.2}", of.node_gone.cpu_s)),
];

fn per_change_ms(burst: &Burst) -> f64 {
    burst.cpu_s * 1000.0 / as_f64(burst.changes as u64)
}

fn signed_ms(from_ns: u64, to_ns: u64) -> f64 {
    (as_f64(to_ns) - as_f64(from_ns)) / 1e6
}
