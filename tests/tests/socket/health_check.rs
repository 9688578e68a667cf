//! What a load balancer's health checks hear from this node: at `spec.healthCheckNodePort`, and of the node itself.

use std::net::SocketAddr;

use anyhow::Result;
use lb_tests::{Manifests, Node, eventually, http_get, poll::PATIENCE};
use serde_json::{Value, json};

const PORT: u16 = 31_999;

/// A Service with one endpoint on each of these nodes.
fn service(nodes: &[&str]) -> String {
    let metadata = |name: &str| json!({"name": name, "namespace": "default"});
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": metadata("web"),
        "spec": {
            "type": "LoadBalancer", "clusterIP": "10.96.0.10", "ports": [{"port": 80}],
            "externalTrafficPolicy": "Local", "healthCheckNodePort": PORT,
        },
    });
    let endpoints = nodes.iter().enumerate().map(|(index, node)| {
        json!({"addresses": [format!("10.244.9.{}", index + 1)], "conditions": {"ready": true}, "nodeName": node})
    });
    let mut slice = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": metadata("web-1"),
        "addressType": "IPv4", "ports": [{"port": 8080}], "endpoints": endpoints.collect::<Vec<_>>(),
    });
    slice["metadata"]["labels"] = json!({"kubernetes.io/service-name": "web"});
    format!("{service}\n---\n{slice}\n")
}

#[test]
fn a_load_balancer_hears_of_the_endpoints_on_this_node_only() -> Result<()> {
    let node = Node::new("health")?;
    let manifests = Manifests::new()?;
    manifests.write_text("web", &service(&["health", "elsewhere", "health"]))?;
    let mut agent = node.start_agent(manifests.path())?;
    agent.wait_ready()?;
    let address = SocketAddr::new(node.v4().into(), PORT);
    let hears = |status: u16, n: usize| {
        eventually(&format!("{status} and {n} endpoints"), PATIENCE, || {
            let Ok((code, body)) = node.netns().run(|| http_get(address, "/"))? else { return Ok(None) };
            let body: Value = serde_json::from_str(&body)?;
            Ok((code == status && body["localEndpoints"] == n && body["serviceProxyHealthy"] == true).then_some(()))
        })
    };
    hears(200, 2)?;
    manifests.write_text("web", &service(&["elsewhere"]))?;
    hears(503, 0)?;
    manifests.remove("web")?;
    eventually("nobody at the port of a Service that is gone", PATIENCE, || {
        Ok(node.netns().run(|| http_get(address, "/"))?.is_err().then_some(()))
    })
}

#[test]
fn a_node_that_is_about_to_go_is_not_healthy_and_its_agent_is_alive() -> Result<()> {
    let node = Node::new("leaving")?;
    let manifests = Manifests::new()?;
    let object = |metadata: Value, taints: Value| {
        let mut node = json!({"apiVersion": "v1", "kind": "Node", "metadata": metadata, "spec": {"taints": taints}});
        node["metadata"]["name"] = "leaving".into();
        node.to_string()
    };
    let stays = object(json!({}), json!([{"key": "example.com/other", "effect": "NoSchedule"}]));
    let tainted = object(json!({}), json!([{"key": "ToBeDeletedByClusterAutoscaler", "effect": "NoSchedule"}]));
    let deleted = object(json!({"deletionTimestamp": "2026-11-22T12:00:00Z"}), json!([]));
    manifests.write_text("node", &stays)?;
    let mut agent = node.start_agent(manifests.path())?;
    agent.wait_ready()?;
    for leaving in [tainted, deleted] {
        for (manifest, status) in [(&leaving, 503), (&stays, 200)] {
            manifests.write_text("node", manifest)?;
            eventually(&format!("/healthz to answer {status}"), PATIENCE, || {
                Ok((agent.healthz()? == Some(status)).then_some(()))
            })?;
            let address = SocketAddr::from(([127, 0, 0, 1], 10256));
            assert_eq!(node.netns().run(|| http_get(address, "/livez"))??.0, 200);
        }
    }
    Ok(())
}
