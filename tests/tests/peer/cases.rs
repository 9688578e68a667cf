//! Every case in `cases/`, on one pair of islands, and those in `cases/node-port-addresses/` on another, whose proxies
//! are told other addresses for NodePorts. `LB_PEER_CASES=TEXT` runs only those whose name contains TEXT.

use anyhow::Result;
use lb_tests::peer::{Case, Rig};

use crate::{PRIMARY, cases_directory, one_at_a_time, table};

/// The node's second address and its loopback addresses, not the one of its Node object.
const RANGES: &str = "172.20.0.0/16,127.0.0.0/8";

#[test]
fn every_case_meets_the_same_with_the_agent_as_with_kube_proxy() -> Result<()> {
    let _turn = one_at_a_time();
    let filter = std::env::var("LB_PEER_CASES").ok();
    let mut table = table()?;
    let mut problems = Vec::new();
    for (node_ports, directory) in
        [(PRIMARY, cases_directory()), (RANGES, cases_directory().join("node-port-addresses"))]
    {
        let mut cases = Case::read_all(&directory)?;
        cases.retain(|case| filter.as_ref().is_none_or(|text| case.name.contains(text)));
        if !cases.is_empty() {
            problems.extend(Rig::start(node_ports)?.run(&cases, &mut table)?);
        }
    }
    if filter.is_none() {
        problems.extend(table.unmet().into_iter().map(|rule| format!("listed, but not met any more: {rule}")));
    }
    assert!(problems.is_empty(), "{} problems:\n{}", problems.len(), problems.join("\n"));
    Ok(())
}
