//! `cargo xtask fuzz`: coverage-guided fuzzing of the packet layer's logic, by the targets in `fuzz/`. What an input finds, it
//! finds again: the report names the file. Inputs that reached something new are kept below target/ for the next run.

use std::env;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};

use crate::agent::host_cargo;
use crate::flags::FuzzFlags;
use crate::packages::{self, Program};
use crate::process::{output, run, say};
use crate::workspace::Workspace;

/// The binaries of `fuzz/`.
pub(crate) const TARGETS: [&str; 2] = ["frames", "histories"];

/// How long each target runs as a part of all tests.
pub(crate) const SECONDS: u32 = 30;

const PROGRAMS: [Program; 1] = [Program { name: "c++", package: "g++", why: "compiling libFuzzer" }];

/// Bytes of an input: some dozen packets, or four hundred steps.
const MAX_LEN: u32 = 2_048;

/// Counters and comparisons in every branch, as cargo-fuzz has them, by flags that a stable compiler takes as well. No address
/// sanitizer, which is a nightly compiler's: what is tested here has no `unsafe`.
const FLAGS: [&str; 6] = [
    "--cfg fuzzing",
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
];

pub(crate) fn run_task(ws: &Workspace, flags: &FuzzFlags) -> Result<()> {
    packages::ensure_programs(&PROGRAMS)?;
    let binaries = build(ws)?;
    let wanted = TARGETS.into_iter().filter(|target| flags.target.as_deref().is_none_or(|name| name == *target));
    for target in wanted {
        let corpus = ws.target().join("fuzz/corpus").join(target);
        let found = ws.target().join("fuzz/found");
        for directory in [&corpus, &found] {
            fs::create_dir_all(directory).with_context(|| format!("create {}", directory.display()))?;
        }
        say(&format!("fuzzing {target} for {} s", flags.seconds));
        let mut fuzzer = Command::new(binaries.join(target));
        fuzzer
            .env("LB_FUZZ_SEEDS", ws.target().join("fuzz/corpus/frames"))
            .arg(&corpus)
            .arg(format!("-max_total_time={}", flags.seconds))
            .arg(format!("-max_len={MAX_LEN}"))
            .arg(format!("-artifact_prefix={}/{target}-", found.display()))
            .args(["-timeout=60", "-print_final_stats=1", "-verbosity=0"]);
        run(&mut fuzzer).with_context(|| format!("{target}: the input is in {}", found.display()))?;
    }
    Ok(())
}

/// Clippy, which in the workspace does not see `fuzz/`. With the flags of the fuzz targets, so that libFuzzer is compiled once.
pub(crate) fn lint(ws: &Workspace) -> Result<()> {
    packages::ensure_programs(&PROGRAMS)?;
    run(cargo(ws, "clippy", &host()?).args(["--", "-D", "warnings"]))
}

/// The directory of the binaries.
fn build(ws: &Workspace) -> Result<PathBuf> {
    let host = host()?;
    run(&mut cargo(ws, "build", &host)).context("compile the fuzz targets")?;
    Ok(directory(ws).join(host).join("release"))
}

/// Cargo for the fuzz targets. For a named target: so the flags are not those of build scripts, which have no libFuzzer.
fn cargo(ws: &Workspace, subcommand: &str, host: &str) -> Command {
    let mut cargo = host_cargo(ws, subcommand);
    cargo
        .args(["--manifest-path", "fuzz/Cargo.toml", "--release", "--locked", "--bins", "--target", host])
        .env("CARGO_TARGET_DIR", directory(ws))
        .env("RUSTFLAGS", FLAGS.join(" "));
    cargo
}

fn directory(ws: &Workspace) -> PathBuf {
    ws.target().join("fuzz")
}

/// This machine as rustc names it.
fn host() -> Result<String> {
    let rustc = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let version = output(Command::new(rustc).arg("-vV"))?;
    let host = version.lines().find_map(|line| line.strip_prefix("host: ")).context("rustc names no host")?;
    Ok(host.to_owned())
}
