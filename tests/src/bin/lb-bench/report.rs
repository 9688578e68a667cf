//! The result for a reader, as a table, and for programs, as JSON.

use comfy_table::{CellAlignment, Table, presets::ASCII_MARKDOWN};

use crate::{
    figure::Figure,
    measure::{Measured, TargetMeasured},
    proxy::Kind,
    stats::Quartiles,
    usage::as_f64,
};

/// A table for one number of Services. Times of targets are given as ratios to the direct one of the same round.
pub(crate) fn table(measured: &Measured) -> Table {
    let of_data_path = Figure::OF_PODS.into_iter().map(|figure| {
        let kinds = measured.targets.keys();
        let cells = kinds.map(|&kind| data_path_cell(measured, kind, figure).unwrap_or_default());
        (figure.to_string(), cells.collect())
    });
    // Every proxy sees the changes that are measured for the others too.
    let n_proxies = measured.targets.keys().filter(|kind| kind.has_proxy()).count();
    let of_proxies = ROWS.iter().map(|(name, cell)| {
        let cells = measured.targets.values().map(|target| cell(target, n_proxies).unwrap_or_default());
        ((*name).to_owned(), cells.collect())
    });
    let columns = measured.targets.keys().map(Kind::to_string);
    grid(format!("{} Services", measured.services), columns, of_data_path.chain(of_proxies))
}

/// A table with a name for each row, and figures, which are aligned at the right.
pub(crate) fn grid(
    corner: String,
    columns: impl IntoIterator<Item = String>,
    rows: impl Iterator<Item = (String, Vec<String>)>,
) -> Table {
    let mut table = Table::new();
    table.load_style(ASCII_MARKDOWN);
    table.set_header(std::iter::once(corner).chain(columns));
    for (name, cells) in rows {
        table.add_row(std::iter::once(name).chain(cells));
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

/// Its name, and its cell by what was measured and the number of proxies.
type Row = (&'static str, fn(&TargetMeasured, usize) -> Option<String>);

const ROWS: &[Row] = &[
    ("start to last Service reachable, s", |target, _| target.start_s.map(|s| format!("{s:.2}"))),
    ("change to first connection, ms", |target, _| spread(target.change_ms.iter().copied(), 1)),
    ("  of which the API server's write, ms", |target, _| spread(target.write_ms.iter().copied(), 1)),
    ("memory at the end (peak), MiB", |target, _| {
        target.ended.map(|usage| format!("{:.0} ({:.0})", usage.rss_mib, usage.peak_rss_mib))
    }),
    ("CPU until all are reachable, s", |target, _| target.started.map(|usage| format!("{:.2}", usage.cpu_s))),
    ("CPU per change of an EndpointSlice, ms", cpu_per_change),
];

/// Microseconds for the direct target; for the others the ratio to it and its quartiles.
fn data_path_cell(measured: &Measured, kind: Kind, figure: Figure) -> Option<String> {
    let blocks = |kind| measured.targets.get(&kind)?.block_ns.get(&figure);
    let (direct, own) = (blocks(Kind::Direct)?, blocks(kind)?);
    if kind == Kind::Direct {
        return Some(format!("{} us", spread(own.iter().map(|&ns| as_f64(ns) / 1000.0), 1)?));
    }
    spread(own.iter().zip(direct).map(|(&own, &direct)| as_f64(own) / as_f64(direct)), 3)
}

fn cpu_per_change(target: &TargetMeasured, n_proxies: usize) -> Option<String> {
    let n_changes = target.change_ms.len() * n_proxies;
    let used = target.ended?.cpu_s - target.before_changes?.cpu_s;
    (n_changes > 0).then(|| format!("{:.1}", used * 1000.0 / as_f64(n_changes as u64)))
}

/// `median [lower quartile - upper quartile]`.
pub(crate) fn spread(values: impl IntoIterator<Item = f64>, digits: usize) -> Option<String> {
    let Quartiles { q1, median, q3 } = Quartiles::of(values)?;
    Some(format!("{median:.digits$} [{q1:.digits$}-{q3:.digits$}]"))
}
