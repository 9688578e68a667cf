//! What the operator and the node's set-up say, once, about how Services are seen from this node.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use ipnet::IpNet;

/// The model's configuration.
#[derive(Clone, Debug)]
pub struct ModelConfig {
    /// This node's name: endpoints that bear it are local.
    pub node_name: Arc<str>,
    /// Which of the node's addresses answer to NodePorts.
    pub nodeport_addresses: NodePortAddresses,
    /// Which external addresses Services may have.
    pub external_ips: ExternalIps,
    /// API servers that the agent uses. No external or ingress address may take their place: whoever could write Services
    /// could otherwise read this agent's credentials (CVE-2020-8554).
    pub api_servers: BTreeSet<SocketAddr>,
}

impl Default for ModelConfig {
    fn default() -> Self {
        Self {
            node_name: "".into(),
            nodeport_addresses: NodePortAddresses::Primary,
            external_ips: ExternalIps::All,
            api_servers: BTreeSet::new(),
        }
    }
}

/// `--nodeport-addresses`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NodePortAddresses {
    /// The addresses of the node's Node object, one of each family at most.
    Primary,
    /// Those in these prefixes.
    Prefixes(Vec<IpNet>),
}

/// `--external-ips`: which of `spec.externalIPs` are served. Kubernetes deprecates the field since 1.36 (KEP-5707).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExternalIps {
    /// Whatever a Service names.
    All,
    /// None at all.
    None,
    /// Those in these prefixes.
    Within(Vec<IpNet>),
}

impl ExternalIps {
    /// Whether a Service may have this one.
    pub fn allow(&self, ip: IpAddr) -> bool {
        match self {
            Self::All => true,
            Self::None => false,
            Self::Within(prefixes) => prefixes.iter().any(|prefix| prefix.contains(&ip)),
        }
    }
}
