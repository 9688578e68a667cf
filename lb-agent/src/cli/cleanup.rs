//! `lb-agent cleanup`: takes an installation down.

use super::{CleanupArgs, Failure, print};
use crate::datapath::bpf;

/// Runs the command.
pub(super) fn run(args: &CleanupArgs) -> Result<(), Failure> {
    let removed = bpf::cleanup(&args.place.bpffs, args.force)?;
    if removed.is_empty() {
        return print(&format!("nothing is installed below {}\n", args.place.bpffs.join("lb").display()));
    }
    let lines: String = removed.iter().map(|what| format!("{what}\n")).collect();
    print(&lines)
}
