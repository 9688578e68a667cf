//! What the tests with real kernels, sockets and Kubernetes components are made of.
//!
//! Guards own one thing each (a network namespace, a cgroup, a mount, a process) and give it back when dropped, also on
//! panic; what a killed run leaves behind is removed by its janitor ([`run`]). A [`Node`] is made of guards and stands
//! for a Kubernetes node, a [`Pod`] for a pod on it; processes of a pod are asked to use their sockets through a
//! [`Guest`]. Everything here needs root; nothing here touches what it did not make.

pub mod agent;
pub mod bind;
pub mod bpffs;
pub mod bpftool;
pub mod cgroup;
pub mod components;
pub mod control_plane;
pub mod flows;
pub mod guest;
pub mod kernel_objects;
pub mod kube_proxy;
pub mod manifests;
pub mod netfilter;
pub mod netns;
pub mod node;
pub mod outside;
pub mod overlay;
pub mod peer;
pub mod pod;
pub mod poll;
pub mod process;
pub mod run;
pub mod site;
pub mod tun;

pub use agent::{Agent, AgentSpec, Source, http_get};
pub use bind::BindMount;
pub use bpffs::Bpffs;
pub use cgroup::Cgroup;
pub use control_plane::{ControlPlane, Kubelet};
pub use guest::Guest;
pub use manifests::Manifests;
pub use netns::NetNs;
pub use node::{Layout, Node};
pub use outside::Outside;
pub use pod::Pod;
pub use poll::eventually;
pub use process::Process;
pub use site::{Between, Site, Uplink};
pub use tun::TunLink;
