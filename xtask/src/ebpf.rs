//! `cargo xtask ebpf`: compiles the kernel programs and puts the object where the agent's build looks for it.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::process::run;
use crate::toolchain::{self, TARGET};
use crate::workspace::Workspace;

/// Compiles; returns the object's path.
pub(crate) fn build(ws: &Workspace) -> Result<PathBuf> {
    let toolchain = toolchain::ensure(ws)?;
    toolchain.announce();
    let mut cargo = toolchain.cargo(ws, "build");
    run(cargo.args(["--package", "lb-ebpf", "--profile", "bpf"])).context("compile the kernel programs")?;
    let built = ws.ebpf_target().join(TARGET).join("bpf/lb-ebpf");
    let object = ws.ebpf_object();
    copy_if_changed(&built, &object).with_context(|| format!("copy {} to {}", built.display(), object.display()))?;
    Ok(object)
}

/// The agent is compiled again when its object is newer, so an equal one stays as it is.
fn copy_if_changed(from: &Path, to: &Path) -> std::io::Result<()> {
    let new = fs::read(from)?;
    if fs::read(to).is_ok_and(|old| old == new) {
        return Ok(());
    }
    if let Some(dir) = to.parent() {
        fs::create_dir_all(dir)?;
    }
    // Renamed into place: a build that runs at the same time must not read half of it.
    let partial = to.with_extension(format!("o.{}", std::process::id()));
    fs::write(&partial, new)?;
    fs::rename(&partial, to)
}
