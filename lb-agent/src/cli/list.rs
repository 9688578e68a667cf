//! What `services` and `backends` have in common: they read the maps, and print the same rows in two ways.

use super::{
    Failure, ListArgs, Output, installed, print,
    view::{self, Filter, FrontendRow},
};

/// Runs such a command. `text` and `json` make the whole output of the rows.
pub(super) fn run(
    args: &ListArgs,
    text: impl Fn(&[FrontendRow]) -> String,
    json: impl Fn(&[FrontendRow]) -> Result<String, Failure>,
) -> Result<(), Failure> {
    let filter = Filter::new(args.namespace.as_deref(), args.service.as_deref()).map_err(Failure::usage)?;
    let reader = installed::open(&args.tool.place)?;
    let rows = view::frontends(reader.store(), &filter).map_err(installed::map_failure)?;
    installed::warn_unless_agent_runs(&reader);
    match args.output() {
        Output::Table => print(&text(&rows)),
        Output::Json => print(&json(&rows)?),
    }
}
