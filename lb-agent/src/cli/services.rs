//! `lb-agent services`: each Service address with the number of its backends.

use serde::Serialize;

use super::{Failure, table, view::FrontendRow};

/// One line for each.
pub(super) fn text(rows: &[FrontendRow]) -> String {
    table::render(
        ["SERVICE", "PROTO", "FRONTEND", "POLICY", "BACKENDS", "READY", "NEW", "NOTES"],
        rows.iter().map(|row| {
            [
                row.service.clone(),
                row.protocol.to_owned(),
                row.frontend.to_string(),
                row.policy.unwrap_or("-").to_owned(),
                row.backends.len().to_string(),
                n_ready(row).to_string(),
                n_new(row).to_string(),
                row.notes.join(", "),
            ]
        }),
    )
}

fn n_ready(row: &FrontendRow) -> usize {
    row.backends.iter().filter(|backend| backend.state == "ready").count()
}

/// How many may be given new connections here.
fn n_new(row: &FrontendRow) -> usize {
    row.backends.iter().filter(|backend| backend.takes_new).count()
}

/// A row of the JSON array.
#[derive(Serialize)]
struct Document<'a> {
    #[serde(flatten)]
    row: &'a FrontendRow,
    ready: usize,
    new: usize,
}

/// An array with an object for each.
pub(super) fn json(rows: &[FrontendRow]) -> Result<String, Failure> {
    let document = |row| Document { row, ready: n_ready(row), new: n_new(row) };
    super::json(&rows.iter().map(document).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::view::{Address, BackendRow};

    fn rows() -> Vec<FrontendRow> {
        let backend = |ip: &str, state: &str| BackendRow {
            backend: ip.parse().unwrap(),
            state: state.to_owned(),
            takes_new: state == "ready",
            sets: vec!["Cluster"],
            node: Some("n1".to_owned()),
        };
        vec![
            FrontendRow {
                service: "default/web:http".to_owned(),
                protocol: "TCP",
                frontend: Address { ip: [10, 96, 0, 10].into(), port: Some(80) },
                scope: "internal",
                policy: Some("Local"),
                affinity_s: 0,
                restricted: false,
                notes: vec![],
                backends: vec![backend("10.1.0.1:8080", "ready"), backend("10.1.0.2:8080", "terminating")],
            },
            FrontendRow {
                service: "kube-system/kube-dns:dns".to_owned(),
                protocol: "UDP",
                frontend: Address { ip: "fd00::a".parse().unwrap(), port: Some(53) },
                scope: "internal",
                policy: Some("Cluster"),
                affinity_s: 60,
                restricted: false,
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
SERVICE                   PROTO  FRONTEND       POLICY   BACKENDS  READY  NEW  NOTES
default/web:http          TCP    10.96.0.10:80  Local    2         1      1
kube-system/kube-dns:dns  UDP    [fd00::a]:53   Cluster  0         0      0    refused: no usable endpoint, affinity 60 s
"
        );
    }

    #[test]
    fn the_json_carries_the_backends_too() {
        let value: serde_json::Value = serde_json::from_str(&json(&rows()).unwrap()).unwrap();
        assert_eq!(value[0]["service"], "default/web:http");
        assert_eq!(value[0]["frontend"], "10.96.0.10:80");
        assert_eq!(
            (&value[0]["ready"], &value[0]["new"], &value[0]["policy"]),
            (&1.into(), &1.into(), &"Local".into())
        );
        assert_eq!((&value[1]["affinity_s"], &value[1]["restricted"]), (&60.into(), &false.into()));
        assert_eq!(value[0]["backends"][1]["state"], "terminating");
        assert_eq!(value[1]["backends"], serde_json::json!([]));
    }
}
