//! The agent beside kube-proxy 1.36 in nftables mode, on the same API objects: what a client meets must be the same, or
//! stand in `docs/differences.md`.

mod cases;
mod health;
mod histories;

use std::{
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

use anyhow::{Context as _, Result};
use lb_tests::peer::Table;

/// `--nodeport-addresses`: those of the Node object.
const PRIMARY: &str = "primary";

/// Each test has its own control plane and islands; a machine with two cores is busy with one of them.
fn one_at_a_time() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

fn cases_directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/peer/cases")
}

fn table() -> Result<Table> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/differences.md");
    let text = std::fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
    Table::parse(&text)
}
