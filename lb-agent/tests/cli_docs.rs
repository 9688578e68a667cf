//! docs/operations.md says what the command line says: its tables of flags are compared with clap's.
//! `LB_UPDATE_DOCS=1 cargo test -p lb-agent --test cli_docs` writes them anew.

use std::{env, fs, path::PathBuf};

use clap::CommandFactory;
use lb_agent::cli::Cli;

#[test]
fn the_tables_of_flags_are_those_of_the_command_line() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs/operations.md");
    let page = fs::read_to_string(&path).unwrap();
    let mut wanted = page.clone();
    for command in Cli::command().get_subcommands() {
        wanted = replace_table(&wanted, command.get_name(), &table(command));
    }
    if env::var_os("LB_UPDATE_DOCS").is_some() {
        fs::write(&path, &wanted).unwrap();
        return;
    }
    for (line, (is, should_be)) in page.lines().zip(wanted.lines()).enumerate() {
        assert_eq!(is, should_be, "line {} of docs/operations.md; see this file's head", line + 1);
    }
    assert_eq!(page.lines().count(), wanted.lines().count(), "a table in docs/operations.md has too few or many rows");
}

/// Puts `table` between the marks for `command`; every command has them.
fn replace_table(page: &str, command: &str, table: &str) -> String {
    let (open, close) = (format!("<!-- flags: {command} -->\n"), "<!-- end of flags -->");
    let (before, rest) = page.split_once(&open).unwrap_or_else(|| panic!("no {open} in the page"));
    let (_, after) = rest.split_once(close).unwrap_or_else(|| panic!("no {close} after {open}"));
    format!("{before}{open}\n{table}\n{close}{after}")
}

fn table(command: &clap::Command) -> String {
    let mut table = "| flag | variable | default | meaning |\n| --- | --- | --- | --- |\n".to_owned();
    for arg in command.get_arguments() {
        let value = arg
            .get_value_names()
            .filter(|_| arg.get_action().takes_values())
            .map(|names| names.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "));
        let flag = match (arg.get_short(), arg.get_long(), value) {
            (Some(short), Some(long), Some(value)) => format!("-{short}, --{long} {value}"),
            (_, Some(long), Some(value)) => format!("--{long} {value}"),
            (_, Some(long), None) => format!("--{long}"),
            (_, None, value) => value.unwrap_or_default(),
        };
        let variable = arg.get_env().map(|name| format!("`{}`", name.to_string_lossy())).unwrap_or_default();
        let defaults: Vec<_> = arg.get_default_values().iter().map(|value| value.to_string_lossy()).collect();
        let default = if defaults.is_empty() { String::new() } else { format!("`{}`", defaults.join(",")) };
        let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
        let cells = [format!("`{flag}`"), variable, default, help].map(|cell| cell.replace('|', "\\|"));
        table.push_str(&format!("| {} |\n", cells.join(" | ")));
    }
    table
}
