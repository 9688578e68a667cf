//! `lb-demo`: the embedded demo of `cargo xtask run`. A node with three pods that serve their own host name, a client
//! pod, a Service in a manifest directory, and the real agent with its programs in the kernel between them.
//!
//! Shows, and says whether it worked; decides nothing about load balancing.

mod answers;
mod cluster;
mod manifests;
mod pod;
mod stop;

use std::{path::PathBuf, process::ExitCode, time::Duration};

use anyhow::{Context as _, Result, bail};

use answers::Answers;
use cluster::Cluster;
use stop::Stop;

/// How many answers are shown at the start.
const SHOWN: usize = 12;
/// Enough that each of three pods that are chosen at random has answered: one is missing in 3 * (2/3)^60 of all runs,
/// once in ten thousand million.
const ENOUGH: usize = 60;
/// Between two looks at who answers.
const INTERVAL: Duration = Duration::from_secs(2);

const USAGE: &str = "usage: lb-demo [--once] [--manifests DIR]";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let result = match *words.as_slice() {
        // What the pods run.
        ["serve", host_name, port] => pod::serve(host_name, port),
        ["ask", address, times] => pod::ask(address, times),
        ref flags => Flags::parse(flags).and_then(|flags| demo(&flags)),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("lb-demo: {error:#}");
            ExitCode::FAILURE
        }
    }
}

#[derive(Default)]
struct Flags {
    once: bool,
    manifests: Option<PathBuf>,
}

impl Flags {
    fn parse(mut words: &[&str]) -> Result<Self> {
        let mut flags = Self::default();
        loop {
            words = match words {
                [] => return Ok(flags),
                ["--once", rest @ ..] => {
                    flags.once = true;
                    rest
                }
                ["--manifests", directory, rest @ ..] => {
                    flags.manifests = Some(PathBuf::from(directory));
                    rest
                }
                [other, ..] => bail!("{other}: {USAGE}"),
            };
        }
    }
}

fn demo(flags: &Flags) -> Result<()> {
    let stop = Stop::on_signals()?;
    let cluster = Cluster::start(flags.manifests.as_deref())?;
    println!("\n$ lb-agent services\n{}", cluster.agent_command(&["services"])?);
    let first = greet(&cluster)?;
    if flags.once {
        first.complete(&cluster.pod_names())?;
        println!("\nall {} pods answered through the Service", cluster.pod_names().len());
    } else {
        explain(&cluster);
        watch(&cluster, &stop, first)?;
        println!("\ntaking everything down");
    }
    cluster.stop()
}

/// Shows the first answers; asks on, in silence, until every pod has had its chance.
fn greet(cluster: &Cluster) -> Result<Answers> {
    let mut answers = Answers::default();
    for number in 1..=SHOWN {
        let answer = cluster.ask(1)?;
        println!("{number:>2}. GET http://{}/ -> {answer}", cluster.service());
        answers.add(answer);
    }
    answers.add(cluster.ask(ENOUGH - SHOWN)?);
    Ok(answers)
}

fn explain(cluster: &Cluster) {
    println!(
        "\nThe Service is in {}. Edit it and see the answers change: remove an endpoint, set `ready: false`, add a \
         port.\nThe agent's log is in {}. Ctrl-C ends the demo and removes all of it.\n",
        cluster.manifest().display(),
        cluster.agent_log().display()
    );
}

/// Asks again and again, and shows what has changed, until told to stop.
fn watch(cluster: &Cluster, stop: &Stop, mut last: Answers) -> Result<()> {
    println!("now answering: {last}");
    while !stop.wait(INTERVAL) {
        let now = cluster.ask(ENOUGH).context("ask the Service")?;
        if now.who() != last.who() {
            println!("now answering: {now}");
            last = now;
        }
    }
    Ok(())
}
