//! The objects that the tests apply.

use std::net::IpAddr;

use anyhow::Result;
use lb_tests::{Pod, control_plane::Admin};
use serde_json::{Value, json};

/// The port that the servers of `web` listen on.
pub(crate) const TARGET_PORT: u16 = 9376;

/// A Deployment whose pods answer with their names, by TCP and UDP.
pub(crate) fn deployment(replicas: u32) -> Value {
    json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "web", "namespace": "default"},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": "web"}},
            "template": {
                "metadata": {"labels": {"app": "web"}},
                "spec": {
                    "terminationGracePeriodSeconds": 1,
                    "containers": [{
                        "name": "serve-hostname",
                        "image": "serve-hostname",
                        "ports": [
                            {"name": "http", "containerPort": TARGET_PORT, "protocol": "TCP"},
                            {"name": "echo", "containerPort": TARGET_PORT, "protocol": "UDP"},
                        ],
                    }],
                },
            },
        },
    })
}

/// The dual-stack Service `web` in front of the Deployment; its target ports are names.
pub(crate) fn service(cluster_ips: [IpAddr; 2]) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "web", "namespace": "default"},
        "spec": {
            "clusterIP": cluster_ips[0],
            "clusterIPs": cluster_ips,
            "ipFamilyPolicy": "RequireDualStack",
            "selector": {"app": "web"},
            "ports": [
                {"name": "http", "port": 80, "protocol": "TCP", "targetPort": "http"},
                {"name": "echo", "port": 90, "protocol": "UDP", "targetPort": "echo"},
            ],
        },
    })
}

/// A Service without selector, and its EndpointSlice written by hand: changed without any controller.
pub(crate) fn apply_service_by_hand(admin: &Admin, name: &str, cluster_ip: IpAddr, endpoints: &[&Pod]) -> Result<()> {
    admin.apply(&json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"clusterIP": cluster_ip, "ports": [{"port": 80, "protocol": "TCP"}]},
    }))?;
    let endpoints = endpoints.iter().map(|pod| json!({"addresses": [pod.v4()], "conditions": {"ready": true}}));
    admin.apply(&json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": name, "namespace": "default", "labels": {"kubernetes.io/service-name": name}},
        "addressType": "IPv4",
        "ports": [{"name": "", "port": TARGET_PORT, "protocol": "TCP"}],
        "endpoints": endpoints.collect::<Vec<_>>(),
    }))
}
