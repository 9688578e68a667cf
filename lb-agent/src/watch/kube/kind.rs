//! What differs between Services and EndpointSlices when they are watched.

use super::{brake::Adopted, raw::ApiType};
use crate::{
    event::{EndpointSlice, Event, FullList, ObjectName, Service},
    watch::{
        convert,
        intern::Interner,
        problem::{Converted, Problem},
    },
};

/// A kind of object that is watched.
pub(super) trait Watched: Sized + Send + 'static {
    /// Its form in the API.
    type Api: ApiType;
    /// As RBAC and error messages call it.
    const RESOURCE: &'static str;

    /// Reads an object; `None` if it is none of ours.
    fn convert(object: &Self::Api, names: &mut Interner) -> Result<Option<Converted<Self>>, Problem>;
    /// 1, and 1 for each endpoint that is ready; see [`super::brake`].
    fn weight(&self) -> u32;
    /// About how many entries of the maps it takes, of the sort that [`Self::adopted`] counts.
    fn entries(&self) -> u64;
    /// How many entries an earlier agent left that objects of this kind account for.
    fn adopted(adopted: Adopted) -> u64;
    fn applied(self) -> Event;
    fn deleted(name: ObjectName) -> Event;
    fn listed(list: FullList<Self>) -> Event;
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
        self.ports.len() as u64
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
        let endpoints = self
            .endpoints
            .iter()
            .filter(|endpoint| endpoint.ready || (endpoint.serving && endpoint.terminating))
            .count();
        let ports = self.ports.iter().filter(|port| port.port.is_some()).count();
        (endpoints * ports) as u64
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
