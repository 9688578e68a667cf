//! What the loop says about itself, as data: the only way back from the maps to those who watch the agent.

use std::time::{Duration, Instant, SystemTime};

use crate::plan::Usage;

/// The state after some work, complete each time.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Since when the first full lists of all sources have been in the maps (each Service in them was at least tried).
    pub synced: Option<SystemTime>,
    /// When the maps were last written.
    pub updated: Option<SystemTime>,
    /// Since when the oldest change that could be in the maps is not. Changes that wait for the first full lists and
    /// Services that do not fit do not count: waiting longer or starting again would not help them.
    pub pending_since: Option<Instant>,
    /// This node is being deleted, or about to be: its Node object says so, or is gone after it was there.
    pub node_going_away: bool,
    /// What the maps hold.
    pub usage: Usage,
    /// Services whose last write failed and that will be tried again by themselves.
    pub failing: usize,
    /// Services that keep what they had because a map is full.
    pub not_fitting: usize,
    /// The first of these, and why.
    pub first_not_fitting: Option<String>,
    /// How many addresses and ports Services do not get because other Services hold them.
    pub conflicts: usize,
    /// The first of these: names both Services and the field.
    pub first_conflict: Option<String>,
    /// How many map writes failed since the start.
    pub write_errors: u64,
    /// The last error, with its object and what to do.
    pub last_error: Option<Problem>,
    /// For each change that reached the maps since the report before: how long after its event was received.
    pub latencies: Vec<Duration>,
}

/// An error and when it happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// When.
    pub at: SystemTime,
    /// One line.
    pub text: String,
}
