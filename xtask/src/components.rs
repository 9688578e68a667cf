//! Kubernetes' own programs, for tests and benchmark: has them built, and says where they are. Which ones there are, and
//! how each is built, is `lb_tests::components`' business.

use std::env;
use std::ffi::OsString;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use crate::agent::host_cargo;
use crate::flags::Profile;
use crate::packages::{self, Package};
use crate::process::{find, run};
use crate::workspace::Workspace;

/// Builds the programs of the tests package and has those build the components: here, so that their minutes do not count
/// as a test's. Returns the PATH to run tests with.
pub(crate) fn ensure(ws: &Workspace, profile: Profile) -> Result<OsString> {
    let mut build = host_cargo(ws, "build");
    build.args(["--package", "lb-tests", "--bins"]);
    if profile == Profile::Release {
        build.arg("--release");
    }
    run(&mut build)?;
    let path = path_with_etcd(ws)?;
    run(Command::new(ws.binary(profile, "lb-components")).args(["ensure", "all"]).env("PATH", &path))
        .context("build the Kubernetes components")?;
    Ok(path)
}

/// The PATH to run tests with that need root, as far as it can be had: whoever lacks etcd then says so.
pub(crate) fn path(ws: &Workspace) -> OsString {
    path_with_etcd(ws).unwrap_or_else(|_| env::var_os("PATH").unwrap_or_default())
}

/// The tests take etcd from PATH.
fn path_with_etcd(ws: &Workspace) -> Result<OsString> {
    let path = env::var_os("PATH").unwrap_or_default();
    let in_assets = env::var_os("KUBEBUILDER_ASSETS").is_some_and(|dir| Path::new(&dir).join("etcd").is_file());
    if in_assets || find("etcd").is_some() {
        return Ok(path);
    }
    let root = ws.target().join("components/etcd-server");
    let directory = root.join("usr/bin");
    if !directory.join("etcd").is_file() {
        packages::unpack(&Package::new("etcd-server", "tests with a real API server"), &root)?;
    }
    env::join_paths([directory].into_iter().chain(env::split_paths(&path))).context("put etcd into PATH")
}
