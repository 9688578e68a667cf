//! From a kubeconfig, or the pod's own service account, to one client per API server. Contacts no server.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use http::Uri;
use hyper_util::{
    client::legacy::{Client as HttpClient, connect::HttpConnector},
    rt::TokioExecutor,
};
use kube::{
    Client, Config,
    client::{Body, ClientBuilder, ConfigExt as _},
    config::{InClusterError, KubeConfigOptions, Kubeconfig, KubeconfigError},
};
use tower::{BoxError, ServiceBuilder};

use super::trouble::one_line;

/// How long to wait for a connection before the next server is tried.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A watch may be silent for minutes. A peer that is gone without a word (a node that lost power, a firewall that forgot
/// the connection) is noticed after 15 + 3 * 5 s.
const KEEPALIVE_AFTER: Duration = Duration::from_secs(15);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
const KEEPALIVE_RETRIES: u32 = 3;

/// Where the API servers are and who we are.
#[derive(Clone, Debug)]
pub struct Options {
    /// A kubeconfig file. `None` means the configuration that Kubernetes gives to pods.
    pub kubeconfig: Option<PathBuf>,
    /// URLs of API servers, to be used instead of the configured one, in this order, with the same credentials and
    /// certificate authority. The agent should have at least one that does not depend on the Service
    /// `default/kubernetes`, which it provides itself.
    pub api_servers: Vec<String>,
    /// This node's name: its Node object is watched, and no other.
    pub node_name: Arc<str>,
    /// Whether this node's Pods are watched, for their annotation.
    pub pods: bool,
}

/// Why the configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The kubeconfig is missing, does not parse or contradicts itself.
    #[error("kubeconfig {}: {what}", path.display())]
    Kubeconfig {
        /// The file.
        path: PathBuf,
        /// What is wrong with it, in one line, without what the file says: that may be a secret.
        what: String,
    },
    /// There is no configuration of a pod.
    #[error("no kubeconfig is named (--kubeconfig), and this is no pod of a cluster: {0}")]
    InCluster(InClusterError),
    /// An entry of the list of API servers is not a URL.
    #[error("--api-servers: {url:?} is not the URL of an API server such as https://192.168.1.10:6443")]
    ApiServer {
        /// The entry.
        url: String,
    },
    /// Certificates, keys or a credential plugin cannot be used.
    #[error("credentials of {credentials} for API server {url}: {what}")]
    Credentials {
        /// Where they come from.
        credentials: Arc<str>,
        /// The API server.
        url: Arc<str>,
        /// What is wrong with them, and which plugin was asked.
        what: String,
    },
}

/// Whether this process has the configuration that Kubernetes gives to pods.
pub fn is_in_cluster() -> bool {
    Config::incluster_env().is_ok()
}

/// A client for each API server, with its URL.
pub(super) type Clients = Vec<(Arc<str>, Client)>;

/// Makes the clients. Also says where the credentials come from.
pub(super) async fn clients(options: &Options) -> Result<(Clients, Arc<str>), OpenError> {
    let (config, credentials): (Config, Arc<str>) = match &options.kubeconfig {
        Some(path) => (from_kubeconfig(path).await?, format!("kubeconfig {}", path.display()).into()),
        None => (Config::incluster_env().map_err(OpenError::InCluster)?, "the pod's service account".into()),
    };
    let urls = match options.api_servers.as_slice() {
        [] => vec![config.cluster_url.clone()],
        list => list.iter().map(|text| server_url(text)).collect::<Result<_, _>>()?,
    };
    let client = |cluster_url: Uri| {
        let url: Arc<str> = cluster_url.to_string().trim_end_matches('/').into();
        let mut config = config.clone();
        config.cluster_url = cluster_url;
        match client(&config) {
            Ok(client) => Ok((url, client)),
            Err(error) => {
                let what = match config.auth_info.exec.as_ref().and_then(|exec| exec.command.as_ref()) {
                    Some(plugin) => format!("credential plugin {plugin}: {}", one_line(&error)),
                    None => one_line(&error),
                };
                Err(OpenError::Credentials { credentials: credentials.clone(), url, what })
            }
        }
    };
    let clients = urls.into_iter().map(client).collect::<Result<_, _>>()?;
    Ok((clients, credentials))
}

async fn from_kubeconfig(path: &Path) -> Result<Config, OpenError> {
    // Further lines of an error quote the file.
    let error = |error: KubeconfigError| {
        let what = error.to_string().lines().next().unwrap_or_default().to_owned();
        OpenError::Kubeconfig { path: path.to_owned(), what }
    };
    let kubeconfig = Kubeconfig::read_from(path).map_err(error)?;
    Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.map_err(error)
}

fn server_url(text: &str) -> Result<Uri, OpenError> {
    let text = text.trim();
    let full = if text.contains("://") { text.to_owned() } else { format!("https://{text}") };
    let uri = full.parse::<Uri>().ok();
    uri.filter(|uri| matches!(uri.scheme_str(), Some("https" | "http")) && uri.host().is_some_and(|h| !h.is_empty()))
        .ok_or_else(|| OpenError::ApiServer { url: text.to_owned() })
}

/// Kube's own stack, except that its connections tell when the other end is gone, and that failed requests are not
/// retried here: that is the business of [`super::failover`] and of the watcher's backoff.
fn client(config: &Config) -> kube::Result<Client> {
    let mut connector = HttpConnector::new();
    connector.enforce_http(false);
    connector.set_nodelay(true);
    connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
    connector.set_keepalive(Some(KEEPALIVE_AFTER));
    connector.set_keepalive_interval(Some(KEEPALIVE_INTERVAL));
    connector.set_keepalive_retries(Some(KEEPALIVE_RETRIES));
    let connector = config.rustls_https_connector_with_connector(connector)?;
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(config.auth_layer()?)
        .layer(config.extra_headers_layer()?)
        .map_err(BoxError::from)
        .service(HttpClient::builder(TokioExecutor::new()).build::<_, Body>(connector));
    Ok(ClientBuilder::new(service, config.default_namespace.clone()).build())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn api_servers_may_be_named_with_and_without_a_scheme() {
        let url = |text: &str| server_url(text).map(|uri| uri.to_string()).map_err(|error| error.to_string());
        assert_eq!(url(" https://192.168.1.10:6443 ").unwrap(), "https://192.168.1.10:6443/");
        assert_eq!(url("[fd00::1]:6443").unwrap(), "https://[fd00::1]:6443/");
        let error = "--api-servers: \"tcp://x\" is not the URL of an API server such as https://192.168.1.10:6443";
        assert_eq!(url("tcp://x").unwrap_err(), error);
        assert!(url("").is_err());
        assert!(url("https://a b").is_err());
    }
}
