//! Where log lines go and in which form.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

use crate::cli::{Failure, LogFormat, RunArgs};

/// Sets up logging to stderr for the rest of the process.
pub(super) fn init(args: &RunArgs) -> Result<(), Failure> {
    let filter = filter(args.log_level.as_deref(), std::env::var("RUST_LOG").ok().as_deref())?;
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match args.log_format {
        LogFormat::Human => lines.with_ansi(std::io::stderr().is_terminal()).init(),
        LogFormat::Json => lines.json().flatten_event(true).init(),
    }
    Ok(())
}

/// The flag, else RUST_LOG, else `info`.
fn filter(flag: Option<&str>, rust_log: Option<&str>) -> Result<EnvFilter, Failure> {
    let (name, text) = match (flag, rust_log) {
        (Some(flag), _) => ("--log-level", flag),
        (None, Some(variable)) if !variable.is_empty() => ("RUST_LOG", variable),
        (None, _) => ("--log-level", "info"),
    };
    EnvFilter::try_new(text).map_err(|error| {
        Failure::usage(format!(
            "{name} {text:?}: {error}; give error, warn, info, debug, trace, or a filter such as lb_agent=debug,kube=warn"
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::filter;

    #[test]
    fn the_flag_wins_over_rust_log_and_info_is_the_default() {
        assert_eq!(filter(Some("debug"), Some("trace")).unwrap().to_string(), "debug");
        assert_eq!(filter(None, Some("lb_agent=trace")).unwrap().to_string(), "lb_agent=trace");
        assert_eq!(filter(None, Some("")).unwrap().to_string(), "info");
        assert_eq!(filter(None, None).unwrap().to_string(), "info");
    }

    #[test]
    fn a_filter_that_does_not_parse_is_named() {
        let text = filter(Some("lb_agent=loud"), None).unwrap_err().to_string();
        assert!(text.contains("--log-level") && text.contains("lb_agent=loud"), "{text}");
    }
}
