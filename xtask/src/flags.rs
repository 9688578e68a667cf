//! Every flag of every task, and nothing that acts on them.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

/// Builds, runs, tests, packages and measures.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
pub(crate) struct Xtask {
    #[command(subcommand)]
    pub(crate) task: Task,
}

#[derive(Subcommand)]
pub(crate) enum Task {
    /// Compile the kernel programs to target/bpf/lb-ebpf.o, installing the BPF toolchain if it is missing
    Ebpf,
    /// Compile the kernel programs and the agent that embeds them
    Build(BuildFlags),
    /// Run every test: host tests, formatting, lints, and the tests that need root
    Test(TestFlags),
    /// Write the container image as an OCI archive, without a container engine
    Image(ImageFlags),
}

/// How the compiler is told to build.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Profile {
    Debug,
    Release,
}

#[derive(Args)]
pub(crate) struct BuildFlags {
    /// Optimise: target/release/lb-agent instead of target/debug/lb-agent
    #[arg(long)]
    release: bool,
}

impl BuildFlags {
    pub(crate) fn profile(&self) -> Profile {
        if self.release { Profile::Release } else { Profile::Debug }
    }
}

#[derive(Args)]
pub(crate) struct TestFlags {
    /// Run only the tests whose names contain this, and neither formatter nor lints
    pub(crate) filter: Option<String>,
}

#[derive(Args)]
pub(crate) struct ImageFlags {
    /// Where to write the archive [default: target/image/lb-agent.tar]
    #[arg(long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_flags_do_not_contradict_each_other() {
        Xtask::command().debug_assert();
    }
}
