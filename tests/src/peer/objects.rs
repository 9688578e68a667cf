//! Kubernetes objects from the short form that cases are written in. Decides nothing about their meaning.
//!
//! | key | value |
//! | --- | --- |
//! | `service/NAME` | the Service's `spec`, or an object with `metadata`, `spec` and `status` |
//! | `slice/NAME[.PART]`, `slice6/...` | an EndpointSlice of Service NAME, for IPv4 or IPv6 |
//! | `node` | the labels of the node |
//! | `node-addresses` | its addresses, of type InternalIP; `$node` and `$nodev6` are those that it has otherwise |
//!
//! A port may be written `[NAME=]PORT[:NODEPORT]/PROTOCOL`, an endpoint `WITNESS FLAG...`.

use std::net::IpAddr;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Map, Value, json};

use super::{
    island::{NODE, witness},
    tokens::witness_address,
};

/// The port of an EndpointSlice that names none.
const DEFAULT_PORT: &str = "8080/tcp";

/// Whether the object of a key is the node, which all cases share.
pub(super) fn is_of_the_node(key: &str) -> bool {
    key.starts_with("node")
}

/// The addresses in the object of `node-addresses`, as they are written there.
pub(super) fn addresses(node: &Value) -> Value {
    let all = node["status"]["addresses"].as_array().into_iter().flatten();
    all.map(|entry| entry["address"].clone()).collect()
}

/// The object of a key, in a namespace.
pub(super) fn object(namespace: &str, key: &str, value: &Value) -> Result<Value> {
    build(namespace, key, value).with_context(|| format!("{key}: {value}"))
}

fn build(namespace: &str, key: &str, value: &Value) -> Result<Value> {
    match key.split_once('/') {
        Some(("service", name)) => service(namespace, name, value),
        Some(("slice", name)) => slice(namespace, name, false, value),
        Some(("slice6", name)) => slice(namespace, name, true, value),
        None if key == "node" => {
            Ok(json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": NODE, "labels": value}}))
        }
        None if key == "node-addresses" => {
            let addresses = list(value)?.iter().map(|ip| json!({"type": "InternalIP", "address": ip}));
            let mut node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": NODE}});
            node["status"] = json!({"addresses": addresses.collect::<Vec<_>>()});
            Ok(node)
        }
        _ => bail!("not one of service/NAME, slice/NAME, slice6/NAME, node, node-addresses"),
    }
}

/// Enough of the object of a key to delete it by.
pub(super) fn reference(namespace: &str, key: &str) -> Result<Value> {
    match key.split_once('/') {
        Some(("service", name)) => Ok(named("v1", "Service", namespace, name)),
        Some(("slice", name)) => Ok(named("discovery.k8s.io/v1", "EndpointSlice", namespace, name)),
        Some(("slice6", name)) => Ok(named("discovery.k8s.io/v1", "EndpointSlice", namespace, &format!("{name}-v6"))),
        _ => bail!("cannot delete `{key}`: not one of service/NAME, slice/NAME, slice6/NAME"),
    }
}

fn named(api_version: &str, kind: &str, namespace: &str, name: &str) -> Value {
    json!({"apiVersion": api_version, "kind": kind, "metadata": {"name": name, "namespace": namespace}})
}

fn service(namespace: &str, name: &str, value: &Value) -> Result<Value> {
    let mut object = named("v1", "Service", namespace, name);
    let parts = if value.get("spec").is_some() { value.clone() } else { json!({"spec": value}) };
    merge(&mut object, &parts);
    if let Some(ports) = object["spec"].get_mut("ports") {
        *ports = list(ports)?.iter().map(service_port).collect::<Result<_>>()?;
    }
    Ok(object)
}

fn service_port(value: &Value) -> Result<Value> {
    let Value::String(text) = value else { return Ok(value.clone()) };
    let (name, port, node_port, protocol) = port(text)?;
    let mut object = json!({"name": name, "port": port, "protocol": protocol});
    if let Some(node_port) = node_port {
        object["nodePort"] = node_port.into();
    }
    Ok(object)
}

fn slice(namespace: &str, name: &str, is_v6: bool, value: &Value) -> Result<Value> {
    let object_name = if is_v6 { format!("{name}-v6") } else { name.to_owned() };
    let mut object = named("discovery.k8s.io/v1", "EndpointSlice", namespace, &object_name);
    let owner = name.split('.').next().unwrap_or(name);
    object["metadata"]["labels"] = json!({"kubernetes.io/service-name": owner});
    object["addressType"] = if is_v6 { "IPv6" } else { "IPv4" }.into();
    // Only a list of endpoints: everything else as usual.
    let parts = if value.is_array() { json!({"endpoints": value}) } else { value.clone() };
    merge(&mut object, &parts);
    let ports = object.get("ports").cloned().unwrap_or_else(|| json!([DEFAULT_PORT]));
    object["ports"] = list(&ports)?.iter().map(slice_port).collect::<Result<_>>()?;
    let endpoints = list(&object["endpoints"])?.iter().map(|value| endpoint(value, is_v6));
    object["endpoints"] = endpoints.collect::<Result<_>>()?;
    Ok(object)
}

fn slice_port(value: &Value) -> Result<Value> {
    let Value::String(text) = value else { return Ok(value.clone()) };
    let (name, port, _, protocol) = port(text)?;
    Ok(json!({"name": name, "port": port, "protocol": protocol}))
}

/// Name, port, NodePort and protocol.
fn port(text: &str) -> Result<(&str, u16, Option<u16>, String)> {
    let (name, rest) = text.split_once('=').unwrap_or(("", text));
    let (ports, protocol) = rest.split_once('/').with_context(|| format!("port `{text}` without /PROTOCOL"))?;
    let (port, node_port) = match ports.split_once(':') {
        Some((port, node_port)) => (port, Some(node_port.parse().with_context(|| format!("port `{text}`"))?)),
        None => (ports, None),
    };
    Ok((name, port.parse().with_context(|| format!("port `{text}`"))?, node_port, protocol.to_uppercase()))
}

fn endpoint(value: &Value, is_v6: bool) -> Result<Value> {
    let Value::String(text) = value else { return Ok(value.clone()) };
    let mut words = text.split_whitespace();
    let name = words.next().context("an endpoint without a name")?;
    // An address that nobody has is written as it is.
    let address = name.parse::<IpAddr>().map_or_else(|_| witness_address(name, is_v6), Ok)?;
    let mut object = json!({"addresses": [address], "conditions": {"ready": true}});
    if let Some(node) = witness(name).and_then(|witness| witness.node) {
        object["nodeName"] = node.into();
    }
    for word in words {
        flag(&mut object, word).with_context(|| format!("endpoint `{text}`"))?;
    }
    Ok(object)
}

fn flag(endpoint: &mut Value, word: &str) -> Result<()> {
    let names = |list: &str| list.split(',').map(|name| json!({"name": name})).collect::<Vec<_>>();
    match word.split_once('=') {
        None => {
            endpoint["conditions"] = match word {
                "notready" => json!({"ready": false, "serving": false, "terminating": false}),
                "serving" => json!({"ready": true, "serving": true, "terminating": false}),
                "terminating" => json!({"ready": false, "serving": true, "terminating": true}),
                "dying" => json!({"ready": false, "serving": false, "terminating": true}),
                // As the controller writes them for publishNotReadyAddresses.
                "published" => json!({"ready": true, "serving": false, "terminating": false}),
                "publisheddying" => json!({"ready": true, "serving": true, "terminating": true}),
                "unknown" => json!({}),
                _ => bail!("no flag `{word}`"),
            }
        }
        Some(("zone", zone)) => endpoint["zone"] = zone.into(),
        Some(("node", node)) => endpoint["nodeName"] = node.into(),
        Some(("hint", zones)) => endpoint["hints"]["forZones"] = names(zones).into(),
        Some(("nodehint", nodes)) => endpoint["hints"]["forNodes"] = names(nodes).into(),
        _ => bail!("no flag `{word}`"),
    }
    Ok(())
}

fn list(value: &Value) -> Result<&Vec<Value>> {
    value.as_array().with_context(|| format!("not a list: {value}"))
}

/// Adds to `target` what is in `parts`, deeply.
fn merge(target: &mut Value, parts: &Value) {
    match (target, parts) {
        (Value::Object(target), Value::Object(parts)) => {
            for (key, part) in parts {
                merge(target.entry(key).or_insert(Value::Object(Map::new())), part);
            }
        }
        (target, part) => *target = part.clone(),
    }
}

/// Whether the slice's owner could be another object than the API server lets a test make.
pub(super) fn check_name(name: &str) -> Result<()> {
    ensure!(
        name.len() <= 63 && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-'),
        "`{name}` cannot be the name of a namespace"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_forms_become_the_objects_of_the_api() {
        let service = object("n", "service/web", &json!({"ports": ["http=80:30080/tcp"]})).unwrap();
        assert_eq!(
            service["spec"]["ports"],
            json!([{"name": "http", "port": 80, "nodePort": 30080, "protocol": "TCP"}])
        );
        let slice = object("n", "slice/web.2", &json!(["a", "c terminating hint=za"])).unwrap();
        assert_eq!(slice["metadata"]["labels"]["kubernetes.io/service-name"], "web");
        assert_eq!(slice["endpoints"][0]["nodeName"], "n1");
        assert_eq!(slice["endpoints"][1]["hints"]["forZones"], json!([{"name": "za"}]));
        assert_eq!(slice["ports"], json!([{"name": "", "port": 8080, "protocol": "TCP"}]));
    }

    #[test]
    fn word_that_means_nothing_is_an_error_that_names_it() {
        let error = object("n", "slice/web", &json!(["a redy"])).unwrap_err();
        assert!(format!("{error:#}").contains("redy"), "{error:#}");
    }
}
