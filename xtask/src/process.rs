//! Running other programs, with errors that name the program and say what it was for. Decides nothing.

use std::env;
use std::ffi::{OsStr, OsString};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

use anyhow::{Context, Result, anyhow, bail};

/// Debian keeps many of the programs that root needs out of an ordinary user's PATH.
const SYSTEM_DIRS: [&str; 3] = ["/usr/local/sbin", "/usr/sbin", "/sbin"];

/// Prints what is about to happen, so that a build log can be read without knowing this program.
pub(crate) fn say(what: &str) {
    eprintln!("xtask: {what}");
}

/// The program's path, if it is installed.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(SYSTEM_DIRS.iter().map(PathBuf::from))
        .map(|dir| dir.join(program))
        .find(|file| is_executable(file))
}

fn is_executable(file: &Path) -> bool {
    file.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

/// Runs to the end. No standard input: a task must not wait for an answer that nobody gives.
pub(crate) fn status(command: &mut Command) -> Result<ExitStatus> {
    let program = command.get_program().to_os_string();
    command.stdin(Stdio::null()).status().with_context(|| cannot_start(&program))
}

/// Runs to the end; another exit status than 0 is an error.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = status(command)?;
    if !status.success() {
        bail!("`{}` ended with {status}", line(command));
    }
    Ok(())
}

/// Runs to the end and returns what it wrote to standard output. Its standard error is part of the message on failure.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let program = command.get_program().to_os_string();
    let out = command.stdin(Stdio::null()).output().with_context(|| cannot_start(&program))?;
    if !out.status.success() {
        bail!("`{}` ended with {}: {}", line(command), out.status, String::from_utf8_lossy(&out.stderr).trim());
    }
    String::from_utf8(out.stdout).with_context(|| format!("output of `{}`", line(command)))
}

fn cannot_start(program: &OsStr) -> String {
    format!("cannot start {}: is it installed and in PATH?", program.display())
}

fn line(command: &Command) -> String {
    let mut words = vec![command.get_program().display().to_string()];
    words.extend(command.get_args().map(|arg| arg.display().to_string()));
    words.join(" ")
}

/// Whether this process runs as root. /proc/self belongs to the effective user.
pub(crate) fn is_root() -> bool {
    Path::new("/proc/self").metadata().is_ok_and(|meta| meta.uid() == 0)
}

/// The words to put before a command that needs root: none, or sudo's. The command is to find programs in `path`, which
/// sudo would set to its own.
pub(crate) fn root_prefix(path: &OsStr, what_for: &str) -> Result<Vec<OsString>> {
    if is_root() {
        return Ok(Vec::new());
    }
    if find("sudo").is_none() {
        bail!("{what_for} needs root: run this as root, or install sudo");
    }
    let mut path_is = OsString::from("PATH=");
    path_is.push(path);
    // The environment also names the toolchain and the target directory.
    Ok(vec!["sudo".into(), "--preserve-env".into(), "env".into(), path_is])
}

/// A command that runs as root and finds programs in `path`.
pub(crate) fn as_root_in(path: &OsStr, program: impl AsRef<OsStr>, what_for: &str) -> Result<Command> {
    let mut words = root_prefix(path, what_for)?.into_iter().chain([program.as_ref().to_os_string()]);
    let mut command = Command::new(words.next().unwrap_or_default());
    command.args(words).env("PATH", path);
    Ok(command)
}

/// A command that runs as root.
pub(crate) fn as_root(program: impl AsRef<OsStr>, what_for: &str) -> Result<Command> {
    as_root_in(&env::var_os("PATH").unwrap_or_default(), program, what_for)
}

/// The cargo that started this task, so that everything is built by one toolchain.
pub(crate) fn cargo() -> Command {
    Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

/// Replaces this process, so that a Ctrl-C and the exit status are the program's own. Returns only on failure.
pub(crate) fn replace_with(command: &mut Command) -> anyhow::Error {
    let error = command.exec();
    anyhow!(error).context(cannot_start(command.get_program()))
}
