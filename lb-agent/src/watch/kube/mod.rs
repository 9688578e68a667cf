//! A Kubernetes API server, or several of them, as a source.
//!
//! Followers of Services, EndpointSlices, this node's Node object and, where wanted, this node's Pods, each with a watcher of kube; below them all API servers
//! look like one ([`failover`]). Losing them changes nothing: the last state stays in force, the loss shows in the status,
//! and it is tried again for as long as it takes.

mod config;
mod failover;
#[cfg(test)]
mod fake;
mod follow;
mod kind;
mod pace;
mod raw;
mod status;
#[cfg(test)]
mod tests;
mod trouble;

use std::{collections::BTreeSet, net::SocketAddr, sync::Arc, time::SystemTime};

use tokio::{
    sync::mpsc,
    task::{JoinError, JoinSet},
};

pub use self::config::{OpenError, Options, is_in_cluster};
use self::{
    config::Clients,
    failover::{Line, Renew, Servers},
    follow::{Follower, Report, Reported},
    kind::Watched,
    status::{Notice, Tracker, address_of},
};
use super::{
    Message,
    brake::{Adopted, Brake},
};
use crate::event::{EndpointSlice, Node, Pod, Service};

/// Reports on their way from the followers. Small: the receiver of [`Source::run`] sets the pace.
const REPORTS: usize = 16;

/// API servers that are ready to be asked.
#[derive(Debug)]
pub struct Source {
    servers: Arc<Servers>,
    credentials: Arc<str>,
    node_name: Arc<str>,
    adopted: Adopted,
    pods: bool,
}

impl Source {
    /// Reads the configuration. Contacts no server: one that is out of reach is no error of the configuration.
    ///
    /// # Errors
    /// If the configuration cannot be used; with the file and what is wrong.
    pub async fn open(options: &Options) -> Result<Self, OpenError> {
        let (clients, credentials) = config::clients(options).await?;
        // The files of a pod's service account are read again by kube.
        let renew = options.kubeconfig.is_some().then(|| renew(options.clone()));
        Ok(Self { pods: options.pods, ..Self::of_clients(clients, renew, credentials, options.node_name.clone()) })
    }

    fn of_clients(clients: Clients, renew: Option<Renew>, credentials: Arc<str>, node_name: Arc<str>) -> Self {
        Self { servers: Servers::new(clients, renew), credentials, node_name, adopted: Adopted::default(), pods: false }
    }

    /// The API servers whose URLs name an address.
    pub fn server_addresses(&self) -> BTreeSet<SocketAddr> {
        self.servers.urls().iter().filter_map(|url| address_of(url)).map(SocketAddr::from).collect()
    }

    /// For an agent that found this much in the maps. First lists that account for little of it have to be confirmed
    /// before they are believed.
    #[must_use]
    pub fn adopting(self, adopted: Adopted) -> Self {
        Self { adopted, ..self }
    }

    /// Sends what the API servers say, and every change, until the receiver is closed.
    pub async fn run(self, tx: mpsc::Sender<Message>) {
        let (out, reports) = mpsc::channel(REPORTS);
        // Dropped with this future, which ends the followers.
        let mut followers = JoinSet::new();
        followers.spawn(self.follower::<EndpointSlice>(out.clone()).run());
        followers.spawn(self.follower::<Service>(out.clone()).run());
        followers.spawn(self.follower::<Node>(out.clone()).run());
        let mut optional = vec![Node::RESOURCE];
        if self.pods {
            followers.spawn(self.follower::<Pod>(out).run());
            optional.push(Pod::RESOURCE);
        }
        let urls = self.servers.urls();
        let tracker = Tracker::new(&[Service::RESOURCE, EndpointSlice::RESOURCE], &optional, &urls);
        pass_on(followers, reports, tracker, tx).await;
    }

    fn follower<W: Watched>(&self, out: mpsc::Sender<Reported>) -> Follower<W> {
        let brake = Brake::adopting(W::adopted(self.adopted));
        let line = Line::new(self.servers.clone());
        Follower::new(line, self.credentials.clone(), self.node_name.clone(), out, brake)
    }
}

fn renew(options: Options) -> Renew {
    Box::new(move || {
        let options = options.clone();
        Box::pin(async move { config::clients(&options).await.map(|(clients, _)| clients) })
    })
}

/// Sends on what the followers report, until the receiver is closed or one of the followers has ended: half a source would
/// look like a whole one in which nothing changes. A follower's panic goes on here.
async fn pass_on(
    mut followers: JoinSet<()>,
    mut reports: mpsc::Receiver<Reported>,
    mut tracker: Tracker,
    tx: mpsc::Sender<Message>,
) {
    let mut sent = tracker.status().clone();
    if tx.send(Message::Status(sent.clone())).await.is_err() {
        return;
    }
    loop {
        let reported = tokio::select! {
            reported = reports.recv() => reported,
            () = tx.closed() => None,
            Some(ended) = followers.join_next() => match ended.map_err(JoinError::try_into_panic) {
                Err(Ok(panic)) => std::panic::resume_unwind(panic),
                Ok(()) | Err(Err(_)) => None,
            },
        };
        let Some(reported) = reported else { return };
        tracker.take(&reported, SystemTime::now()).iter().for_each(log);
        let Reported { report, .. } = reported;
        if let Report::Event(event) = report
            && tx.send(Message::Event(event)).await.is_err()
        {
            return;
        }
        if *tracker.status() != sent {
            sent = tracker.status().clone();
            if tx.send(Message::Status(sent.clone())).await.is_err() {
                return;
            }
        }
    }
}

fn log(notice: &Notice) {
    match notice {
        Notice::Info(text) => tracing::info!("{text}"),
        Notice::Warn(text) => tracing::warn!("{text}"),
        Notice::Error(text) => tracing::error!("{text}"),
    }
}
