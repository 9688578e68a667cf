//! The commands. Each tool is three steps: read the pinned maps, make rows of them (pure), print the rows (pure).

mod args;
mod backends;
mod check;
mod cleanup;
mod connections;
mod failure;
mod installed;
mod list;
mod services;
mod status;
mod table;
mod view;

pub use args::{Cli, Command, LogFormat, Output, PacketArgs, RunArgs};
pub use failure::{Exit, Failure};

use args::{CheckArgs, CleanupArgs, ListArgs, PlaceArgs, ToolArgs};

/// Runs one command to its end.
pub fn dispatch(cli: Cli) -> Result<(), Failure> {
    match cli.command {
        Command::Run(args) => crate::run::run(*args),
        Command::Services(args) => list::run(&args, services::text, services::json),
        Command::Backends(args) => list::run(&args, backends::text, backends::json),
        Command::Connections(args) => connections::run(&args),
        Command::Status(args) => status::run(&args),
        Command::Check(args) => check::run(&args),
        Command::Cleanup(args) => cleanup::run(&args),
    }
}

/// Writes to stdout. A reader that has gone (`lb-agent services | head`) is no error.
fn print(text: &str) -> Result<(), Failure> {
    use std::io::Write;
    match std::io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Failure::from(anyhow::Error::new(error).context("writing to stdout")))
        }
        _ => Ok(()),
    }
}

/// One JSON document, indented, with a line end.
fn json(value: &impl serde::Serialize) -> Result<String, Failure> {
    let mut text = serde_json::to_string_pretty(value).map_err(|error| Failure::from(anyhow::Error::new(error)))?;
    text.push('\n');
    Ok(text)
}
