//! Several API servers as one: requests go to the current one; when it does not answer, the next is tried at once.
//!
//! This is below kube's watcher, which therefore resumes a watch on another server where it left off on the first
//! (resource versions are those of the common etcd) instead of listing everything again.

use std::{
    sync::{
        Arc,
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
use tokio::sync::Notify;
use tower::{BoxError, Service};

/// How long a server may take until it begins to answer. Watches begin to answer at once, lists are paged.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// The API servers.
pub(super) struct Servers {
    list: Vec<(Arc<str>, Client)>,
    current: AtomicUsize,
}

impl std::fmt::Debug for Servers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.urls()).finish()
    }
}

impl Servers {
    /// With the URL of each. There must be at least one.
    pub(super) fn new(list: Vec<(Arc<str>, Client)>) -> Arc<Self> {
        assert!(!list.is_empty(), "at least one API server");
        Arc::new(Self { list, current: AtomicUsize::new(0) })
    }

    pub(super) fn urls(&self) -> impl Iterator<Item = &Arc<str>> {
        self.list.iter().map(|(url, _)| url)
    }

    /// Moves on from server `failed`, unless somebody else has done so already.
    fn leave(&self, failed: usize) {
        let next = (failed + 1) % self.list.len();
        if self.current.compare_exchange(failed, next, Ordering::Relaxed, Ordering::Relaxed).is_ok() && next != failed {
            tracing::debug!("moving from API server {} to {}", self.list[failed].0, self.list[next].0);
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
        self.servers.list.len()
    }

    /// The server that the last request went to.
    pub(super) fn url(&self) -> Arc<str> {
        let (url, _) = &self.servers.list[self.used.load(Ordering::Relaxed) % self.servers.list.len()];
        url.clone()
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
        let mut tried = 0;
        loop {
            let index = self.servers.current.load(Ordering::Relaxed);
            self.used.store(index, Ordering::Relaxed);
            let (_, client) = &self.servers.list[index];
            let request = Request::from_parts(parts.clone(), Body::empty());
            let result: Result<Response<Body>, BoxError> =
                match tokio::time::timeout(ANSWER_TIMEOUT, client.send(request)).await {
                    Ok(Ok(response)) => Ok(response),
                    Ok(Err(error)) => Err(error.into()),
                    Err(_) => Err(format!("no answer for {} s", ANSWER_TIMEOUT.as_secs()).into()),
                };
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
                    if tried >= self.servers.list.len() {
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
