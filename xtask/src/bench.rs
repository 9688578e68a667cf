//! `cargo xtask bench`: builds what the benchmark needs, optimised, and becomes `lb-bench` of the tests package.

use std::process::ExitCode;

use anyhow::Result;

use crate::agent;
use crate::components;
use crate::flags::{BenchFlags, Profile};
use crate::packages;
use crate::process::{as_root_in, replace_with};
use crate::test::PROGRAMS;
use crate::workspace::Workspace;

pub(crate) fn run(ws: &Workspace, flags: &BenchFlags) -> Result<ExitCode> {
    packages::ensure_programs(&PROGRAMS)?;
    agent::build(ws, Profile::Release)?;
    let path = components::ensure(ws, Profile::Release)?;
    let bench = ws.binary(Profile::Release, "lb-bench");
    let mut bench = as_root_in(&path, bench, "the benchmark makes network namespaces: it")?;
    Err(replace_with(bench.args(&flags.args)))
}
