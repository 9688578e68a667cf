//! The agent's source of Services and endpoints: which one, and what is done when it ends. It should not: an agent
//! without one would go on with the last state for ever and look well. The same goes for the watch on this node's addresses.

use std::{collections::BTreeSet, io, net::SocketAddr};

use tokio::{sync::mpsc, task::JoinHandle};
use tracing::warn;

use super::{adopted, unexpected};
use crate::{
    cli::{Exit, Failure},
    config::SourceConfig,
    datapath::bpf::Datapath,
    watch::{Message, kube, manifests},
};

/// A source that was opened and not started.
pub(super) enum Source {
    Kubernetes(kube::Source),
    Manifests(Box<manifests::Source>),
}

impl Source {
    /// Contacts no server: one that is out of reach is no error of the configuration.
    pub(super) async fn open(config: &SourceConfig) -> Result<Self, Failure> {
        match config {
            SourceConfig::Manifests { directory, node_name } => manifests::Source::open(directory, node_name)
                .map(|source| Self::Manifests(Box::new(source)))
                .map_err(|error| Failure::new(Exit::Config, error)),
            SourceConfig::Kubernetes(options) => {
                if options.kubeconfig.is_none() && options.api_servers.is_empty() {
                    warn!(
                        "no --api-servers: the API server is reached by its Service's address, which on this node only this \
                     agent provides; after a restart of the node it may be out of reach"
                    );
                }
                kube::Source::open(options)
                    .await
                    .map(Self::Kubernetes)
                    .map_err(|error| Failure::new(Exit::Config, error))
            }
        }
    }

    /// Tells it what the maps hold.
    pub(super) fn adopting(self, datapath: &mut Datapath) -> Result<Self, Failure> {
        let adopted = adopted::count(datapath.store_mut());
        let adopted = adopted.map_err(|error| unexpected(error, "counting what the maps hold"))?;
        Ok(match self {
            Self::Kubernetes(source) => Self::Kubernetes(source.adopting(adopted)),
            Self::Manifests(source) => Self::Manifests(Box::new(source.adopting(adopted))),
        })
    }

    /// The API servers in use, as far as their addresses are known.
    pub(super) fn api_servers(&self) -> BTreeSet<SocketAddr> {
        match self {
            Self::Kubernetes(source) => source.server_addresses(),
            Self::Manifests(_) => BTreeSet::new(),
        }
    }

    /// Sends what there is into `messages`, until that is closed.
    pub(super) async fn run(self, messages: mpsc::Sender<Message>) -> io::Result<()> {
        match self {
            Self::Kubernetes(source) => source.run(messages).await,
            Self::Manifests(source) => source.run(messages).await,
        }
        Ok(())
    }
}

/// Completes when the source called `what` has ended, for whatever reason, with what the agent ends with.
pub(super) async fn ended(what: &str, source: JoinHandle<io::Result<()>>) -> Failure {
    let why = match source.await {
        Ok(Ok(())) => "it ended by itself".to_owned(),
        Ok(Err(error)) => error.to_string(),
        Err(error) => error.to_string(),
    };
    anyhow::anyhow!(
        "the {what} is dead: {why}. Traffic goes on with the last state; start the agent again \
         (in a DaemonSet that happens by itself), and report this"
    )
    .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_source_that_ends_or_panics_ends_the_agent_with_status_1_and_the_reason() {
        let failure = ended("source", tokio::spawn(async { Ok(()) })).await;
        assert_eq!(failure.exit, Exit::Unexpected);
        assert!(failure.to_string().contains("it ended by itself"), "{failure}");
        let failure = ended("source", tokio::spawn(async { panic!("no such slice") })).await;
        assert_eq!(failure.exit, Exit::Unexpected);
        assert!(failure.to_string().contains("no such slice"), "{failure}");
        let failure = ended("source", tokio::spawn(async { Err(io::Error::other("no socket")) })).await;
        assert!(failure.to_string().starts_with("the source is dead: no socket."), "{failure}");
    }
}
