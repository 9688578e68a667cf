//! Where things are. Paths only; nothing is created or run here.

use std::env;
use std::path::{Path, PathBuf};

use crate::flags::Profile;

/// The source tree and its build directory.
pub(crate) struct Workspace {
    root: PathBuf,
    target: PathBuf,
}

impl Workspace {
    pub(crate) fn locate() -> Self {
        // `cargo run` names the directory of this package. What it was at compile time may have moved since: cargo does
        // not compile again for that.
        let package =
            env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from);
        let root = package.parent().unwrap_or(Path::new(".")).to_path_buf();
        // Cargo takes a relative one from the working directory of the caller.
        let target = match env::var_os("CARGO_TARGET_DIR").filter(|dir| !dir.is_empty()) {
            Some(dir) => env::current_dir().unwrap_or_default().join(dir),
            None => root.join("target"),
        };
        Self { root, target }
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn target(&self) -> &Path {
        &self.target
    }

    /// The compiled kernel programs: `lb-agent/build.rs` looks for them here.
    pub(crate) fn ebpf_object(&self) -> PathBuf {
        self.target.join("bpf/lb-ebpf.o")
    }

    /// Cargo's directory for the kernel programs: with the host's it would wait for the same lock, and the two
    /// compilers would throw away each other's work.
    pub(crate) fn ebpf_target(&self) -> PathBuf {
        self.target.join("bpf/build")
    }

    /// The kernel programs of another build, for tests of upgrades.
    pub(crate) fn other_ebpf_object(&self) -> PathBuf {
        self.target.join("bpf/lb-ebpf-other.o")
    }

    /// Cargo's directory for these.
    pub(crate) fn other_ebpf_target(&self) -> PathBuf {
        self.target.join("bpf/other")
    }

    /// Where the BPF linker is installed if the machine has none.
    pub(crate) fn linker_root(&self) -> PathBuf {
        self.target.join("bpf-linker")
    }

    /// A binary of this workspace.
    pub(crate) fn binary(&self, profile: Profile, name: &str) -> PathBuf {
        let dir = match profile {
            Profile::Debug => "debug",
            Profile::Release => "release",
        };
        self.target.join(dir).join(name)
    }
}
