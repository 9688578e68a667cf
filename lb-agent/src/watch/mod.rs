//! Where Services and endpoints come from, and what is known of this node: the only place that knows Kubernetes objects and
//! clients.
//!
//! A source turns what it sees into [`Event`]s and tells how it is doing by [`SourceStatus`], both as [`Message`]s into
//! one bounded channel: when the receiver is slow, the source waits. It decides nothing about Services (that is
//! [`crate::model`]'s part) and is told nothing back.

pub mod addresses;
mod brake;
mod convert;
mod intern;
pub mod kube;
pub mod manifests;
mod object;
mod problem;

use std::{fmt, sync::Arc, time::SystemTime};

pub use self::brake::Adopted;

use crate::event::Event;

/// What a source sends.
#[derive(Clone, Debug, PartialEq)]
pub enum Message {
    /// Something about the world.
    Event(Event),
    /// Something about the source. Sent whenever it changes, whole.
    Status(SourceStatus),
}

/// How a source is doing.
#[derive(Clone, Debug, PartialEq)]
pub struct SourceStatus {
    /// What kind of source it is.
    pub kind: SourceKind,
    /// The URL of the API server in use now, or the manifest directory.
    pub location: Arc<str>,
    /// Since when the source has delivered all there is and follows its changes; `None` while it does not. Losing the
    /// API server clears it, although everything goes on with the last state.
    pub synced_since: Option<SystemTime>,
    /// The last thing that went wrong, also when it is over.
    pub last_error: Option<SourceError>,
    /// What is wrong with single objects or documents now, one line each, which names file, object and field.
    pub problems: Vec<Arc<str>>,
}

/// The kind of a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SourceKind {
    /// A Kubernetes API server.
    Kubernetes,
    /// A directory of manifests.
    Manifests,
}

impl fmt::Display for SourceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kubernetes => "kubernetes",
            Self::Manifests => "manifests",
        })
    }
}

/// An error of a source, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceError {
    /// When it happened.
    pub at: SystemTime,
    /// One line that names the thing and what to do.
    pub text: Arc<str>,
}
