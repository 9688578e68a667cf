//! `cargo xtask test`: every test there is, in the order of what is quickest to fail. Installs and builds what they
//! need. All stages run even when one fails; the summary at the end names those that did.

use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::agent::{self, host_cargo};
use crate::components;
use crate::ebpf;
use crate::flags::{FuzzFlags, Profile, TestFlags};
use crate::fuzz;
use crate::kernels;
use crate::packages::{self, Program};
use crate::process::{find, root_prefix, run, say};
use crate::workspace::Workspace;

/// What the tests call besides what this workspace builds.
pub(crate) const PROGRAMS: [Program; 11] = [
    Program { name: "ip", package: "iproute2", why: "network namespaces and the overlay between test nodes" },
    Program { name: "nft", package: "nftables", why: "tests that netfilter is out of the path" },
    Program { name: "iptables", package: "iptables", why: "kube-proxy as a peer to compare with" },
    Program {
        name: "conntrack",
        package: "conntrack",
        why: "tests that no connection is tracked for a Service address",
    },
    Program { name: "bpftool", package: "bpftool", why: "tests that map dumps show named fields" },
    Program { name: "ethtool", package: "ethtool", why: "tests with checksums in each packet" },
    Program { name: "curl", package: "curl", why: "a client of the tests and of the walkthroughs" },
    Program { name: "iperf3", package: "iperf3", why: "a client of the tests, and its server" },
    Program { name: "dig", package: "bind9-dnsutils", why: "a client of the tests" },
    Program { name: "ping", package: "iputils-ping", why: "a client of the tests" },
    Program { name: "git", package: "git", why: "some Go modules of the Kubernetes components are fetched with it" },
];

/// One stage's name, and what it does.
type Stage<'a> = (&'static str, Box<dyn Fn() -> Result<()> + 'a>);

pub(crate) fn run_all(ws: &Workspace, flags: &TestFlags) -> Result<ExitCode> {
    let filter = flags.filter.as_deref();
    let mut stages: Vec<Stage<'_>> =
        vec![("build", Box::new(|| build(ws))), ("host tests", Box::new(move || host_tests(ws, filter)))];
    if filter.is_none() {
        stages.push(("format", Box::new(|| format(ws))));
        stages.push(("lints", Box::new(|| lints(ws))));
        stages.push(("fuzzing", Box::new(|| fuzz::run_task(ws, &FuzzFlags { target: None, seconds: fuzz::SECONDS }))));
    }
    // Before the root tests, so that the minutes of building them count as nobody's test; a stage of its own, so that
    // only the tests that need them fail where they cannot be built (no Go, say).
    stages.push(("components", Box::new(|| components::ensure(ws, Profile::Debug).map(drop))));
    stages.push(("root tests", Box::new(move || root_tests(ws, filter))));
    // The virtual machines run this machine's binaries, and there are such kernels to be had for this architecture.
    if filter.is_none() && cfg!(target_arch = "x86_64") {
        stages.push(("kernels", Box::new(|| kernels::test_oldest_and_newest(ws))));
    }
    let outcomes: Vec<Outcome> = stages.into_iter().map(|(name, stage)| perform(name, &*stage)).collect();
    summarise(&outcomes);
    let failed = outcomes.iter().any(|outcome| outcome.error.is_some());
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

struct Outcome {
    name: &'static str,
    took: Duration,
    error: Option<anyhow::Error>,
}

fn perform(name: &'static str, stage: &dyn Fn() -> Result<()>) -> Outcome {
    say(&format!("== {name}"));
    let start = Instant::now();
    let error = stage().err();
    if let Some(error) = &error {
        say(&format!("{name}: {error:#}"));
    }
    Outcome { name, took: start.elapsed(), error }
}

fn summarise(outcomes: &[Outcome]) {
    say("== summary");
    for Outcome { name, took, error } in outcomes {
        let verdict = error.as_ref().map_or_else(|| "ok".to_owned(), |error| format!("FAILED: {error:#}"));
        say(&format!("{name:<12} {:>5} s  {verdict}", took.as_secs()));
    }
}

fn build(ws: &Workspace) -> Result<()> {
    packages::ensure_programs(&PROGRAMS)?;
    agent::build(ws, Profile::Debug)?;
    ebpf::build_other(ws)
}

fn host_tests(ws: &Workspace, filter: Option<&str>) -> Result<()> {
    run(host_cargo(ws, "test").arg("--no-fail-fast").args(filter)).context("see the failures above")
}

fn format(ws: &Workspace) -> Result<()> {
    ensure_component("rustfmt", "cargo-fmt")?;
    run(host_cargo(ws, "fmt").args(["--all", "--check"])).context("`cargo fmt --all` mends it")?;
    let fuzz = ["--manifest-path", "fuzz/Cargo.toml", "--check"];
    run(host_cargo(ws, "fmt").args(fuzz)).context("`cargo fmt --manifest-path fuzz/Cargo.toml` mends it")
}

fn lints(ws: &Workspace) -> Result<()> {
    ensure_component("clippy", "cargo-clippy")?;
    let all = ["--workspace", "--exclude", "lb-ebpf", "--all-targets", "--", "-D", "warnings"];
    run(host_cargo(ws, "clippy").args(all))?;
    // The kernel programs are checked for the host, where clippy has a core library; `panic = "abort"` of the profile
    // lets a program without std pass there. Their own build says what only the BPF target shows.
    let kernel = ["--package", "lb-ebpf", "--profile", "bpf", "--", "-D", "warnings"];
    run(host_cargo(ws, "clippy").args(kernel))?;
    fuzz::lint(ws)
}

/// rustup's minimal profile comes without rustfmt and clippy.
fn ensure_component(component: &str, program: &str) -> Result<()> {
    let works = find(program).is_some_and(|program| {
        Command::new(program).arg("--version").output().is_ok_and(|output| output.status.success())
    });
    if works {
        return Ok(());
    }
    say(&format!("installing rustup's component {component}: a stage of the tests"));
    run(Command::new("rustup").args(["component", "add", component]))
        .with_context(|| format!("{program} is missing: install it with your Rust toolchain"))
}

/// Compiled as whoever calls, run as root.
fn root_tests(ws: &Workspace, filter: Option<&str>) -> Result<()> {
    // Again, at no cost: the host tests have left an agent there that is built with their features.
    agent::build(ws, Profile::Debug)?;
    let path = components::path(ws);
    let mut command = host_cargo(ws, "test");
    command.args(["--package", "lb-tests", "--no-fail-fast"]);
    let prefix = root_prefix(&path, "this part of the tests")?;
    if !prefix.is_empty() {
        command.arg("--config").arg(format!("target.'cfg(unix)'.runner = {prefix:?}"));
    }
    run(command.args(filter).env("PATH", &path)).context("see the failures above")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;
    use std::path::Path;

    use super::*;

    /// They come with a program of the list, or with every system.
    const COMPANIONS: [&str; 6] = ["tc", "ss", "bridge", "go", "unshare", "true"];

    /// The words right after these calls, in every source below a directory.
    fn called(directory: &Path, found: &mut BTreeSet<String>) {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                called(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text: String = fs::read_to_string(&path).unwrap().split_whitespace().collect();
                for call in [".output(\"", ".command(\"", "Command::new(\""] {
                    let words = text.split(call).skip(1).filter_map(|rest| rest.split('"').next());
                    found.extend(words.map(str::to_owned));
                }
            }
        }
    }

    #[test]
    fn whatever_program_the_tests_call_is_installed_first() {
        let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests");
        let mut found = BTreeSet::new();
        called(&tests.join("src"), &mut found);
        called(&tests.join("tests"), &mut found);
        assert!(found.contains("ip") && found.contains("curl"), "{found:?}");
        let known: BTreeSet<&str> = PROGRAMS.iter().map(|program| program.name).chain(COMPANIONS).collect();
        let unknown: Vec<_> = found.iter().filter(|name| !known.contains(name.as_str())).collect();
        assert!(unknown.is_empty(), "a bare machine may lack {unknown:?}");
    }
}
