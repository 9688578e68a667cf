//! `lb-agent services`: each Service address with the number of its backends.

use serde::Serialize;

use super::{
    Failure, ListArgs, Output, installed, json, print, table,
    view::{self, Filter, FrontendRow},
};

/// Runs the command.
pub(super) fn run(args: &ListArgs) -> Result<(), Failure> {
    let filter = Filter::new(args.namespace.as_deref(), args.service.as_deref()).map_err(Failure::usage)?;
    let reader = installed::open(&args.tool.place)?;
    let rows = view::frontends(reader.store(), &filter).map_err(installed::map_failure)?;
    installed::warn_unless_agent_runs(&reader);
    match args.output() {
        Output::Table => print(&text(&rows)),
        Output::Json => print(&json(&documents(&rows))?),
    }
}

fn text(rows: &[FrontendRow]) -> String {
    table::render(
        ["SERVICE", "PROTO", "FRONTEND", "BACKENDS", "READY", "NOTES"],
        rows.iter().map(|row| {
            [
                row.service.clone(),
                row.protocol.to_owned(),
                row.frontend.to_string(),
                row.backends.len().to_string(),
                n_ready(row).to_string(),
                row.notes.join(", "),
            ]
        }),
    )
}

fn n_ready(row: &FrontendRow) -> usize {
    row.backends.iter().filter(|backend| backend.state == "ready").count()
}

/// A row of the JSON array.
#[derive(Serialize)]
struct Document<'a> {
    #[serde(flatten)]
    row: &'a FrontendRow,
    ready: usize,
}

fn documents(rows: &[FrontendRow]) -> Vec<Document<'_>> {
    rows.iter().map(|row| Document { row, ready: n_ready(row) }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::view::BackendRow;

    fn rows() -> Vec<FrontendRow> {
        let backend = |ip: &str, state: &str| BackendRow {
            backend: ip.parse().unwrap(),
            state: state.to_owned(),
            takes_new: state == "ready",
            node: Some("n1".to_owned()),
        };
        vec![
            FrontendRow {
                service: "default/web:http".to_owned(),
                protocol: "TCP",
                frontend: "10.96.0.10:80".parse().unwrap(),
                notes: vec![],
                backends: vec![backend("10.1.0.1:8080", "ready"), backend("10.1.0.2:8080", "terminating")],
            },
            FrontendRow {
                service: "kube-system/kube-dns:dns".to_owned(),
                protocol: "UDP",
                frontend: "[fd00::a]:53".parse().unwrap(),
                notes: vec!["refused: no usable endpoint".to_owned(), "affinity 60 s".to_owned()],
                backends: vec![],
            },
        ]
    }

    #[test]
    fn the_table_has_a_line_for_each_frontend() {
        assert_eq!(
            text(&rows()),
            "\
SERVICE                   PROTO  FRONTEND       BACKENDS  READY  NOTES
default/web:http          TCP    10.96.0.10:80  2         1
kube-system/kube-dns:dns  UDP    [fd00::a]:53   0         0      refused: no usable endpoint, affinity 60 s
"
        );
    }

    #[test]
    fn the_json_carries_the_backends_too() {
        let value: serde_json::Value = serde_json::from_str(&json(&documents(&rows())).unwrap()).unwrap();
        assert_eq!(value[0]["service"], "default/web:http");
        assert_eq!(value[0]["frontend"], "10.96.0.10:80");
        assert_eq!(value[0]["ready"], 1);
        assert_eq!(value[0]["backends"][1]["state"], "terminating");
        assert_eq!(value[1]["backends"], serde_json::json!([]));
    }
}
