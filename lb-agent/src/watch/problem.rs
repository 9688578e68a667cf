//! What is wrong with an object, told so that its owner can mend it.

use std::fmt;

use crate::event::ObjectName;

/// The kinds of objects that are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Kind {
    Service,
    EndpointSlice,
    Endpoints,
    Node,
    Pod,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Service => "Service",
            Self::EndpointSlice => "EndpointSlice",
            Self::Endpoints => "Endpoints",
            Self::Node => "Node",
            Self::Pod => "Pod",
        })
    }
}

/// An object: what it is and how it is called.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Key {
    pub(super) kind: Kind,
    pub(super) name: ObjectName,
}

impl Key {
    /// A problem with the field at `field` of this object.
    pub(super) fn problem(&self, field: impl Into<String>, what: impl Into<String>) -> Problem {
        Problem { key: self.clone(), field: field.into(), what: what.into() }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            // The one kind that is in no namespace.
            Kind::Node => write!(f, "{} {}", self.kind, self.name.name),
            _ => write!(f, "{} {}", self.kind, self.name),
        }
    }
}

/// What is wrong with one field of an object.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{key}: {field}: {what}")]
pub(super) struct Problem {
    pub(super) key: Key,
    /// A path such as `spec.ports[1].port`.
    pub(super) field: String,
    pub(super) what: String,
}

/// An object that was understood, and what had to be left out of it.
#[derive(Debug)]
pub(super) struct Converted<T> {
    pub(super) object: T,
    pub(super) warnings: Vec<Problem>,
}
