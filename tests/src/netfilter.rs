//! What netfilter has seen in a namespace: the counters of a table of ours, and its connections.

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::NetNs;

/// How many packets a counter of the table `inet watch` has seen.
///
/// # Errors
/// There is no such counter.
pub fn packets(netns: &NetNs, counter: &str) -> Result<u64> {
    let text = netns.output("nft", &["-j", "list", "counter", "inet", "watch", counter])?;
    let answer: Value = serde_json::from_str(&text).context("nft wrote no JSON")?;
    let objects = answer["nftables"].as_array().context("no list of objects")?;
    let found = objects.iter().find_map(|object| object["counter"]["packets"].as_u64());
    found.with_context(|| format!("no counter {counter} in {text}"))
}

/// All connections of both families, as `conntrack -L` writes them.
///
/// # Errors
/// conntrack(8) fails.
pub fn conntrack(netns: &NetNs) -> Result<String> {
    let families = ["ipv4", "ipv6"].map(|family| netns.output("conntrack", &["-L", "-f", family]));
    Ok(families.into_iter().collect::<Result<Vec<_>>>()?.concat())
}
