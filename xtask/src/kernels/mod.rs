//! `cargo xtask kernels`: the same binaries and ordinary tests, on other kernels than this machine's. Each is Debian's, in a
//! virtual machine without KVM, whose times mean nothing.

mod debian;
mod initramfs;
mod machine;

use std::num::NonZero;
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::thread;

use anyhow::{Context, Result, bail};
use clap::builder::PossibleValuesParser;
use serde_json::Value;

use crate::agent::{self, host_cargo};
use crate::flags::{KernelsFlags, Profile};
use crate::packages::{self, Program};
use crate::process::say;
use crate::workspace::Workspace;
use debian::{KERNELS, Kernel};
use initramfs::Initramfs;
use machine::Machine;

/// The tests that are meant for other kernels.
pub(crate) const TARGET: &str = "kernels";

const PROGRAMS: [Program; 7] = [
    Program {
        name: "qemu-system-x86_64",
        package: "qemu-system-x86",
        why: "tests on other kernels than this machine's",
    },
    Program { name: "busybox", package: "busybox-static", why: "what those kernels start from" },
    Program { name: "modprobe", package: "kmod", why: "which modules those kernels need" },
    Program { name: "xz", package: "xz-utils", why: "unpacking those modules" },
    Program { name: "zstd", package: "zstd", why: "unpacking those modules" },
    Program { name: "strip", package: "binutils", why: "small programs for those kernels" },
    Program { name: "ip", package: "iproute2", why: "network namespaces on those kernels" },
];

/// What the tests use beside a kernel's core. Those that a kernel has built in are no modules there.
const MODULES: [&str; 9] =
    ["veth", "bridge", "vxlan", "8021q", "sch_ingress", "cls_bpf", "inet_diag", "tcp_diag", "udp_diag"];

/// Where the binaries are inside: as below target/, where the tests look for one another.
const INSIDE: &str = "lb/target";

/// The names that the command line takes.
pub(crate) fn versions() -> PossibleValuesParser {
    PossibleValuesParser::new(KERNELS.map(|kernel| kernel.name))
}

/// What is part of every test run: the oldest kernel that is supported and the newest there is, side by side. Those between take
/// minutes more.
pub(crate) fn test_oldest_and_newest(ws: &Workspace) -> Result<()> {
    let ends = KERNELS.first().into_iter().chain(KERNELS.last());
    let versions = ends.map(|kernel| kernel.name.to_owned()).collect();
    run_task(ws, &KernelsFlags { versions, test: TARGET.to_owned(), args: Vec::new() })
}

pub(crate) fn run_task(ws: &Workspace, flags: &KernelsFlags) -> Result<()> {
    if std::env::consts::ARCH != "x86_64" {
        bail!(
            "the virtual machines run this machine's binaries on Debian's amd64 kernels: that takes an x86_64 machine"
        );
    }
    packages::ensure_programs(&PROGRAMS)?;
    let test = build(ws, &flags.test)?;
    let is_wanted =
        |kernel: &&Kernel| flags.versions.is_empty() || flags.versions.iter().any(|name| name == kernel.name);
    let machines = KERNELS.iter().filter(is_wanted).map(|kernel| Machine::prepare(ws, kernel, &test, &flags.args));
    let machines = machines.collect::<Result<Vec<_>>>()?;
    // Each has one processor.
    let at_a_time = thread::available_parallelism().map_or(1, NonZero::get);
    let failures: Vec<String> = machines.chunks(at_a_time).flat_map(boot_all).collect();
    if failures.is_empty() { Ok(()) } else { bail!("{}", failures.join("; ")) }
}

/// Boots them side by side; what went wrong.
fn boot_all(machines: &[Machine]) -> Vec<String> {
    thread::scope(|scope| {
        let running: Vec<_> = machines.iter().map(|machine| scope.spawn(|| machine.boot())).collect();
        let ended =
            running.into_iter().filter_map(|machine| machine.join().unwrap_or_else(|panic| resume_unwind(panic)).err());
        ended.map(|error| format!("{error:#}")).collect()
    })
}

/// Builds the agent and a test of lb-tests; the test's path.
fn build(ws: &Workspace, target: &str) -> Result<PathBuf> {
    let mut cargo = host_cargo(ws, "test");
    cargo.args(["--package", "lb-tests", "--test", target, "--no-run", "--message-format", "json-render-diagnostics"]);
    let built = cargo.stdin(Stdio::null()).stderr(Stdio::inherit()).output().context("start cargo")?;
    if !built.status.success() {
        bail!("could not build the test {target}");
    }
    let messages = String::from_utf8(built.stdout).context("what cargo says")?;
    let test = executable(&messages, target).with_context(|| format!("cargo built no test {target}"))?;
    // Last: the tests' build has left an agent there that is built with their features.
    agent::build(ws, Profile::Debug)?;
    Ok(test)
}

/// Where cargo's messages (one JSON object a line) say that it put a test.
fn executable(messages: &str, target: &str) -> Option<PathBuf> {
    let messages = messages.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let mut tests =
        messages.filter(|message| message["target"]["name"] == target && message["profile"]["test"] == true);
    tests.find_map(|message| message["executable"].as_str().map(PathBuf::from))
}

/// The root file system but for the modules.
fn fill(root: &Initramfs, ws: &Workspace, test: &Path, args: &[String]) -> Result<()> {
    for name in ["ip", "bridge"] {
        root.program_of_this_machine(name, &format!("usr/local/bin/{name}"))?;
    }
    let inside = |name: &str| Path::new(INSIDE).join(name);
    for name in ["lb-agent", "lb-guest"] {
        root.program(&ws.binary(Profile::Debug, name), &inside("debug").join(name))?;
    }
    root.program(test, &inside("debug/deps/test"))?;
    root.copy(&ws.ebpf_object(), &inside("bpf/lb-ebpf.o"))?;
    root.script(&format!("{INSIDE}/CACHEDIR.TAG"), "")?;
    // One at a time, since one processor does the work of both. What other machines' kernels may lack is there.
    let args: Vec<String> = args.iter().map(|arg| format!(" '{arg}'")).collect();
    let tests = format!(
        "#!/bin/sh\nexec /{INSIDE}/debug/deps/test --test-threads=1 --nocapture --include-ignored{}\n",
        args.concat()
    );
    root.script("tests.sh", &tests)
}

impl Machine {
    /// Fetches the kernel and writes what it starts from.
    fn prepare(ws: &Workspace, kernel: &Kernel, test: &Path, args: &[String]) -> Result<Self> {
        let files = kernel.ensure(ws)?;
        say(&format!("Linux {} is {}", kernel.name, files.release));
        let directory = ws.target().join("kernels");
        let root = Initramfs::new(directory.join(format!("{}.root", kernel.name)))?;
        fill(&root, ws, test, args)?;
        root.modules(&files.modules(&MODULES)?)?;
        let initramfs = directory.join(format!("{}.cpio", kernel.name));
        root.write(&initramfs)?;
        Ok(Self { name: kernel.name, kernel: files.image, initramfs })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tests_path_is_read_from_cargos_messages() {
        let messages = r#"{"reason":"compiler-artifact","target":{"name":"lb_tests"},"profile":{"test":false},"executable":null}
{"reason":"compiler-artifact","target":{"name":"kernels"},"profile":{"test":true},"executable":"/t/debug/deps/kernels-0a"}
{"reason":"build-finished","success":true}"#;
        assert_eq!(executable(messages, "kernels"), Some("/t/debug/deps/kernels-0a".into()));
        assert_eq!(executable(messages, "outside"), None);
    }
}
