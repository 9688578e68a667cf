//! `lb-agent check`: what is wrong with this node, before anything is installed. Changes nothing.
//!
//! Three steps: look at the machine and its network, decide what is wrong (pure, [`findings`]), print it (pure).

use std::{collections::BTreeSet, path::Path};

use serde::Serialize;

use super::{CheckArgs, Exit, Failure, Output, PlaceArgs, json, print, table};
use crate::{
    EBPF_OBJECT,
    datapath::bpf::{self, OpenError},
    devices::{
        Choice, Network, Role, Wishes, choose,
        findings::{Facts, Settings, findings, unserved},
        read, sysctl,
    },
};

/// Runs the command.
pub(super) fn run(args: &CheckArgs) -> Result<(), Failure> {
    let PlaceArgs { bpffs, cgroup_root } = &args.tool.place;
    let machine = bpf::machine(EBPF_OBJECT.is_some(), bpffs, cgroup_root.as_deref());
    let settings = args.packet.settings(&args.nodeport_addresses);
    let network = read::network().map_err(|error| anyhow::Error::new(error).context("listing network devices"))?;
    let report = report(&machine, &settings, &network, bpffs, !args.packet.socket_lb_exclude.is_empty());
    match args.tool.output {
        Output::Table => print(&text(&report))?,
        Output::Json => print(&json(&report)?)?,
    }
    verdict(machine.refusals, report.problems.len())
}

/// What the command prints.
#[derive(Debug, Serialize)]
struct Report {
    /// What is wrong, and what to do; the worst first.
    problems: Vec<String>,
    /// What works otherwise than on a newer kernel.
    notes: Vec<String>,
    /// All devices, in the order of their numbers.
    devices: Vec<Row>,
}

#[derive(Debug, Serialize)]
struct Row {
    name: String,
    index: u32,
    /// What it is served as; none where it is left alone.
    role: Option<String>,
    why: String,
}

impl From<&Choice> for Row {
    fn from(choice: &Choice) -> Self {
        let (role, why) = match &choice.decision {
            Ok((role, why)) => (Some(role.to_string()), why.to_string()),
            Err(why) => (None, why.to_string()),
        };
        Self { name: choice.name.clone(), index: choice.index, role, why }
    }
}

fn report(machine: &bpf::Machine, settings: &Settings, network: &Network, bpffs: &Path, excludes: bool) -> Report {
    let mut problems: Vec<String> = machine.refusals.iter().map(chain).collect();
    let Settings { devices, pods, nodeport_addresses: nodeports, .. } = settings;
    let lately = &BTreeSet::new();
    // The Node object is not asked for: that would need a cluster.
    let choices = choose(network, &Wishes { devices, pods, node: &[], nodeports, lately });
    let chosen: Vec<&str> =
        choices.iter().filter(|choice| choice.decision.is_ok()).map(|choice| choice.name.as_str()).collect();
    let sysctls = sysctl::read(chosen.iter().copied());
    let mut foreign = Vec::new();
    // Without its capabilities a process is not told.
    if machine.refusals.is_empty() {
        for choice in choices.iter().filter(|choice| choice.decision.is_ok()) {
            match bpf::foreign_programs(bpffs, choice.index, &choice.name) {
                Ok(found) => foreign.extend(found),
                Err(error) => problems.push(chain(&error)),
            }
        }
    }
    let facts = Facts { settings, network, choices: &choices, sysctls: &sysctls, foreign: &foreign, node: &[] };
    problems.extend(findings(&facts).iter().map(ToString::to_string));
    if excludes {
        let has_pod_device = choices.iter().any(|choice| choice.role() == Some(Role::Pod));
        problems.extend(unserved(has_pod_device).map(|finding| finding.to_string()));
    }
    let notes = machine.notes.iter().map(ToString::to_string).collect();
    Report { problems, notes, devices: choices.iter().map(Row::from).collect() }
}

fn chain(error: &OpenError) -> String {
    bpf::chain(error)
}

/// The status that the agent would refuse to start with; else, where anything is wrong, that of a wrong configuration.
fn verdict(refusals: Vec<OpenError>, n_problems: usize) -> Result<(), Failure> {
    let exit = match refusals.into_iter().next() {
        Some(refusal) => Failure::from(refusal).exit,
        None if n_problems > 0 => Exit::Config,
        None => return Ok(()),
    };
    let noun = if n_problems == 1 { "problem" } else { "problems" };
    Err(Failure::new(exit, anyhow::anyhow!("{n_problems} {noun} found")))
}

fn text(report: &Report) -> String {
    let mut page = String::new();
    if report.problems.is_empty() {
        page.push_str("OK: no problem found\n");
    }
    for problem in &report.problems {
        page.push_str(&format!("PROBLEM: {problem}\n"));
    }
    for note in &report.notes {
        page.push_str(&format!("NOTE: {note}\n"));
    }
    page.push('\n');
    let rows = report.devices.iter().map(|row| {
        let role = row.role.clone().unwrap_or_else(|| "-".to_owned());
        [row.name.clone(), row.index.to_string(), role, row.why.clone()]
    });
    page + &table::render(["DEVICE", "INDEX", "SERVED AS", "WHY"], rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(name: &str, index: u32, role: Option<&str>, why: &str) -> Row {
        Row { name: name.to_owned(), index, role: role.map(str::to_owned), why: why.to_owned() }
    }

    #[test]
    fn the_page_opens_with_what_is_wrong() {
        let report = Report {
            problems: vec!["net.ipv4.ip_forward: it is 0; set it to 1".to_owned()],
            notes: vec!["an old kernel".to_owned()],
            devices: vec![row("lo", 1, None, "loopback"), row("eth0", 2, Some("uplink"), "has a default route")],
        };
        assert_eq!(
            text(&report),
            "\
PROBLEM: net.ipv4.ip_forward: it is 0; set it to 1
NOTE: an old kernel

DEVICE  INDEX  SERVED AS  WHY
lo      1      -          loopback
eth0    2      uplink     has a default route
"
        );
    }

    #[test]
    fn the_exit_status_is_that_of_the_agent_where_it_would_not_start_and_78_for_what_is_only_wrong() {
        assert!(verdict(Vec::new(), 0).is_ok());
        assert_eq!(verdict(Vec::new(), 2).unwrap_err().exit, Exit::Config);
        let denied = OpenError::Capabilities { missing: "CAP_BPF".to_owned() };
        let failure = verdict(vec![denied, OpenError::NoCgroup2], 2).unwrap_err();
        assert_eq!((failure.exit, failure.to_string()), (Exit::Denied, "2 problems found".to_owned()));
    }
}
