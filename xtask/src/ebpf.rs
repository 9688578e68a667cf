//! `cargo xtask ebpf`: compiles the kernel programs and puts the object where the agent's build looks for it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::process::run;
use crate::toolchain::{self, TARGET};
use crate::workspace::Workspace;

/// How the optimiser is told to compile the other build, instead of what the profile says.
const OTHER_OPT_LEVEL: &str = "2";

/// Compiles; returns the object's path.
pub(crate) fn build(ws: &Workspace) -> Result<PathBuf> {
    let toolchain = toolchain::ensure(ws)?;
    toolchain.announce();
    let object = ws.ebpf_object();
    compile(toolchain.cargo(ws, "build", &ws.ebpf_target()), &ws.ebpf_target(), &object)?;
    Ok(object)
}

/// Compiles the same programs to other instructions: what tests take for another build that has the same layout of the maps.
pub(crate) fn build_other(ws: &Workspace) -> Result<()> {
    let target = ws.other_ebpf_target();
    let mut cargo = toolchain::ensure(ws)?.cargo(ws, "build", &target);
    cargo.env("CARGO_PROFILE_BPF_OPT_LEVEL", OTHER_OPT_LEVEL);
    compile(cargo, &target, &ws.other_ebpf_object())
}

fn compile(mut cargo: Command, target: &Path, object: &Path) -> Result<()> {
    run(cargo.args(["--package", "lb-ebpf", "--profile", "bpf"])).context("compile the kernel programs")?;
    let built = target.join(TARGET).join("bpf/lb-ebpf");
    copy_if_changed(&built, object).with_context(|| format!("copy {} to {}", built.display(), object.display()))
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
