//! The embedded demo of `cargo xtask run`, as a user runs it.

use std::{
    collections::BTreeSet,
    fs,
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use lb_tests::{eventually, run};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// A debug build on a busy machine, and the demo's own waiting.
const PATIENCE: Duration = Duration::from_secs(60);

fn demo(args: &[&str], manifests: &Path) -> Result<Command> {
    let mut command = Command::new(run::binary("lb-demo", "LB_DEMO_BIN")?);
    command.args(args).arg("--manifests").arg(manifests);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit());
    Ok(command)
}

/// A demo that keeps running, and what it prints. Killed if the test fails; its janitor cleans up then.
struct Running {
    child: Child,
    lines: mpsc::Receiver<String>,
}

impl Running {
    fn start(manifests: &Path) -> Result<Self> {
        let mut child = demo(&[], manifests)?.spawn().context("start the demo")?;
        let stdout = BufReader::new(child.stdout.take().context("no pipe from the demo")?);
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || stdout.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        Ok(Self { child, lines })
    }

    /// The next line that begins with "now answering", skipping others.
    fn next_change(&self) -> Result<String> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let line = self.lines.recv_timeout(left).context("the demo tells no change")?;
            if line.starts_with("now answering") {
                return Ok(line);
            }
        }
    }

    fn interrupt(&mut self) -> Result<ExitStatus> {
        kill(Pid::from_raw(self.child.id().cast_signed()), Signal::SIGINT).context("send SIGINT to the demo")?;
        eventually("the demo to end", PATIENCE, || Ok(self.child.try_wait()?))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Err(error) = self.child.kill().and_then(|()| self.child.wait()) {
            eprintln!("cannot end the demo: {error}");
        }
    }
}

#[test]
fn demo_once_shows_the_service_and_a_dozen_answers_from_all_pods_and_leaves_nothing() -> Result<()> {
    let manifests = tempfile::tempdir()?;
    let child = demo(&["--once"], manifests.path())?.spawn()?;
    let pid = child.id();
    let Output { status, stdout, .. } = child.wait_with_output()?;
    let text = String::from_utf8(stdout)?;
    assert!(status.success(), "{status}\n{text}");
    assert!(text.lines().any(|line| line.contains("default/web") && line.contains("10.96.0.80")), "{text}");
    let answers: Vec<&str> = text.lines().filter_map(|line| line.split_once(" -> ").map(|(_, name)| name)).collect();
    assert_eq!(answers.len(), 12, "{text}");
    let pods = BTreeSet::from(["web-1", "web-2", "web-3"]);
    assert!(answers.iter().all(|name| pods.contains(name)), "{text}");
    run::wait_until_swept(pid)
}

#[test]
fn demo_follows_an_edit_of_its_manifests_and_ctrl_c_takes_everything_down() -> Result<()> {
    let manifests = tempfile::tempdir()?;
    let mut demo = Running::start(manifests.path())?;
    let line = demo.next_change()?;
    assert!(["web-1", "web-2", "web-3"].iter().all(|pod| line.contains(pod)), "{line}");

    let file = manifests.path().join("web.yaml");
    let text = fs::read_to_string(&file)?;
    let edited = text.replacen("ready: true", "ready: false", 1);
    assert_ne!(text, edited);
    // As an editor that writes in place.
    fs::write(&file, edited)?;
    let line = demo.next_change()?;
    assert!(!line.contains("web-1") && line.contains("web-2") && line.contains("web-3"), "{line}");

    // The Service without its slice: refused.
    fs::write(&file, text.split_once("---").context("two documents")?.0)?;
    let line = demo.next_change()?;
    assert!(line.contains("Connection refused") && !line.contains("web-"), "{line}");

    let pid = demo.child.id();
    let status = demo.interrupt()?;
    assert!(status.success(), "{status}");
    run::wait_until_swept(pid)
}

#[test]
fn demo_once_fails_when_no_pod_answers() -> Result<()> {
    let manifests = tempfile::tempdir()?;
    let without_endpoints = "{apiVersion: v1, kind: Service, metadata: {name: web, namespace: default}, \
                             spec: {clusterIP: 10.96.0.80, ports: [{port: 80}]}}";
    fs::write(manifests.path().join("web.yaml"), without_endpoints)?;
    let output = demo(&["--once"], manifests.path())?.output()?;
    assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stdout));
    Ok(())
}
