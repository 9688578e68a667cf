//! How a command ends when it cannot do its work: one line, and an exit status that a unit file or script can act upon.

use std::fmt;

/// Exit statuses; the numbers are those of sysexits.h where it has one that fits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Something unexpected.
    Unexpected,
    /// The command line is wrong. The same number as clap's own errors.
    Usage,
    /// Something that is needed is not there (EX_UNAVAILABLE).
    Unavailable,
    /// A permission or capability is missing (EX_NOPERM).
    Denied,
    /// The configuration is wrong (EX_CONFIG).
    Config,
}

impl Exit {
    /// The number.
    pub const fn code(self) -> u8 {
        match self {
            Self::Unexpected => 1,
            Self::Usage => 2,
            Self::Unavailable => 69,
            Self::Denied => 77,
            Self::Config => 78,
        }
    }
}

/// Why a command ended, with its exit status.
#[derive(Debug)]
pub struct Failure {
    /// The exit status.
    pub exit: Exit,
    /// What to say, causes included.
    pub error: anyhow::Error,
}

impl Failure {
    /// From its two parts.
    pub fn new(exit: Exit, error: impl Into<anyhow::Error>) -> Self {
        Self { exit, error: error.into() }
    }

    /// A wrong command line.
    pub fn usage(message: impl fmt::Display) -> Self {
        Self { exit: Exit::Usage, error: anyhow::anyhow!("{message}") }
    }
}

/// The error and its causes in one line.
impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#}", self.error)
    }
}

/// An error nobody gave an exit status.
impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self { exit: Exit::Unexpected, error }
    }
}
