//! A manifest directory for the agent, and Services and EndpointSlices to put into it.

use std::{
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use crate::{guest::Proto, pod::Pod, run};

/// A directory of manifests; goes when dropped.
pub struct Manifests {
    directory: PathBuf,
}

impl Manifests {
    /// An empty one.
    pub fn new() -> Result<Self> {
        Ok(Self { directory: run::current().directory("manifests")? })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.directory
    }

    /// Writes the Services with their EndpointSlices into `NAME.yaml`, replacing it whole (rename), as editors and
    /// configuration tools do.
    pub fn write(&self, name: &str, services: &[&Service]) -> Result<()> {
        let objects = services.iter().flat_map(|service| service.objects());
        // JSON is YAML; documents are separated the YAML way.
        let documents: Vec<String> = objects.map(|object| format!("{object:#}\n")).collect();
        self.write_text(name, &documents.join("---\n"))
    }

    /// Writes any text into `NAME.yaml`, as [`Self::write`] does.
    pub fn write_text(&self, name: &str, text: &str) -> Result<()> {
        let path = self.directory.join(format!("{name}.yaml"));
        let unfinished = self.directory.join(format!(".{name}.yaml.new"));
        fs::write(&unfinished, text).with_context(|| format!("cannot write {}", unfinished.display()))?;
        fs::rename(&unfinished, &path).with_context(|| format!("cannot rename to {}", path.display()))
    }

    /// Removes `NAME.yaml`.
    pub fn remove(&self, name: &str) -> Result<()> {
        let path = self.directory.join(format!("{name}.yaml"));
        fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))
    }
}

impl Drop for Manifests {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.directory) {
            eprintln!("cannot remove {}: {error}", self.directory.display());
        }
    }
}

/// A Service of namespace `default` and its endpoints.
#[derive(Clone, Debug)]
pub struct Service {
    name: String,
    cluster_ips: Vec<IpAddr>,
    ports: Vec<Port>,
    fields: Value,
    ingress: Vec<IpAddr>,
    endpoints: Vec<Endpoint>,
}

#[derive(Clone, Debug)]
struct Endpoint {
    ips: [IpAddr; 2],
    node: Option<String>,
    conditions: Value,
}

#[derive(Clone, Debug)]
struct Port {
    name: String,
    proto: Proto,
    port: u16,
    target: u16,
    node_port: Option<u16>,
}

impl Service {
    /// With these addresses (one or two, of different families), and no port yet.
    pub fn new(name: &str, cluster_ips: &[IpAddr]) -> Self {
        Self {
            name: name.to_owned(),
            cluster_ips: cluster_ips.to_vec(),
            ports: Vec::new(),
            fields: json!({}),
            ingress: Vec::new(),
            endpoints: Vec::new(),
        }
    }

    /// Adds a port; `target` is the endpoints'.
    pub fn port(mut self, name: &str, proto: Proto, port: u16, target: u16) -> Self {
        self.ports.push(Port { name: name.to_owned(), proto, port, target, node_port: None });
        self
    }

    /// Gives each port this NodePort.
    pub fn node_port(mut self, node_port: u16) -> Self {
        self.ports.iter_mut().for_each(|port| port.node_port = Some(node_port));
        self.with(&json!({"type": "NodePort"}))
    }

    /// As a load balancer's, which has these addresses.
    pub fn ingress(mut self, ips: &[IpAddr]) -> Self {
        self.ingress = ips.to_vec();
        self.with(&json!({"type": "LoadBalancer"}))
    }

    /// With these fields in its `spec`.
    pub fn with(mut self, fields: &Value) -> Self {
        for (key, value) in fields.as_object().into_iter().flatten() {
            self.fields[key] = value.clone();
        }
        self
    }

    /// With these pods as its only endpoints, by their addresses of the Service's families.
    pub fn to(mut self, pods: &[&Pod]) -> Self {
        self.endpoints.clear();
        self.and(pods, &json!({"ready": true}))
    }

    /// With these pods as further endpoints, which are being deleted and still answer.
    pub fn and_terminating(self, pods: &[&Pod]) -> Self {
        self.and(pods, &json!({"ready": false, "serving": true, "terminating": true}))
    }

    /// Without the names of the nodes that the endpoints are on, as somebody writes them by hand.
    pub fn nowhere(mut self) -> Self {
        self.endpoints.iter_mut().for_each(|endpoint| endpoint.node = None);
        self
    }

    fn and(mut self, pods: &[&Pod], conditions: &Value) -> Self {
        self.endpoints.extend(pods.iter().map(|pod| Endpoint {
            ips: [pod.v4().into(), pod.v6().into()],
            node: pod.node().map(str::to_owned),
            conditions: conditions.clone(),
        }));
        self
    }

    fn objects(&self) -> Vec<Value> {
        let families = [("IPv4", false), ("IPv6", true)];
        let used = families.iter().filter(|(_, is_v6)| self.cluster_ips.iter().any(|ip| ip.is_ipv6() == *is_v6));
        let slices = used.map(|(family, is_v6)| self.slice(family, *is_v6));
        std::iter::once(self.service()).chain(slices).collect()
    }

    fn service(&self) -> Value {
        let ports = self.ports.iter().map(|port| {
            let protocol = api_name(port.proto);
            let mut object =
                json!({"name": port.name, "protocol": protocol, "port": port.port, "targetPort": port.target});
            if let Some(node_port) = port.node_port {
                object["nodePort"] = node_port.into();
            }
            object
        });
        let mut object = json!({
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": self.name, "namespace": "default"},
            "spec": {
                "type": "ClusterIP",
                "clusterIP": self.cluster_ips.first(),
                "clusterIPs": self.cluster_ips,
                "ports": ports.collect::<Vec<_>>(),
            },
        });
        for (key, value) in self.fields.as_object().into_iter().flatten() {
            object["spec"][key] = value.clone();
        }
        if !self.ingress.is_empty() {
            let ingress: Vec<_> = self.ingress.iter().map(|ip| json!({"ip": ip})).collect();
            object["status"] = json!({"loadBalancer": {"ingress": ingress}});
        }
        object
    }

    fn slice(&self, family: &str, is_v6: bool) -> Value {
        let ports = self
            .ports
            .iter()
            .map(|port| json!({"name": port.name, "protocol": api_name(port.proto), "port": port.target}));
        let endpoints = self.endpoints.iter().map(|endpoint| {
            let addresses: Vec<_> = endpoint.ips.iter().filter(|ip| ip.is_ipv6() == is_v6).collect();
            json!({"addresses": addresses, "conditions": endpoint.conditions, "nodeName": endpoint.node})
        });
        json!({
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "name": format!("{}-{}", self.name, family.to_lowercase()),
                "namespace": "default",
                "labels": {"kubernetes.io/service-name": self.name},
            },
            "addressType": family,
            "ports": ports.collect::<Vec<_>>(),
            "endpoints": endpoints.collect::<Vec<_>>(),
        })
    }
}

fn api_name(proto: Proto) -> &'static str {
    match proto {
        Proto::Tcp => "TCP",
        Proto::Udp => "UDP",
    }
}
