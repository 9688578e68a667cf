//! `cargo xtask build`: the kernel programs, then the agent with them inside.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};

use crate::ebpf;
use crate::flags::Profile;
use crate::process::{cargo, run};
use crate::workspace::Workspace;

/// Builds; returns the binary's path.
pub(crate) fn build(ws: &Workspace, profile: Profile) -> Result<PathBuf> {
    ebpf::build(ws)?;
    let mut command = host_cargo(ws, "build");
    command.args(["--package", "lb-agent", "--bin", "lb-agent"]);
    if profile == Profile::Release {
        command.arg("--release");
    }
    run(&mut command).context("compile the agent")?;
    Ok(ws.binary(profile, "lb-agent"))
}

/// Cargo for the host.
pub(crate) fn host_cargo(ws: &Workspace, subcommand: &str) -> Command {
    let mut command = cargo();
    command.arg(subcommand).current_dir(ws.root());
    command
}
