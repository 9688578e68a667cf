//! What differs between Services, EndpointSlices, this node's Node and this node's Pods when they are watched.

use kube::runtime::watcher;

use super::raw::ApiType;
use crate::{
    event::{EndpointSlice, Event, FullList, Node, ObjectName, Pod, PodChange, Service},
    watch::{
        brake::{self, Adopted},
        convert,
        intern::Interner,
        problem::{Converted, Problem},
    },
};

/// Leaves out what other proxies serve, and headless Services, which DNS serves. Both labels are on the Services and on
/// their slices; kube-proxy selects in the same way (cmd/kube-proxy/app/server.go).
const SELECTOR: &str = "!service.kubernetes.io/headless,!service.kubernetes.io/service-proxy-name";

/// A kind of object that is watched.
pub(super) trait Watched: Sized + Send + 'static {
    /// Its form in the API.
    type Api: ApiType;
    /// As RBAC and error messages call it.
    const RESOURCE: &'static str;

    /// Which objects to ask for.
    fn selection(_node_name: &str) -> watcher::Config {
        watcher::Config::default().labels(SELECTOR)
    }
    /// Reads an object; `None` if it is none of ours.
    fn convert(object: &Self::Api, names: &mut Interner) -> Result<Option<Converted<Self>>, Problem>;
    /// 1, and 1 for each endpoint that is ready; see [`brake`].
    fn weight(&self) -> u32;
    /// About how many entries of the maps it takes, of the sort that [`Self::adopted`] counts.
    fn entries(&self) -> u64;
    /// How many entries an earlier agent left that objects of this kind account for.
    fn adopted(adopted: Adopted) -> u64;
    fn applied(self) -> Event;
    fn deleted(name: ObjectName) -> Event;
    fn listed(list: FullList<Self>) -> Event;
    /// What to go on with where no server lets the agent list this kind; `None` if nothing can be done without.
    fn withheld() -> Option<Event> {
        None
    }
}

impl Watched for Service {
    type Api = k8s_openapi::api::core::v1::Service;
    const RESOURCE: &'static str = "services";

    fn convert(object: &Self::Api, names: &mut Interner) -> Result<Option<Converted<Self>>, Problem> {
        convert::service(object, names).map(Some)
    }

    fn weight(&self) -> u32 {
        1
    }

    fn entries(&self) -> u64 {
        brake::service_entries(self)
    }

    fn adopted(adopted: Adopted) -> u64 {
        adopted.service_ports
    }

    fn applied(self) -> Event {
        Event::ServiceApplied(self)
    }

    fn deleted(name: ObjectName) -> Event {
        Event::ServiceDeleted(name)
    }

    fn listed(list: FullList<Self>) -> Event {
        Event::ServicesReset(list)
    }
}

impl Watched for EndpointSlice {
    type Api = k8s_openapi::api::discovery::v1::EndpointSlice;
    const RESOURCE: &'static str = "endpointslices.discovery.k8s.io";

    fn convert(object: &Self::Api, names: &mut Interner) -> Result<Option<Converted<Self>>, Problem> {
        convert::slice(object, names)
    }

    fn weight(&self) -> u32 {
        let ready = self.endpoints.iter().filter(|endpoint| endpoint.ready).count();
        u32::try_from(1 + ready).unwrap_or(u32::MAX)
    }

    fn entries(&self) -> u64 {
        brake::slice_entries(self)
    }

    fn adopted(adopted: Adopted) -> u64 {
        adopted.backends
    }

    fn applied(self) -> Event {
        Event::SliceApplied(self)
    }

    fn deleted(name: ObjectName) -> Event {
        Event::SliceDeleted(name)
    }

    fn listed(list: FullList<Self>) -> Event {
        Event::SlicesReset(list)
    }
}

/// At most one: this node's own.
impl Watched for Node {
    type Api = k8s_openapi::api::core::v1::Node;
    const RESOURCE: &'static str = "nodes";

    fn selection(node_name: &str) -> watcher::Config {
        watcher::Config::default().fields(&format!("metadata.name={node_name}"))
    }

    fn convert(object: &Self::Api, names: &mut Interner) -> Result<Option<Converted<Self>>, Problem> {
        Ok(Some(convert::node(object, names)))
    }

    fn weight(&self) -> u32 {
        1
    }

    fn entries(&self) -> u64 {
        0
    }

    fn adopted(_: Adopted) -> u64 {
        0
    }

    fn applied(self) -> Event {
        Event::NodeApplied(self)
    }

    fn deleted(_: ObjectName) -> Event {
        Event::NodeDeleted
    }

    fn listed(list: FullList<Self>) -> Event {
        list.objects.into_iter().next().map_or(Event::NodeDeleted, Event::NodeApplied)
    }

    fn withheld() -> Option<Event> {
        Some(Event::NodeDeleted)
    }
}

/// Those of this node that are excluded from the socket layer.
impl Watched for Pod {
    type Api = k8s_openapi::api::core::v1::Pod;
    const RESOURCE: &'static str = "pods";

    fn selection(node_name: &str) -> watcher::Config {
        watcher::Config::default().fields(&format!("spec.nodeName={node_name}"))
    }

    fn convert(object: &Self::Api, names: &mut Interner) -> Result<Option<Converted<Self>>, Problem> {
        convert::pod(object, names)
    }

    fn weight(&self) -> u32 {
        1
    }

    fn entries(&self) -> u64 {
        0
    }

    fn adopted(_: Adopted) -> u64 {
        0
    }

    fn applied(self) -> Event {
        Event::Pods(PodChange::Applied(self))
    }

    fn deleted(name: ObjectName) -> Event {
        Event::Pods(PodChange::Deleted(name))
    }

    fn listed(list: FullList<Self>) -> Event {
        Event::Pods(PodChange::Reset(list))
    }
}
