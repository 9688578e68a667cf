//! What an error of kube's watcher means for the agent, and what to tell its operator.

use std::{error::Error, io, iter};

use kube::{core::Status, runtime::watcher};

use super::kind::Watched as _;
use crate::event::Pod;

/// What is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trouble {
    /// The server forgot where the watch was (410): a new list follows by itself.
    Expired,
    /// The server cannot send lists as streams, or not to this watcher.
    NoStreamingLists,
    /// The server does not know us (401).
    Unauthorized,
    /// The server knows us and does not let us (403).
    Forbidden,
    /// Nobody answers at the server's address.
    Unreachable,
    /// Anything else: the server is broken or says something odd. Goes over, or not, by itself.
    Failed,
}

impl Trouble {
    /// Sorts an error. `streaming_list` tells whether it answers the request for a streaming list.
    pub(super) fn of(error: &watcher::Error, streaming_list: bool) -> Self {
        let Some(status) = status(error) else {
            return if is_unreachable(error) { Self::Unreachable } else { Self::Failed };
        };
        match status.code {
            401 => Self::Unauthorized,
            403 => Self::Forbidden,
            410 => Self::Expired,
            // Servers say it in many ways: 422 where the feature is off, 400 before 1.27, 500 within the stream where etcd is
            // too old for it ("the required storage feature RequestWatchProgress is disabled"). So whatever the answer is,
            // a list in pages is tried next, as client-go does it; only being asked to slow down (429) says nothing.
            code if streaming_list && code != 429 => Self::NoStreamingLists,
            _ => Self::Failed,
        }
    }

    /// One line for the operator: `resource` is what was asked for, `credentials` where the agent's come from. The same for
    /// every resource where the server is the trouble.
    pub(super) fn text(self, error: &watcher::Error, url: &str, resource: &str, credentials: &str) -> String {
        let said = status(error).map(|status| status.message.clone()).unwrap_or_default();
        match self {
            Self::Unauthorized => format!(
                "API server {url} does not accept the credentials of {credentials} (401 {said}); renew them. Trying again"
            ),
            Self::Forbidden if resource == Pod::RESOURCE => format!(
                "API server {url} refuses to list and watch {resource} (403 {said}); grant that to that user, or turn it off with \
                 --socket-lb-exclude-annotated false. Trying again"
            ),
            Self::Forbidden => format!(
                "API server {url} refuses to list and watch {resource} (403 {said}); grant list and watch on \
                 services, nodes and endpointslices.discovery.k8s.io to that user. Trying again"
            ),
            Self::Unreachable => format!(
                "API server {url}: {}; see that it runs and that this is its address (--api-servers, else the server in \
                 {credentials}). Trying again, with the last state in force",
                cause(error)
            ),
            Self::Expired | Self::NoStreamingLists | Self::Failed => {
                format!("API server {url}: {resource}: {}. Trying again, with the last state in force", chain(error))
            }
        }
    }
}

fn status(error: &watcher::Error) -> Option<&Status> {
    match error {
        watcher::Error::WatchError(status) => Some(status),
        watcher::Error::InitialListFailed(error)
        | watcher::Error::WatchStartFailed(error)
        | watcher::Error::WatchFailed(error) => match error {
            kube::Error::Api(status) => Some(status),
            _ => None,
        },
        watcher::Error::NoResourceVersion => None,
    }
}

/// Whether a request did not get as far as to the server.
fn is_unreachable(error: &watcher::Error) -> bool {
    use io::ErrorKind::{ConnectionRefused, ConnectionReset, HostUnreachable, NetworkUnreachable, TimedOut};
    if !matches!(error, watcher::Error::InitialListFailed(_) | watcher::Error::WatchStartFailed(_)) {
        return false;
    }
    let kinds = [ConnectionRefused, ConnectionReset, HostUnreachable, NetworkUnreachable, TimedOut];
    let io = causes(error).find_map(|cause| cause.downcast_ref::<io::Error>());
    io.is_some_and(|io| kinds.contains(&io.kind()))
}

/// The innermost cause.
fn cause(error: &watcher::Error) -> String {
    causes(error).last().map_or_else(|| error.to_string(), ToString::to_string)
}

/// From the outermost to the innermost.
fn causes(error: &watcher::Error) -> impl Iterator<Item = &(dyn Error + 'static)> {
    iter::successors(error.source(), |cause| (*cause).source())
}

/// What a server said, or else the error and its causes.
fn chain(error: &watcher::Error) -> String {
    status(error).map_or_else(|| one_line(error), |status| format!("{} {}", status.code, status.message))
}

/// An error and its causes on one line, each thing said once: many repeat their cause in their own text.
pub(super) fn one_line(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.contains(&next) {
            text = format!("{text}: {next}");
        }
        cause = error.source();
    }
    text.lines().collect::<Vec<_>>().join(" ")
}
