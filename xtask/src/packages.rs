//! System packages by apt: what is missing is installed, with one line that says what for. On a machine without apt
//! the missing programs are named instead.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::process::{as_root, find, output, run, say, status};

/// A package and why it is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Package {
    pub(crate) name: String,
    pub(crate) why: &'static str,
}

impl Package {
    pub(crate) fn new(name: impl Into<String>, why: &'static str) -> Self {
        Self { name: name.into(), why }
    }
}

/// A program that tests or tasks call, and the Debian package that has it.
pub(crate) struct Program {
    pub(crate) name: &'static str,
    pub(crate) package: &'static str,
    pub(crate) why: &'static str,
}

/// Installs the packages of those programs that are not found.
pub(crate) fn ensure_programs(programs: &[Program]) -> Result<()> {
    let missing: Vec<&Program> = programs.iter().filter(|program| find(program.name).is_none()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    if !has_apt() {
        let names: Vec<&str> = missing.iter().map(|program| program.name).collect();
        bail!("these programs are missing: {}. There is no apt-get here to install them with", names.join(", "));
    }
    let packages: Vec<Package> = missing.iter().map(|p| Package::new(p.package, p.why)).collect();
    install(&packages)
}

pub(crate) fn has_apt() -> bool {
    find("apt-get").is_some() && find("dpkg").is_some()
}

/// Whether apt knows a version of the package that it could install.
pub(crate) fn is_offered(package: &str) -> bool {
    // `apt-cache policy` prints "Candidate: (none)" or nothing at all for what it does not know.
    output(Command::new("apt-cache").env("LC_ALL", "C").args(["policy", package])).is_ok_and(|text| {
        text.lines()
            .any(|line| line.trim().strip_prefix("Candidate:").is_some_and(|version| version.trim() != "(none)"))
    })
}

/// Fetches the lists of packages.
pub(crate) fn update() -> Result<()> {
    say("apt-get update: the lists of packages are missing or old");
    run(&mut apt(&["update"])?)
        .context("could not fetch the lists of packages: is there a network, and are the sources in /etc/apt right?")
}

/// Installs packages; those that are there already cost nothing.
pub(crate) fn install(packages: &[Package]) -> Result<()> {
    for package in packages {
        say(&format!("installing {}: {}", package.name, package.why));
    }
    let names: Vec<&str> = packages.iter().map(|package| package.name.as_str()).collect();
    let args = [&["install", "--yes", "--no-install-recommends"], names.as_slice()].concat();
    // A bare machine has no lists, and old lists name versions that the servers no longer have: both show here.
    if status(&mut apt(&args)?)?.success() {
        return Ok(());
    }
    update()?;
    run(&mut apt(&args)?).with_context(|| format!("could not install {}", names.join(" ")))
}

/// Unpacks a package below a directory instead of installing it: for a server whose installation would start it as a
/// service of the machine. Needs no root.
pub(crate) fn unpack(package: &Package, directory: &Path) -> Result<()> {
    if !has_apt() {
        bail!("{} is missing, and there is no apt-get here to get it with: {}", package.name, package.why);
    }
    say(&format!("unpacking {} below target/: {}", package.name, package.why));
    fs::create_dir_all(directory).with_context(|| format!("create {}", directory.display()))?;
    if !is_offered(&package.name) {
        update()?;
    }
    let download = || Command::new("apt-get").args(["-qq", "download", &package.name]).current_dir(directory).status();
    let fetched = download().context("cannot start apt-get")?.success() || {
        // As in `install`: old lists.
        update()?;
        download().context("cannot start apt-get")?.success()
    };
    if !fetched {
        bail!("could not fetch the package {}: is there a network?", package.name);
    }
    unpack_archives(directory)
}

/// Unpacks every package file in a directory into it, and removes the files.
pub(crate) fn unpack_archives(directory: &Path) -> Result<()> {
    for entry in directory.read_dir().with_context(|| format!("list {}", directory.display()))? {
        let archive = entry.with_context(|| format!("list {}", directory.display()))?.path();
        if archive.extension().is_some_and(|extension| extension == "deb") {
            run(Command::new("dpkg").arg("-x").arg(&archive).arg(directory))?;
            fs::remove_file(&archive).with_context(|| format!("remove {}", archive.display()))?;
        }
    }
    Ok(())
}

fn apt(args: &[&str]) -> Result<Command> {
    // Through env, since sudo may keep variables from its command.
    let mut command = as_root("env", "installing packages")?;
    command
        .args([
            "DEBIAN_FRONTEND=noninteractive",
            "apt-get",
            "-qq",
            "-o",
            "Dpkg::Use-Pty=0",
            "-o",
            "DPkg::Lock::Timeout=300",
        ])
        .args(args);
    Ok(command)
}
