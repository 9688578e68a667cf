//! Nothing outlives its guard, nor a test process that is killed.

use std::{
    env, fs,
    io::{BufRead as _, BufReader},
    process::{Child, Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use lb_tests::{
    Node, cgroup, eventually,
    guest::{Proto, Traffic},
    poll::PATIENCE,
    run,
};

/// Set for the process that is to be killed: this test binary once more, with the same test.
const VICTIM: &str = "LB_TESTS_VICTIM";

#[test]
fn a_dropped_node_leaves_nothing_behind() -> Result<()> {
    let names = {
        let (node, names) = busy_node()?;
        ensure!(names.iter().all(|path| path.exists()), "not all there: {names:?}");
        drop(node);
        names
    };
    let left: Vec<_> = names.into_iter().filter(|path| path.exists()).collect();
    assert!(left.is_empty(), "left behind: {left:?}");
    Ok(())
}

#[test]
fn a_killed_test_process_leaves_nothing_behind() -> Result<()> {
    if env::var_os(VICTIM).is_some() {
        return build_and_wait();
    }
    let mut victim = Command::new(env::current_exe()?)
        .args(["--exact", "leftovers::a_killed_test_process_leaves_nothing_behind", "--nocapture"])
        .env(VICTIM, "1")
        .stdout(Stdio::piped())
        .spawn()?;
    let stdout = BufReader::new(victim.stdout.take().context("no pipe")?);
    let built = stdout.lines().map_while(Result::ok).any(|line| line.contains("built"));
    let pid = victim.id();
    let before = run::leftovers(pid)?;
    victim.kill()?;
    victim.wait()?;
    assert!(built, "the victim built nothing");
    // Two namespaces, a cgroup, a bpf file system and the run's directory.
    assert_eq!(before.len(), 5, "{before:?}");
    eventually(&format!("the janitor to clean up after {pid}: {before:?}"), PATIENCE, || {
        Ok(run::leftovers(pid)?.is_empty().then_some(()))
    })
}

#[test]
fn several_that_clean_up_after_the_same_process_at_once_do_not_disturb_each_other() -> Result<()> {
    let mut dead = Command::new("true").spawn()?;
    dead.wait()?;
    let named = |number| format!("{}{}-{number}-guards", run::PREFIX, dead.id());
    for number in 0..200 {
        fs::create_dir_all(cgroup::root()?.join(named(number)).join("below"))?;
    }
    let lb_guest = run::binary("lb-guest", "LB_GUEST_BIN")?;
    let janitor = |_| Command::new(&lb_guest).arg("janitor").arg(dead.id().to_string()).stdin(Stdio::null()).spawn();
    let janitors: Vec<Child> = (0..8).map(janitor).collect::<Result<_, _>>()?;
    let ends = janitors.into_iter().map(|mut janitor| Ok(janitor.wait()?.success())).collect::<Result<Vec<_>>>()?;
    let left = run::leftovers(dead.id())?;
    run::sweep(dead.id())?;
    assert!(left.is_empty(), "left behind: {left:?}");
    assert_eq!(ends, [true; 8]);
    Ok(())
}

/// What the victim does until it is killed.
fn build_and_wait() -> Result<()> {
    let _node = busy_node()?;
    println!("built");
    loop {
        std::thread::park();
    }
}

/// A node with a pod and processes in both, and the paths of what it consists of.
fn busy_node() -> Result<(impl Drop, Vec<std::path::PathBuf>)> {
    struct Busy(#[expect(dead_code, reason = "held to be dropped")] Vec<Box<dyn std::any::Any>>);
    impl Drop for Busy {
        fn drop(&mut self) {}
    }
    let node = Node::new("node")?;
    let pod = node.pod("server")?;
    let (serving, asking) = (pod.guest()?, node.host_process("client")?);
    serving.serve("server", Proto::Tcp, 80)?;
    asking.ask(Traffic::Tcp, pod.at4(80))?;
    let paths = [node.netns().path(), pod.netns().path(), node.cgroup().path(), node.bpffs().path()];
    let paths = paths.map(std::path::Path::to_path_buf).to_vec();
    Ok((Busy(vec![Box::new(serving), Box::new(asking), Box::new(pod), Box::new(node)]), paths))
}
