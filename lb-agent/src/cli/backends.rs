//! `lb-agent backends`: who serves each Service address, with state and node.

use serde::Serialize;

use super::{
    Failure, table,
    view::{Address, BackendRow, FrontendRow},
};

/// One line for each.
pub(super) fn text(rows: &[FrontendRow]) -> String {
    table::render(
        ["SERVICE", "PROTO", "FRONTEND", "BACKEND", "STATE", "NEW", "POLICIES", "NODE"],
        pairs(rows).map(|(row, backend)| {
            [
                row.service.clone(),
                row.protocol.to_owned(),
                row.frontend.to_string(),
                backend.backend.to_string(),
                backend.state.clone(),
                if backend.takes_new { "yes" } else { "no" }.to_owned(),
                if backend.sets.is_empty() { "-".to_owned() } else { backend.sets.join(",") },
                backend.node.clone().unwrap_or_else(|| "-".to_owned()),
            ]
        }),
    )
}

/// An element of the JSON array.
#[derive(Serialize)]
struct Document<'a> {
    service: &'a str,
    protocol: &'a str,
    frontend: Address,
    #[serde(flatten)]
    backend: &'a BackendRow,
}

/// An array with an object for each.
pub(super) fn json(rows: &[FrontendRow]) -> Result<String, Failure> {
    super::json(&documents(rows))
}

fn documents(rows: &[FrontendRow]) -> Vec<Document<'_>> {
    pairs(rows)
        .map(|(row, backend)| Document {
            service: &row.service,
            protocol: row.protocol,
            frontend: row.frontend,
            backend,
        })
        .collect()
}

/// Once for each address: what clients outside get there, the policies of a backend tell.
fn pairs(rows: &[FrontendRow]) -> impl Iterator<Item = (&FrontendRow, &BackendRow)> {
    let rows = rows.iter().filter(|row| row.scope != "external");
    rows.flat_map(|row| row.backends.iter().map(move |backend| (row, backend)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows() -> Vec<FrontendRow> {
        let backend = |ip: &str, state: &str, node: Option<&str>| BackendRow {
            backend: ip.parse().unwrap(),
            state: state.to_owned(),
            takes_new: state == "ready",
            sets: if state == "ready" { vec!["Cluster", "Local"] } else { vec![] },
            node: node.map(str::to_owned),
        };
        vec![FrontendRow {
            service: "default/web:http".to_owned(),
            protocol: "TCP",
            frontend: Address { ip: [10, 96, 0, 10].into(), port: Some(80) },
            scope: "internal",
            policy: Some("Cluster"),
            affinity_s: 0,
            restricted: false,
            notes: vec![],
            backends: vec![
                backend("10.1.0.1:8080", "ready", Some("node-1")),
                backend("10.1.0.2:8080", "terminating", None),
            ],
        }]
    }

    #[test]
    fn the_table_has_a_line_for_each_backend_of_each_frontend() {
        assert_eq!(
            text(&rows()),
            "\
SERVICE           PROTO  FRONTEND       BACKEND        STATE        NEW  POLICIES       NODE
default/web:http  TCP    10.96.0.10:80  10.1.0.1:8080  ready        yes  Cluster,Local  node-1
default/web:http  TCP    10.96.0.10:80  10.1.0.2:8080  terminating  no   -              -
"
        );
    }

    #[test]
    fn the_json_has_an_element_for_each_line_of_the_table() {
        let value = serde_json::to_value(documents(&rows())).unwrap();
        assert_eq!(
            value[1],
            serde_json::json!({
                "service": "default/web:http", "protocol": "TCP", "frontend": "10.96.0.10:80",
                "backend": "10.1.0.2:8080", "state": "terminating", "takes_new": false, "sets": [], "node": null,
            })
        );
    }
}
