//! Where the kernel programs are that this run tests: below the target directory that its executable was built into, unless
//! the environment names another file.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

/// The target directory of this executable, which cargo marks by a CACHEDIR.TAG.
pub fn target_directory() -> Option<PathBuf> {
    let executable = env::current_exe().ok()?;
    executable.ancestors().find(|directory| directory.join("CACHEDIR.TAG").exists()).map(Path::to_path_buf)
}

/// The agent's kernel programs, as `cargo xtask ebpf` builds them, or LB_EBPF_OBJECT.
pub fn agent_object() -> PathBuf {
    named("LB_EBPF_OBJECT", "bpf/lb-ebpf.o")
}

/// The same programs of another build, for tests of upgrades, or LB_OTHER_OBJECT.
pub fn other_object() -> PathBuf {
    named("LB_OTHER_OBJECT", "bpf/lb-ebpf-other.o")
}

/// The program that the tests of `kernel == host` run, or LB_PROBE_OBJECT.
pub fn probe_object() -> PathBuf {
    named("LB_PROBE_OBJECT", "bpf/build/bpfel-unknown-none/bpf/lb-probe")
}

/// The program that says whether packets are summed rightly, or LB_SUMMED_OBJECT.
pub fn summed_object() -> PathBuf {
    named("LB_SUMMED_OBJECT", "bpf/build/bpfel-unknown-none/bpf/lb-summed")
}

fn named(variable: &str, file: &str) -> PathBuf {
    env::var_os(variable).map_or_else(|| target_directory().unwrap_or_default().join(file), PathBuf::from)
}

/// Reads one of them.
///
/// # Panics
/// It is not there.
pub fn read(object: &Path) -> Vec<u8> {
    fs::read(object).unwrap_or_else(|error| panic!("{}: {error}; `cargo xtask ebpf` builds it", object.display()))
}
