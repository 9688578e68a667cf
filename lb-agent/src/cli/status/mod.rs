//! `lb-agent status`: does an agent run, how old is its state, how full are the maps, what is wrong.
//!
//! [`facts`] is what was read, [`diagnose`] says what is wrong with it in plain words, [`text`] prints both.

mod diagnosis;
mod facts;
mod text;

use serde::Serialize;

use super::{Failure, Output, ToolArgs, installed, json, print};

/// Runs the command.
pub(super) fn run(args: &ToolArgs) -> Result<(), Failure> {
    let facts = installed::facts(&args.place)?;
    let problems = diagnosis::problems(&facts);
    match args.output {
        Output::Table => print(&text::render(&facts, &problems)),
        Output::Json => print(&json(&Document { problems: &problems, facts: &facts })?),
    }
}

#[derive(Serialize)]
struct Document<'a> {
    problems: &'a [String],
    #[serde(flatten)]
    facts: &'a facts::Facts,
}

pub(super) use facts::{AgentFacts, CounterFacts, DeviceFacts, Facts, MapFacts, ProgramFacts};
