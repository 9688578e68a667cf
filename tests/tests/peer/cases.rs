//! Every case in `cases/`, on one pair of islands. `LB_PEER_CASES=TEXT` runs only those whose name contains TEXT.

use anyhow::Result;
use lb_tests::peer::{Case, Rig};

use crate::{cases_directory, one_at_a_time, table};

#[test]
fn every_case_meets_the_same_with_the_agent_as_with_kube_proxy() -> Result<()> {
    let _turn = one_at_a_time();
    let filter = std::env::var("LB_PEER_CASES").ok();
    let mut cases = Case::read_all(&cases_directory())?;
    cases.retain(|case| filter.as_ref().is_none_or(|text| case.name.contains(text)));
    let mut table = table()?;
    let mut problems = Rig::start()?.run(&cases, &mut table)?;
    if filter.is_none() {
        problems.extend(table.unmet().into_iter().map(|rule| format!("listed, but not met any more: {rule}")));
    }
    assert!(problems.is_empty(), "{} problems in {} cases:\n{}", problems.len(), cases.len(), problems.join("\n"));
    Ok(())
}
