//! What was to be reached, beside what was measured.

use comfy_table::Table;

use super::{Measured, objects::Place, programs::Cost, report::ratios};
use crate::{figure::Figure, proxy::Kind, report::grid, stats::Quartiles};

/// So many times as long as with the agent it takes with kube-proxy in nftables mode, at least.
const BETTER: f64 = 1.3;

/// So many times as long as with plain forwarding it takes on an established connection, at most.
const ESTABLISHED: f64 = 1.1;

/// What a packet that is not ours costs, nanoseconds at most.
const FOREIGN_NS: f64 = 50.0;

/// What two equal runs may differ by: more than that at a larger size is growth.
const NOISE: f64 = 1.05;

/// Figures of new connections and of latency.
const LATENCY_AND_RATE: [Figure; 3] =
    [Figure::TcpConnectRequestResponse, Figure::TcpConnectMany, Figure::TcpRequestResponse];

/// Figures of established flows.
const ON_ESTABLISHED: [Figure; 4] = [Figure::TcpRequestResponse, Figure::UdpBurst, Figure::BulkUp, Figure::BulkDown];

const AGENTS: [Kind; 2] = [Kind::Agent, Kind::AgentOnPods];

/// One row an aim, size, place and figure; a column for each way to run the agent.
pub(super) fn table(all: &[Measured]) -> Table {
    let mut rows = Vec::new();
    for measured in all {
        let size = size(measured);
        for place in Place::ALL {
            for figure in LATENCY_AND_RATE {
                let cell = |agent| against_kube_proxy(measured, agent, place, figure);
                rows.push((
                    format!("kube-proxy nftables / lb-agent >= {BETTER}: {size}, {place}: {figure}"),
                    cell.row(),
                ));
            }
            for figure in ON_ESTABLISHED {
                let cell = |agent| against_forwarding(measured, agent, place, figure);
                rows.push((format!("lb-agent / direct <= {ESTABLISHED}: {size}, {place}: {figure}"), cell.row()));
            }
        }
        let cell = |agent| foreign(measured, agent);
        rows.push((
            format!("a foreign packet < {FOREIGN_NS} ns, the measurement's own time included: {size}"),
            cell.row(),
        ));
    }
    if let [smallest, .., largest] = all {
        for place in Place::ALL {
            for figure in Figure::FROM_OUTSIDE {
                let cell = |agent| growth(smallest, largest, agent, place, figure);
                let sizes = format!("{} to {}", size(smallest), size(largest));
                rows.push((format!("does not grow (<= {NOISE}): {sizes}, {place}: {figure}"), cell.row()));
            }
        }
    }
    grid("aim".to_owned(), AGENTS.iter().map(Kind::to_string), rows.into_iter())
}

/// The cells of a row.
trait Cells {
    fn row(&self) -> Vec<String>;
}

impl<F: Fn(Kind) -> Option<String>> Cells for F {
    fn row(&self) -> Vec<String> {
        AGENTS.iter().map(|&agent| self(agent).unwrap_or_default()).collect()
    }
}

fn size(measured: &Measured) -> String {
    let Measured { services, flows, .. } = measured;
    if *flows > 0 { format!("{services} Services and {flows} flows") } else { format!("{services} Services") }
}

fn median(measured: &Measured, pair: [Kind; 2], place: Place, figure: Figure) -> Option<f64> {
    Some(Quartiles::of(ratios(measured, pair, place, figure)?)?.median)
}

fn against_kube_proxy(measured: &Measured, agent: Kind, place: Place, figure: Figure) -> Option<String> {
    let ratio = median(measured, [Kind::Nftables, agent], place, figure)?;
    Some(verdict(ratio >= BETTER, ratio))
}

fn against_forwarding(measured: &Measured, agent: Kind, place: Place, figure: Figure) -> Option<String> {
    let ratio = median(measured, [agent, Kind::Direct], place, figure)?;
    Some(verdict(ratio <= ESTABLISHED, ratio))
}

fn growth(small: &Measured, large: &Measured, agent: Kind, place: Place, figure: Figure) -> Option<String> {
    let of = |measured| median(measured, [agent, Kind::Direct], place, figure);
    let ratio = of(large)? / of(small)?;
    Some(verdict(ratio <= NOISE, ratio))
}

/// The dearer of both directions.
fn foreign(measured: &Measured, agent: Kind) -> Option<String> {
    let costs = measured.targets.get(&agent)?.costs.iter().filter(|cost| cost.packet == Cost::FOREIGN);
    let ns = costs.map(|cost| cost.ns).max_by(f64::total_cmp)?;
    Some(format!("{ns:.0} {}", met(ns < FOREIGN_NS)))
}

fn verdict(is_met: bool, ratio: f64) -> String {
    format!("{ratio:.3} {}", met(is_met))
}

fn met(is_met: bool) -> &'static str {
    if is_met { "met" } else { "not met" }
}
