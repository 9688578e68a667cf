//! The agent's source of Services and endpoints: which one, and what is done when it ends. It should not: an agent
//! without one would go on with the last state for ever and look well.

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
            SourceConfig::Manifests(directory) => manifests::Source::open(directory)
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

    /// Tells it what the maps hold. A directory of manifests is believed at its word.
    pub(super) fn adopting(self, datapath: &mut Datapath) -> Result<Self, Failure> {
        match self {
            Self::Kubernetes(source) => adopted::count(datapath.store_mut())
                .map(|adopted| Self::Kubernetes(source.adopting(adopted)))
                .map_err(|error| unexpected(error, "counting what the maps hold")),
            Self::Manifests(_) => Ok(self),
        }
    }

    /// Sends what there is into `messages`, until that is closed.
    pub(super) async fn run(self, messages: mpsc::Sender<Message>) {
        match self {
            Self::Kubernetes(source) => source.run(messages).await,
            Self::Manifests(source) => source.run(messages).await,
        }
    }
}

/// Completes when the source has ended, for whatever reason, with what the agent ends with.
pub(super) async fn ended(source: JoinHandle<()>) -> Failure {
    let why = match source.await {
        Ok(()) => "it ended by itself".to_owned(),
        Err(error) => error.to_string(),
    };
    anyhow::anyhow!(
        "the source of Services and endpoints is dead: {why}. Traffic goes on with the last state; start the agent again \
         (in a DaemonSet that happens by itself), and report this"
    )
    .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_source_that_ends_or_panics_ends_the_agent_with_status_1_and_the_reason() {
        let failure = ended(tokio::spawn(async {})).await;
        assert_eq!(failure.exit, Exit::Unexpected);
        assert!(failure.to_string().contains("it ended by itself"), "{failure}");
        let failure = ended(tokio::spawn(async { panic!("no such slice") })).await;
        assert_eq!(failure.exit, Exit::Unexpected);
        assert!(failure.to_string().contains("no such slice"), "{failure}");
    }
}
