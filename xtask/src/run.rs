//! `cargo xtask run`: the agent in the embedded demo, or on this machine against a cluster.

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result};

use crate::agent::{self, host_cargo};
use crate::flags::{Profile, RunFlags};
use crate::kind;
use crate::packages::{self, Program};
use crate::process::{as_root, replace_with, run, say};
use crate::workspace::Workspace;

/// What the demo calls.
const PROGRAMS: [Program; 1] =
    [Program { name: "ip", package: "iproute2", why: "links and addresses of the demo's network namespaces" }];

pub(crate) fn run_task(ws: &Workspace, flags: &RunFlags) -> Result<ExitCode> {
    if let Some(cluster) = &flags.kind {
        return kind::run_on(ws, cluster);
    }
    if let Some(kubeconfig) = &flags.kubeconfig {
        return against_cluster(ws, kubeconfig, &flags.agent);
    }
    demo(ws, flags)
}

fn demo(ws: &Workspace, flags: &RunFlags) -> Result<ExitCode> {
    packages::ensure_programs(&PROGRAMS)?;
    agent::build(ws, Profile::Debug)?;
    run(host_cargo(ws, "build").args(["--package", "lb-tests", "--bin", "lb-demo", "--bin", "lb-guest"]))
        .context("compile the demo")?;
    let mut demo = as_root(ws.binary(Profile::Debug, "lb-demo"), "the demo makes network namespaces and cgroups: it")?;
    if flags.once {
        demo.arg("--once");
    }
    if let Some(directory) = &flags.manifests {
        demo.arg("--manifests").arg(directory);
    }
    Err(replace_with(&mut demo))
}

fn against_cluster(ws: &Workspace, kubeconfig: &Path, args: &[String]) -> Result<ExitCode> {
    kubeconfig.metadata().with_context(|| format!("read {}", kubeconfig.display()))?;
    let binary = agent::build(ws, Profile::Debug)?;
    say("starting the agent; programs stay attached when it ends: `lb-agent cleanup` removes them");
    let mut agent = as_root(&binary, "attaching programs to cgroups")?;
    agent.arg("run").arg("--kubeconfig").arg(kubeconfig).args(args);
    Err(replace_with(&mut agent))
}
