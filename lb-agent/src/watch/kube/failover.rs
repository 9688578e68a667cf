//! Several API servers as one: requests go to the current one; when it does not answer, the next is tried at once.
//!
//! This is below kube's watcher, which therefore resumes a watch on another server where it left off on the first
//! (resource versions are those of the common etcd) instead of listing everything again.
//!
//! Kube reads token files and asks credential plugins again by itself. What stands in a kubeconfig, or in files that it names for
//! certificates, is read once; so when a server does not know us any more, the configuration is read again here.

use std::{
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use futures::future::BoxFuture;
use http::{Request, Response, StatusCode};
use kube::{
    Client,
    client::{Body, ClientBuilder},
};
use tokio::{
    sync::{Mutex, Notify},
    time::Instant,
};
use tower::{BoxError, Service};

use super::config::{Clients, OpenError};

/// How long a server may take until it begins to answer. Watches begin to answer at once, lists are paged.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// How long after the configuration was read again it may be once more.
const RENEW_AFTER: Duration = Duration::from_secs(10);

/// Reads the configuration again.
pub(super) type Renew = Box<dyn Fn() -> BoxFuture<'static, Result<Clients, OpenError>> + Send + Sync>;

/// The API servers.
pub(super) struct Servers {
    list: RwLock<Listed>,
    current: AtomicUsize,
    renew: Option<Renew>,
    renewed_at: Mutex<Option<Instant>>,
}

#[derive(Clone)]
struct Listed {
    clients: Clients,
    /// How often the configuration was read.
    generation: u32,
}

impl std::fmt::Debug for Servers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.urls()).finish()
    }
}

impl Servers {
    /// With the URL of each. There must be at least one. `renew` reads the configuration again, where that can say anything new.
    pub(super) fn new(clients: Clients, renew: Option<Renew>) -> Arc<Self> {
        assert!(!clients.is_empty(), "at least one API server");
        let list = RwLock::new(Listed { clients, generation: 1 });
        Arc::new(Self { list, current: AtomicUsize::new(0), renew, renewed_at: Mutex::default() })
    }

    pub(super) fn urls(&self) -> Vec<Arc<str>> {
        self.listed().clients.into_iter().map(|(url, _)| url).collect()
    }

    /// A panic elsewhere leaves the list whole.
    fn listed(&self) -> Listed {
        self.list.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Moves on from server `failed`, unless somebody else has done so already.
    fn leave(&self, failed: usize) {
        let urls = self.urls();
        let next = (failed + 1) % urls.len();
        if self.current.compare_exchange(failed, next, Ordering::Relaxed, Ordering::Relaxed).is_ok() && next != failed {
            tracing::debug!("moving from API server {} to {}", urls[failed], urls[next]);
        }
    }

    /// The credentials of that generation are not accepted. Says whether there are newer ones.
    async fn renew(&self, generation: u32) -> bool {
        let Some(renew) = &self.renew else { return false };
        let mut renewed_at = self.renewed_at.lock().await;
        if self.listed().generation != generation {
            return true;
        }
        if renewed_at.is_some_and(|at| at.elapsed() < RENEW_AFTER) {
            return false;
        }
        *renewed_at = Some(Instant::now());
        match renew().await {
            Ok(clients) if clients.len() == self.listed().clients.len() => {
                tracing::debug!("read the configuration again for other credentials");
                let list = Listed { clients, generation: generation.wrapping_add(1) };
                *self.list.write().unwrap_or_else(PoisonError::into_inner) = list;
                true
            }
            Ok(clients) => {
                tracing::warn!("the configuration has {} API servers now: start the agent anew", clients.len());
                false
            }
            Err(error) => {
                tracing::warn!("the credentials that are not accepted could not be read again: {error}");
                false
            }
        }
    }
}

/// The way of one watcher to the servers.
#[derive(Clone, Debug)]
pub(super) struct Line {
    servers: Arc<Servers>,
    /// The server that this line's last request went to.
    used: Arc<AtomicUsize>,
    answered: Arc<Notify>,
}

impl Line {
    pub(super) fn new(servers: Arc<Servers>) -> Self {
        let used = Arc::new(AtomicUsize::new(servers.current.load(Ordering::Relaxed)));
        Self { servers, used, answered: Arc::new(Notify::new()) }
    }

    /// A client whose requests go this way.
    pub(super) fn client(&self) -> Client {
        ClientBuilder::new(self.clone(), "default").build()
    }

    pub(super) fn n_servers(&self) -> usize {
        self.servers.listed().clients.len()
    }

    /// The server that the last request went to.
    pub(super) fn url(&self) -> Arc<str> {
        let urls = self.servers.urls();
        urls[self.used.load(Ordering::Relaxed) % urls.len()].clone()
    }

    /// Returns when a request has been answered with success since the last call.
    pub(super) async fn answered(&self) {
        self.answered.notified().await;
    }

    /// What the server sent last was no good: the next request goes to another one.
    pub(super) fn leave_server(&self) {
        self.servers.leave(self.used.load(Ordering::Relaxed));
    }

    /// Tries each server once, the current one first.
    async fn send(self, request: Request<Body>) -> Result<Response<Body>, BoxError> {
        // Watches and lists have no body.
        let (parts, _) = request.into_parts();
        let (mut tried, mut renewed) = (0, false);
        loop {
            let index = self.servers.current.load(Ordering::Relaxed);
            self.used.store(index, Ordering::Relaxed);
            let Listed { clients, generation } = self.servers.listed();
            let (_, client) = &clients[index];
            let request = Request::from_parts(parts.clone(), Body::empty());
            let result: Result<Response<Body>, BoxError> =
                match tokio::time::timeout(ANSWER_TIMEOUT, client.send(request)).await {
                    Ok(Ok(response)) => Ok(response),
                    Ok(Err(error)) => Err(error.into()),
                    Err(_) => Err(format!("no answer for {} s", ANSWER_TIMEOUT.as_secs()).into()),
                };
            let is_refused = matches!(&result, Ok(response) if response.status() == StatusCode::UNAUTHORIZED);
            if is_refused && !renewed && self.servers.renew(generation).await {
                renewed = true;
                continue;
            }
            tried += 1;
            match result {
                Ok(response) if !is_server_trouble(response.status()) => {
                    if response.status().is_success() {
                        self.answered.notify_one();
                    }
                    return Ok(response);
                }
                result => {
                    self.servers.leave(index);
                    if tried >= clients.len() {
                        return result;
                    }
                }
            }
        }
    }
}

impl Service<Request<Body>> for Line {
    type Response = Response<Body>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        Box::pin(self.clone().send(request))
    }
}

/// Another server may do better, and nobody need know. Refusals (401, 403) are for the follower, which tells them before it
/// goes on to the next server; requests to slow down (429) as well.
fn is_server_trouble(status: StatusCode) -> bool {
    matches!(
        status,
        StatusCode::INTERNAL_SERVER_ERROR
            | StatusCode::BAD_GATEWAY
            | StatusCode::SERVICE_UNAVAILABLE
            | StatusCode::GATEWAY_TIMEOUT
    )
}
