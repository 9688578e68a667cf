//! The result for a reader: one table for each size.

use comfy_table::Table;

use super::{Measured, Target, objects::Place};
use crate::{
    figure::Figure,
    proxy::Kind,
    report::{grid, spread},
    usage::as_f64,
};

/// A table for one size. Times are given as ratios to the direct ones of the same round.
pub(super) fn table(measured: &Measured) -> Table {
    let mut rows = Vec::new();
    for place in Place::ALL {
        for figure in Figure::FROM_OUTSIDE {
            let cells = measured.targets.keys().map(|&kind| cell(measured, kind, place, figure).unwrap_or_default());
            rows.push((format!("{place}: {figure}"), cells.collect()));
        }
    }
    for (name, cell) in ROWS {
        rows.push(((*name).to_owned(), measured.targets.values().map(|of| cell(of).unwrap_or_default()).collect()));
    }
    rows.extend(cost_rows(measured));
    let flows = if measured.flows > 0 { format!(", {} flows", measured.flows) } else { String::new() };
    let columns = measured.targets.keys().map(Kind::to_string);
    grid(format!("{} Services{flows}", measured.services), columns, rows.into_iter())
}

/// The values of `one` over those of `other`, of the same rounds.
pub(super) fn ratios(
    measured: &Measured,
    [one, other]: [Kind; 2],
    place: Place,
    figure: Figure,
) -> Option<impl Iterator<Item = f64>> {
    let blocks = |kind| measured.targets.get(&kind)?.blocks(place, figure);
    Some(blocks(one)?.iter().zip(blocks(other)?).map(|(&one, &other)| as_f64(one) / as_f64(other)))
}

fn cell(measured: &Measured, kind: Kind, place: Place, figure: Figure) -> Option<String> {
    if kind != Kind::Direct {
        return spread(ratios(measured, [kind, Kind::Direct], place, figure)?, 3);
    }
    let own = measured.targets.get(&kind)?.blocks(place, figure)?.iter().map(|&ns| as_f64(ns));
    Some(match figure {
        Figure::BulkUp | Figure::BulkDown => {
            // Bits in a nanosecond are gigabits in a second.
            format!("{} Gbit/s", spread(own.map(|ns| f64::from(8 << 20) / ns), 1)?)
        }
        _ => format!("{} us", spread(own.map(|ns| ns / 1000.0), 1)?),
    })
}

/// Its name, and its cell.
type Row = (&'static str, fn(&Target) -> Option<String>);

const ROWS: &[Row] = &[
    ("start to last NodePort reachable, s", |of| of.start_s.map(|s| format!("{s:.2}"))),
    ("CPU since the start, s", |of| of.usage.map(|usage| format!("{:.2}", usage.cpu_s))),
    ("memory (peak), MiB", |of| of.usage.map(|usage| format!("{:.0} ({:.0})", usage.rss_mib, usage.peak_rss_mib))),
    ("memory of the maps, MiB", |of| of.maps_mib.map(|mib| format!("{mib:.0}"))),
    ("a walk through the connection table: CPU, s", |of| of.pass.map(|pass| format!("{:.2}", pass.cpu_s))),
    ("  with its rests, s", |of| of.pass.map(|pass| format!("{:.1}", pass.wall_s))),
];

/// A row for each packet and program that any target has.
fn cost_rows(measured: &Measured) -> Vec<(String, Vec<String>)> {
    let mut names: Vec<(&str, &str)> = Vec::new();
    for cost in measured.targets.values().flat_map(|target| &target.costs) {
        let name = (cost.packet.as_str(), cost.program.as_str());
        if !names.contains(&name) {
            names.push(name);
        }
    }
    let row = |(packet, program): (&str, &str)| {
        let cells = measured.targets.values().map(|target| {
            let found = target.costs.iter().find(|cost| cost.packet == packet && cost.program == program);
            found.map(|cost| format!("{:.0}", cost.ns)).unwrap_or_default()
        });
        (format!("{program}, {packet}, ns"), cells.collect())
    };
    names.into_iter().map(row).collect()
}
