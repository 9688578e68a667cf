//! The command line of the node agent. Parses it, runs the command and turns its result into one line and an exit
//! status; everything else is in the library.

use std::process::ExitCode;

use lb_agent::cli::{self, Cli};

fn main() -> ExitCode {
    match cli::dispatch(Cli::of_process().unwrap_or_else(|error| error.exit())) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("lb-agent: {failure}");
            ExitCode::from(failure.exit.code())
        }
    }
}
