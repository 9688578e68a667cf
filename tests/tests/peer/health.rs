//! `/healthz` and `/livez` of both proxies: what load balancers and kubelets are told while a node stays, and while it is
//! about to go.

use std::net::SocketAddr;

use anyhow::Result;
use lb_tests::{
    agent::http_get,
    peer::{Island, Rig},
    poll::{PATIENCE, eventually},
};
use serde_json::{Value, json};

use crate::{PRIMARY, one_at_a_time};

/// The taint that the cluster autoscaler puts on a node before it takes it away (KEP-3836).
const GOING: &str = "ToBeDeletedByClusterAutoscaler";

#[test]
fn a_node_that_is_about_to_go_is_told_alike() -> Result<()> {
    let _turn = one_at_a_time();
    let rig = Rig::start(PRIMARY)?;
    let admin = rig.control_plane().admin();
    let tainted = |key: &str| node(&json!({"taints": [{"key": key, "effect": "NoSchedule"}]}));
    for (object, healthz) in
        [(node(&json!({})), 200), (tainted("example.com/other"), 200), (tainted(GOING), 503), (node(&json!({})), 200)]
    {
        admin.apply(&object)?;
        meets(&rig, healthz, &object)?;
    }
    // Only marked, as long as it has a finalizer.
    admin.delete(&node(&json!({})))?;
    meets(&rig, 503, &json!("a node that is being deleted"))
}

fn node(spec: &Value) -> Value {
    let metadata = json!({"name": "n1", "finalizers": ["example.com/stays"]});
    json!({"apiVersion": "v1", "kind": "Node", "metadata": metadata, "spec": spec})
}

/// Waits until each of the two says so, and sees that both are alive.
fn meets(rig: &Rig, healthz: u16, node: &Value) -> Result<()> {
    rig.islands().try_map(|island| {
        eventually(&format!("/healthz to answer {healthz} with {node}"), PATIENCE, || {
            Ok((status(island, "/healthz")? == healthz).then_some(()))
        })?;
        assert_eq!(status(island, "/livez")?, 200, "{node}");
        Ok(())
    })?;
    Ok(())
}

fn status(island: &Island, path: &str) -> Result<u16> {
    let address = SocketAddr::from(([127, 0, 0, 1], 10256));
    Ok(island.node().netns().run(|| http_get(address, path))??.0)
}
