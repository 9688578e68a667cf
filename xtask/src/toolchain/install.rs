//! Fetches and builds what the BPF toolchain lacks, one step at a time. Decides nothing.

use std::process::Command;

use anyhow::{Context, Result};

use super::choose::Step;
use super::detect;
use crate::packages::{self, Package};
use crate::process::{cargo, run, say};
use crate::workspace::Workspace;

/// The linker this project is tested with.
const LINKER_VERSION: &str = "0.13.0";

pub(crate) fn perform(ws: &Workspace, step: &Step) -> Result<()> {
    match step {
        Step::UpdatePackageLists => {
            packages::update()?;
            detect::note_lists_updated();
            Ok(())
        }
        Step::DebianCompiler => packages::install(&[
            Package::new("rustc-web", "a Rust compiler that knows the BPF target"),
            Package::new(detect::DEBIAN_CORE, "Rust's core library, compiled for BPF"),
        ]),
        Step::DebianLlvm(llvm) => packages::install(&[
            Package::new(format!("llvm-{llvm}-dev"), "the LLVM of that compiler, to build bpf-linker against"),
            Package::new(format!("libpolly-{llvm}-dev"), "part of LLVM"),
            Package::new("zlib1g-dev", "LLVM links against it"),
            Package::new("libzstd-dev", "LLVM links against it"),
            Package::new("libxml2-dev", "LLVM links against it"),
            Package::new("g++", "LLVM's C++ standard library"),
        ]),
        Step::BuildLinker(llvm) => build_linker(ws, *llvm),
        Step::NightlyWithSource => {
            say("installing rustup's nightly with rust-src: core is compiled for BPF from it");
            run(Command::new("rustup").args([
                "toolchain",
                "install",
                "nightly",
                "--profile",
                "minimal",
                "--component",
                "rust-src",
            ]))
        }
    }
}

fn build_linker(ws: &Workspace, llvm: u32) -> Result<()> {
    say(&format!("building bpf-linker {LINKER_VERSION} once below target/: links BPF programs (about two minutes)"));
    let prefix = detect::llvm_prefix(llvm);
    let mut command = cargo();
    command
        .args(["install", "bpf-linker", "--locked", "--version", LINKER_VERSION, "--no-default-features", "--features"])
        .arg(format!("llvm-{llvm}"))
        .arg("--root")
        .arg(ws.linker_root())
        .arg("--target-dir")
        .arg(ws.linker_root().join("build"))
        .env("LLVM_PREFIX", &prefix)
        // llvm-sys names its variable after its own version: 221 for LLVM 22.1.
        .env(format!("LLVM_SYS_{llvm}1_PREFIX"), &prefix)
        .env_remove("CARGO_TARGET_DIR")
        .current_dir(ws.target());
    run(&mut command).context("could not build bpf-linker: is there a network for crates.io?")?;
    // A hundred megabytes that nothing reads again.
    let build = ws.linker_root().join("build");
    std::fs::remove_dir_all(&build).with_context(|| format!("remove {}", build.display()))
}
