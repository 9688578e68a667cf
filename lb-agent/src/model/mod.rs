//! What Kubernetes means: from Services and EndpointSlices to frontends and backends, as seen from this node.
//!
//! Synchronous and pure: no client, no clock, no I/O, no map. Events go in through [`Model::apply`], which returns the
//! Services that may have changed; [`Model::desired`] says what such a Service should be.
//! Headless and ExternalName Services and those of other proxies have no [`DesiredPort`].

mod desired;

pub use desired::{DesiredBackend, DesiredPort, DesiredService, FrontendAddr};
