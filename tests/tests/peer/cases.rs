//! Every case in `cases/`, on one pair of islands.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use lb_tests::peer::{Case, Rig, Table};

#[test]
fn every_case_meets_the_same_with_the_agent_as_with_kube_proxy() -> Result<()> {
    let filter = std::env::var("LB_PEER_CASES").ok();
    let mut cases = Case::read_all(&directory())?;
    cases.retain(|case| filter.as_ref().is_none_or(|text| case.name.contains(text)));
    let mut table = table()?;
    let mut problems = Rig::start()?.run(&cases, &mut table)?;
    if filter.is_none() {
        problems.extend(table.unmet().into_iter().map(|rule| format!("listed, but not met any more: {rule}")));
    }
    assert!(problems.is_empty(), "{} problems in {} cases:\n{}", problems.len(), cases.len(), problems.join("\n"));
    Ok(())
}

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/peer/cases")
}

fn table() -> Result<Table> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/differences.md");
    let text = std::fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
    Table::parse(&text)
}
