//! The Services that every proxy serves: all alike, without selector, each with its own EndpointSlice and the same
//! endpoints.

use std::{
    net::{IpAddr, Ipv4Addr},
    time::Duration,
};

use anyhow::Result;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use k8s_openapi::api::{core::v1::Service, discovery::v1::EndpointSlice};
use kube::{
    Api,
    api::{Patch, PatchParams, PostParams},
};
use lb_tests::control_plane::Admin;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep_until};

/// The port of every Service, TCP and UDP.
pub(crate) const SERVICE_PORT: u16 = 80;

/// The two ports that each endpoint listens on. A change moves a Service from one to the other.
pub(crate) const ENDPOINT_PORTS: [u16; 2] = [8080, 8081];

/// So many Services, the first ones, have a UDP port as well. Not all of them, which would double every rule set to no
/// purpose.
pub(crate) const N_UDP: usize = 10;

/// Requests to the API server at once.
const PARALLEL: usize = 16;

/// The address of Service `index`: from 10.96.16.0 on, above what the API server gives out by itself.
pub(crate) fn cluster_ip(index: usize) -> Result<Ipv4Addr> {
    let first = u32::from(Ipv4Addr::new(10, 96, 16, 0));
    Ok(Ipv4Addr::from(first + u32::try_from(index)?))
}

/// Creates the Services `from..to`.
pub(crate) fn create(admin: &Admin, from: usize, to: usize, endpoints: &[IpAddr]) -> Result<()> {
    create_each(admin, (from..to).map(|index| Ok((service(index)?, slice(index, endpoints)))))
}

/// Creates Services, each with its EndpointSlice.
pub(crate) fn create_each(admin: &Admin, objects: impl Iterator<Item = Result<(Value, Value)>>) -> Result<()> {
    let objects: Vec<(Service, EndpointSlice)> = objects
        .map(|object| {
            let (service, slice) = object?;
            Ok((serde_json::from_value(service)?, serde_json::from_value(slice)?))
        })
        .collect::<Result<_>>()?;
    admin.call(|client| async move {
        let services: Api<Service> = Api::default_namespaced(client.clone());
        let slices: Api<EndpointSlice> = Api::default_namespaced(client);
        let (services, slices, params) = (&services, &slices, &PostParams::default());
        let created = stream::iter(&objects).map(|(service, slice)| async move {
            services.create(params, service).await?;
            slices.create(params, slice).await
        });
        created.buffer_unordered(PARALLEL).try_for_each(|_| async { Ok(()) }).await
    })
}

/// Moves Service `index` to another port of its endpoints.
pub(crate) fn set_endpoint_port(admin: &Admin, index: usize, port: u16) -> Result<()> {
    change(admin, None, [(index, json!({"ports": ports(index, port)}))])
}

/// Gives each of these Services (index, port) that port of its endpoints, so many a second.
pub(crate) fn set_endpoint_ports(
    admin: &Admin,
    per_second: u32,
    services: impl IntoIterator<Item = (usize, u16)>,
) -> Result<()> {
    let patches = services.into_iter().map(|(index, port)| (index, json!({"ports": ports(index, port)})));
    change(admin, Some(per_second), patches)
}

/// Lists exactly these endpoints for the first `n` Services, as fast as the API server takes it.
pub(crate) fn set_endpoints(admin: &Admin, n: usize, endpoints: &[IpAddr]) -> Result<()> {
    let listed = listed(endpoints);
    change(admin, None, (0..n).map(|index| (index, json!({"endpoints": listed}))))
}

/// Merges a patch into each of these Services' slices.
fn change(admin: &Admin, per_second: Option<u32>, patches: impl IntoIterator<Item = (usize, Value)>) -> Result<()> {
    let patches: Vec<_> = patches.into_iter().zip(0_u32..).collect();
    admin.call(|client| async move {
        let slices: Api<EndpointSlice> = Api::default_namespaced(client);
        let (slices, start) = (&slices, Instant::now());
        let changed = stream::iter(patches).map(|((index, patch), number)| async move {
            if let Some(rate) = per_second {
                sleep_until(start + Duration::from_secs(1) * number / rate).await;
            }
            slices.patch(&name(index), &PatchParams::default(), &Patch::Merge(patch)).await
        });
        changed.buffer_unordered(PARALLEL).try_for_each(|_| async { Ok(()) }).await
    })
}

fn name(index: usize) -> String {
    format!("bench-{index}")
}

fn service(index: usize) -> Result<Value> {
    Ok(json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name(index)},
        "spec": {"clusterIP": cluster_ip(index)?, "ports": ports(index, SERVICE_PORT)},
    }))
}

fn slice(index: usize, endpoints: &[IpAddr]) -> Value {
    json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": name(index), "labels": {"kubernetes.io/service-name": name(index)}},
        "addressType": "IPv4",
        "ports": ports(index, ENDPOINT_PORTS[0]),
        "endpoints": listed(endpoints),
    })
}

fn listed(endpoints: &[IpAddr]) -> Vec<Value> {
    endpoints.iter().map(|address| json!({"addresses": [address], "conditions": {"ready": true}})).collect()
}

/// The ports of a Service or of its slice, which have the same form.
fn ports(index: usize, port: u16) -> Value {
    let protocols: &[&str] = if index < N_UDP { &["TCP", "UDP"] } else { &["TCP"] };
    protocols
        .iter()
        .map(|protocol| json!({"name": protocol.to_lowercase(), "port": port, "protocol": protocol}))
        .collect()
}
