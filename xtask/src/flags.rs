//! Every flag of every task, and nothing that acts on them.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, builder::PossibleValuesParser};

use crate::{fuzz, kernels};

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
    /// Run the agent: in the embedded demo, or against a cluster
    Run(RunFlags),
    /// Run every test: host tests, formatting, lints, and the tests that need root
    Test(TestFlags),
    /// Write the container image as an OCI archive, without a container engine
    Image(ImageFlags),
    /// Measure against a direct connection and against kube-proxy
    Bench(BenchFlags),
    /// Run tests on Debian's kernels, in virtual machines (qemu, without KVM)
    Kernels(KernelsFlags),
    /// Look for inputs that the packet layer's logic handles wrongly (libFuzzer)
    Fuzz(FuzzFlags),
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
pub(crate) struct RunFlags {
    /// Demo: end after a dozen answers; the exit status is 0 only if every pod answered through the Service
    #[arg(long, conflicts_with_all = ["kubeconfig", "kind"])]
    pub(crate) once: bool,
    /// Demo: directory of the manifests, filled with a Service and its EndpointSlice if it has none
    #[arg(long, value_name = "DIR", conflicts_with_all = ["kubeconfig", "kind"])]
    pub(crate) manifests: Option<PathBuf>,
    /// Run the agent on this machine against that cluster; this machine should be a node of it
    #[arg(long, value_name = "FILE", conflicts_with = "kind")]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// Build, load, roll out and follow the log on a kind cluster
    #[arg(long, value_name = "NAME", num_args = 0..=1, default_missing_value = "kind")]
    pub(crate) kind: Option<String>,
    /// Flags for `lb-agent run`, after `--`; only with --kubeconfig
    #[arg(last = true, requires = "kubeconfig")]
    pub(crate) agent: Vec<String>,
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

#[derive(Args)]
pub(crate) struct BenchFlags {
    /// Passed to lb-bench; `-- --help` lists them
    #[arg(last = true)]
    pub(crate) args: Vec<String>,
}

#[derive(Args)]
pub(crate) struct KernelsFlags {
    /// Which kernels [default: all]
    #[arg(value_name = "VERSION", value_parser = kernels::versions())]
    pub(crate) versions: Vec<String>,
    /// A test target of lb-tests to run there
    #[arg(long, value_name = "TARGET", default_value = kernels::TARGET)]
    pub(crate) test: String,
    /// Passed to the tests, such as a filter
    #[arg(last = true)]
    pub(crate) args: Vec<String>,
}

#[derive(Args)]
pub(crate) struct FuzzFlags {
    /// Which target [default: one after the other]
    #[arg(value_parser = PossibleValuesParser::new(fuzz::TARGETS))]
    pub(crate) target: Option<String>,
    /// How long each runs
    #[arg(long, value_name = "N", default_value_t = fuzz::SECONDS)]
    pub(crate) seconds: u32,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_flags_do_not_contradict_each_other() {
        Xtask::command().debug_assert();
    }

    #[test]
    fn kind_without_a_name_means_the_cluster_that_kind_creates_by_default() {
        let Task::Run(flags) = Xtask::parse_from(["xtask", "run", "--kind"]).task else { panic!("another task") };
        assert_eq!(flags.kind.as_deref(), Some("kind"));
    }

    #[test]
    fn a_kernel_that_is_not_among_those_that_are_tested_is_refused() {
        assert!(Xtask::try_parse_from(["xtask", "kernels", "5.10", "newest"]).is_ok());
        assert!(Xtask::try_parse_from(["xtask", "kernels", "2.6"]).is_err());
    }

    #[test]
    fn a_cluster_and_the_demo_cannot_be_asked_for_together() {
        assert!(Xtask::try_parse_from(["xtask", "run", "--once", "--kubeconfig", "x"]).is_err());
        assert!(Xtask::try_parse_from(["xtask", "run", "--kind", "--kubeconfig", "x"]).is_err());
    }
}
