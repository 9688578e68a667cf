//! Shows what the agent does: health for kubelet and load balancers, metrics for Prometheus, and the map `lb_agent` for
//! `lb-agent status`.
//!
//! Everything here reads; nothing here changes what the agent does. What the other parts report arrives as data in
//! [`State`], through [`Observer`].

pub mod health;
pub mod http;
pub mod metrics;
mod process;
mod record;
pub mod service_health;
mod state;

pub use record::{Identity, agent_status};
pub use state::{ConnectionsEnded, MapUse, Observer, Problem, SelfTest, State};
