//! What the agent was told to do, checked once; after this nothing looks at flags or the environment again.
//!
//! Everything here is a pure function of the command line and of [`Surroundings`], which is read in one place.

use std::{collections::BTreeSet, net::SocketAddr, path::PathBuf, str::FromStr, sync::Arc};

use ipnet::IpNet;

use crate::{
    cli::{Failure, RunArgs},
    model::{ExternalIps, ModelConfig, NodePortAddresses},
    watch::kube,
};

/// Where Services and endpoints come from.
#[derive(Clone, Debug)]
pub enum SourceConfig {
    /// Kubernetes API servers.
    Kubernetes(kube::Options),
    /// A directory of manifests.
    Manifests {
        /// The directory.
        directory: PathBuf,
        /// This node's name.
        node_name: Arc<str>,
    },
}

/// What is read from outside the command line.
#[derive(Clone, Debug, Default)]
pub struct Surroundings {
    /// Whether Kubernetes gave this process the configuration that it gives to pods.
    pub in_cluster: bool,
    /// The host name.
    pub host_name: Option<String>,
}

impl Surroundings {
    /// Looks at this process's environment.
    pub fn read() -> Self {
        let host_name = nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok());
        Self { in_cluster: kube::is_in_cluster(), host_name }
    }
}

/// Chooses the source.
pub fn source(args: &RunArgs, around: &Surroundings) -> Result<SourceConfig, Failure> {
    if let Some(directory) = args.manifests.clone() {
        return Ok(SourceConfig::Manifests { directory, node_name: node_name(args, around)? });
    }
    if args.kubeconfig.is_none() && !around.in_cluster {
        return Err(Failure::usage(
            "no source of Services: give --kubeconfig FILE for a cluster, or --manifests DIR for a directory of \
             manifests, or run in a pod with a service account (no in-cluster configuration was found here)",
        ));
    }
    Ok(SourceConfig::Kubernetes(kube::Options {
        kubeconfig: args.kubeconfig.clone(),
        api_servers: args.api_servers.clone(),
        node_name: node_name(args, around)?,
        pods: args.socket_lb_exclude_annotated,
    }))
}

impl SourceConfig {
    /// Whether it tells of this node's Pods.
    pub fn has_pods(&self) -> bool {
        matches!(self, Self::Kubernetes(options) if options.pods)
    }
}

/// The node's name: as given, else the host name as kubelet takes it (lower case).
pub fn node_name(args: &RunArgs, around: &Surroundings) -> Result<Arc<str>, Failure> {
    let name = match (&args.node_name, &around.host_name) {
        (Some(name), _) => name.clone(),
        (None, Some(host)) => host.trim().to_lowercase(),
        (None, None) => String::new(),
    };
    if name.is_empty() {
        return Err(Failure::usage("no node name: give --node-name NAME (this host's name cannot be read)"));
    }
    Ok(name.into())
}

/// How Services are seen from this node. `api_servers` are those that the source uses.
pub fn model(args: &RunArgs, node_name: Arc<str>, api_servers: BTreeSet<SocketAddr>) -> ModelConfig {
    ModelConfig {
        node_name,
        nodeport_addresses: args.nodeport_addresses.clone(),
        external_ips: args.external_ips.clone(),
        api_servers,
    }
}

impl FromStr for NodePortAddresses {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "primary" => Ok(Self::Primary),
            list => prefixes(list, "primary").map(Self::Prefixes),
        }
    }
}

impl FromStr for ExternalIps {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "all" => Ok(Self::All),
            "none" => Ok(Self::None),
            list => prefixes(list, "all or none").map(Self::Within),
        }
    }
}

/// Prefixes separated by commas; `alone` is what may stand in place of them. Bits behind the length do not matter.
fn prefixes(list: &str, alone: &str) -> Result<Vec<IpNet>, String> {
    let prefix = |text: &str| {
        let wrong = || format!("{text:?} is no prefix such as 192.0.2.0/24 or 2001:db8::/64; or give {alone} alone");
        text.parse().map(|prefix: IpNet| prefix.trunc()).map_err(|_| wrong())
    };
    list.split(',').map(prefix).collect()
}

/// Where an HTTP server listens, if at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListenAddress(pub Option<SocketAddr>);

impl FromStr for ListenAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "none" {
            return Ok(Self(None));
        }
        let address: SocketAddr = text.parse().map_err(|_| {
            format!("{text:?} is no address and port such as 127.0.0.1:10249 or [::]:10256 (ports are 1 to 65535)")
        })?;
        if address.port() == 0 {
            return Err("port 0 would be another one at each start; ports are 1 to 65535".to_owned());
        }
        Ok(Self(Some(address)))
    }
}

/// Checks one entry of `--api-servers`; a bare HOST:PORT means https.
pub fn api_server_url(text: &str) -> Result<String, String> {
    let url = if text.contains("://") { text.to_owned() } else { format!("https://{text}") };
    let wrong = |why: &str| format!("{text:?} is no URL of an API server such as https://192.0.2.10:6443: {why}");
    let uri: http::Uri = url.parse().map_err(|error: http::uri::InvalidUri| wrong(&error.to_string()))?;
    if !matches!(uri.scheme_str(), Some("https" | "http")) {
        return Err(wrong("only https and http are known"));
    }
    let host = uri.host().filter(|host| !host.is_empty()).ok_or_else(|| wrong("it has no host"))?;
    // `Uri::port` is `None` for a port that does not fit as well as for none at all.
    let port = uri.authority().and_then(|authority| authority.as_str().strip_prefix(host)).unwrap_or_default();
    if !port.is_empty() && uri.port_u16().is_none_or(|port| port == 0) {
        return Err(wrong("ports are 1 to 65535"));
    }
    Ok(url)
}

#[cfg(test)]
#[path = "config_tests.rs"]
mod tests;
