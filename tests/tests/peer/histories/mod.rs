//! Random histories of Services, EndpointSlices and the node, compared as the cases are.
//!
//! `LB_PEER_HISTORIES` is how many (120 by default), `LB_PEER_SEED` where they begin; the seed is printed. A history that
//! meets a difference is shrunk and written to `cases/found-SEED-N.yaml`, to stay there; the first of each kind is.

mod random;
mod shrink;

use std::{collections::BTreeMap, env, fs, str::FromStr};

use anyhow::{Context as _, Result};
use lb_tests::peer::{Case, Rig, Table};

use self::random::Asking;
use crate::{PRIMARY, cases_directory, one_at_a_time, table};

/// How many are run where nobody says, and of those whose sockets are kept.
const USUAL: u64 = 120;
const USUAL_KEPT: u64 = 60;

/// How many run side by side, in one batch of changes.
const BATCH: u64 = 60;

/// How many problems of different kinds are shrunk and kept. Each takes minutes.
const KEPT: usize = 3;

#[test]
fn random_histories_meet_the_same_with_the_agent_as_with_kube_proxy() -> Result<()> {
    compare(Asking::Anew, USUAL)
}

#[test]
fn sockets_kept_through_random_histories_meet_the_same_fate_as_with_kube_proxy() -> Result<()> {
    compare(Asking::Kept, USUAL_KEPT)
}

fn compare(asking: Asking, usual: u64) -> Result<()> {
    let _turn = one_at_a_time();
    let wanted = from_environment("LB_PEER_HISTORIES")?.unwrap_or(usual);
    let first = from_environment("LB_PEER_SEED")?.unwrap_or_else(|| fastrand::u64(..1_000_000_000));
    println!("{wanted} histories from LB_PEER_SEED={first}");
    let mut table = table()?;
    let mut rig = Rig::start(PRIMARY)?;
    let (mut seeds, mut found, mut kinds) = (first..first + wanted, Vec::new(), BTreeMap::new());
    loop {
        let batch: Vec<u64> = seeds.by_ref().take(usize::try_from(BATCH)?).collect();
        let Some(zones_of) = batch.first() else { break };
        // The zone of the node is what a batch shares.
        let zones = random::zones(*zones_of);
        let cases: Vec<Case> = batch.iter().map(|seed| random::history(*seed, &zones, asking)).collect();
        let problems = rig.run_once(&cases.iter().collect::<Vec<_>>(), &mut table)?;
        println!("{} from {zones_of}: {} problems", cases.len(), problems.len());
        for problem in problems {
            println!("{problem}");
            let of_case = cases.iter().find(|case| problem.starts_with(&format!("{} ", case.name)));
            let case = of_case.context("a problem of no history")?.clone();
            kinds.entry(kind(&problem).unwrap_or(&problem).to_owned()).or_insert_with(|| (case, problem.clone()));
            found.push(problem);
        }
    }
    let first_ones = kinds.into_values().zip(1..).take(KEPT);
    let kept = first_ones.map(|((case, problem), number)| keep(&mut rig, case, &problem, number, &mut table));
    let kept = kept.collect::<Result<Vec<_>>>()?.join("\n");
    assert!(found.is_empty(), "{} problems:\n{}\n{kept}", found.len(), found.join("\n"));
    Ok(())
}

/// Shrinks the history that has a problem, and writes it down.
fn keep(rig: &mut Rig, case: Case, problem: &str, number: usize, table: &mut Table) -> Result<String> {
    let name = case.name.clone();
    let has_it = |case: &Case| Ok(rig.run_once(&[case], table)?.iter().any(|other| kind(other) == kind(problem)));
    let Some(mut small) = shrink::shrink(case, has_it)? else {
        return Ok(format!("{name} by itself has no such problem"));
    };
    small.name = format!("{}-{number}", small.name.replace("history", "found"));
    small.alone = small.steps.iter().any(|step| step.apply.contains_key("node"));
    let file = cases_directory().join(format!("{}.yaml", small.name));
    let text = serde_saphyr::to_string(&[small]).context("cannot write the case as YAML")?;
    fs::write(&file, &text).with_context(|| format!("cannot write {}", file.display()))?;
    Ok(format!("shrunk to {}:\n{text}", file.display()))
}

/// What a problem has in common with the same one of a smaller history: what differs, but not at which address.
fn kind(problem: &str) -> Option<&str> {
    problem.split_once("unlisted: `")?.1.split("; case=").next()
}

fn from_environment<T: FromStr>(name: &str) -> Result<Option<T>> {
    let Ok(text) = env::var(name) else { return Ok(None) };
    let value = text.parse().ok().with_context(|| format!("{name}={text} is not a number"))?;
    Ok(Some(value))
}
