//! What bpftool shows of maps, programs and links. Only reads.

use std::{ffi::OsStr, process::Command};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

/// What it writes as JSON when it is called with these arguments.
///
/// # Errors
/// There is no bpftool, or no such object.
pub fn shown(arguments: &[&dyn AsRef<OsStr>]) -> Result<Value> {
    let output = Command::new("bpftool").arg("-j").args(arguments).output().context("bpftool")?;
    ensure!(output.status.success(), "{}: {}", command(arguments), String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).with_context(|| format!("{} wrote no JSON", command(arguments)))
}

fn command(arguments: &[&dyn AsRef<OsStr>]) -> String {
    let words = arguments.iter().map(|argument| argument.as_ref().to_string_lossy());
    ["bpftool".into()].into_iter().chain(words).collect::<Vec<_>>().join(" ")
}
