//! What the benchmark and its measuring client in a pod say to each other: one JSON value a line, a request for a whole
//! block of operations and one reply.

use std::net::SocketAddr;

use nix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

use crate::figure::Figure;

/// A request to the client.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Request {
    /// The addresses to use from now on, in turn.
    Addresses(Vec<SocketAddr>),
    /// Operations one after the other: [`Reply::Block`].
    Block {
        /// Which.
        figure: Figure,
        /// How many.
        ops: usize,
        /// Which address to begin with.
        first: usize,
        /// Only so many of the addresses, the first ones, or all if there are fewer.
        among: usize,
    },
    /// Wait until every address has answered once: [`Reply::At`].
    WaitForAll,
    /// Wait until new connections to an address reach the endpoint with this port: [`Reply::At`].
    WaitFor {
        /// Which address.
        address: usize,
        /// The endpoint's port.
        port: u16,
    },
}

/// A reply to a request that succeeded.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Reply {
    /// Done.
    Done,
    /// The time of one operation: the median, or the mean where only the whole block is timed.
    Block {
        /// Nanoseconds.
        ns: u64,
    },
    /// When it came true, by [`now_ns`].
    At(u64),
}

/// CLOCK_MONOTONIC in nanoseconds: the same for all processes of a machine.
pub(crate) fn now_ns() -> anyhow::Result<u64> {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC)?;
    Ok(u64::try_from(std::time::Duration::from(now).as_nanos())?)
}
