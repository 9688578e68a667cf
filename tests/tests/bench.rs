//! The benchmark of clients outside, as small as it gets: it comes to its end with a value for everything, and leaves
//! nothing behind. What the values are is no test's business.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result};
use lb_tests::run;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;

/// Without what is like another target.
const SMALL: [&str; 10] =
    ["outside", "--services", "2", "--rounds", "1", "--flows", "1000", "--without", "direct-again,iptables", "--json"];

fn bench(json: &Path) -> Result<Command> {
    let mut command = Command::new(run::binary("lb-bench", "LB_BENCH_BIN")?);
    command.args(SMALL).arg(json).stdin(Stdio::null());
    Ok(command)
}

#[test]
fn the_benchmark_from_outside_has_a_value_for_every_figure_of_every_target_and_leaves_nothing() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let json = directory.path().join("measured.json");
    let child = bench(&json)?.stdout(Stdio::piped()).spawn()?;
    let pid = child.id();
    let output = child.wait_with_output()?;
    let tables = String::from_utf8(output.stdout)?;
    assert!(output.status.success(), "{}\n{tables}", output.status);
    for part in ["| 2 Services ", "| 2 Services, 1000 flows ", "| aim "] {
        assert!(tables.contains(part), "{part:?} is not in\n{tables}");
    }
    let report: Value = serde_json::from_slice(&fs::read(&json)?)?;
    let measured = report["outside"].as_array().context("no measurements")?;
    assert_eq!(measured.iter().map(|of| of["flows"].as_u64()).collect::<Vec<_>>(), [Some(0), Some(1000)]);
    for of in measured {
        for kind in ["direct", "agent", "agent_on_pods", "nftables"] {
            let target = &of["targets"][kind];
            for place in ["local", "remote"] {
                let figures = target["block_ns"][place].as_object().with_context(|| format!("{kind}: {target:#}"))?;
                let values: Vec<_> = figures.values().filter_map(|blocks| blocks[0].as_u64()).collect();
                assert!(values.len() == 6 && !values.contains(&0), "{kind}, {place}: {figures:?}");
            }
            let n_costs = target["costs"].as_array().map_or(0, Vec::len);
            assert_eq!(n_costs > 0, kind.starts_with("agent"), "{kind}: {target:#}");
        }
    }
    assert!(measured[1]["targets"]["agent"]["pass"]["cpu_s"].as_f64() > Some(0.0), "{measured:#?}");
    run::wait_until_swept(pid)
}

#[test]
fn ctrl_c_takes_the_benchmark_from_outside_down_with_everything() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let mut child = bench(&directory.path().join("measured.json"))?.stderr(Stdio::piped()).spawn()?;
    let stderr = BufReader::new(child.stderr.take().context("no pipe from the benchmark")?);
    let starts = |line: &String| line.contains("starting lb-agent");
    let mut said = Vec::new();
    let last = stderr.lines().map_while(Result::ok).inspect(|line| said.push(line.clone())).find(starts);
    let pid = child.id();
    let before = run::leftovers(pid)?;
    kill(Pid::from_raw(pid.cast_signed()), Signal::SIGINT)?;
    child.wait()?;
    assert!(last.is_some(), "it ended before it started the agent:\n{}", said.join("\n"));
    assert!(before.len() > 20, "{before:?}");
    run::wait_until_swept(pid)
}
