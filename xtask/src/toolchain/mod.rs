//! The compiler for the kernel programs: finds one, or installs what is missing. The decision is in `choose`, what
//! the machine has in `detect`, what must be fetched or built in `install`.

mod choose;
mod detect;
mod install;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, anyhow};

use crate::process::{cargo, say};
use crate::workspace::Workspace;
use choose::Route;

/// A compiler and a linker that fit each other.
pub(crate) struct Toolchain {
    route: Route,
    linker: PathBuf,
}

/// The toolchain, complete. What is missing is installed.
pub(crate) fn ensure(ws: &Workspace) -> Result<Toolchain> {
    // Each step changes what is found (a compiler says which LLVM its linker needs), so look again after each.
    for _ in 0..choose::MAX_STEPS {
        let found = detect::look(ws);
        match choose::next(&found).map_err(|missing| anyhow!(missing))? {
            choose::Next::Ready { route, linker } => return Ok(Toolchain { route, linker }),
            choose::Next::Do(step) => install::perform(ws, &step)?,
        }
    }
    Err(anyhow!("the BPF toolchain is still incomplete after installing it: see the lines above"))
}

impl Toolchain {
    /// Cargo with this toolchain, for the BPF target, building into the directory `target`. The caller adds
    /// subcommand-specific arguments.
    pub(crate) fn cargo(&self, ws: &Workspace, subcommand: &str, target: &Path) -> Command {
        let mut command = match self.route {
            Route::Rustup => {
                // RUSTUP_TOOLCHAIN and CARGO of the outer cargo name the host's toolchain.
                let mut command = Command::new("rustup");
                command.args(["run", "nightly", "cargo", subcommand, "-Z", "build-std=core"]);
                command.env_remove("RUSTC").env_remove("CARGO").env_remove("RUSTUP_TOOLCHAIN");
                command
            }
            Route::Debian => {
                let mut command = cargo();
                // A stable compiler; BPF is a tier 3 target whose features it grants only with RUSTC_BOOTSTRAP.
                command.arg(subcommand).env("RUSTC", detect::DEBIAN_RUSTC).env("RUSTC_BOOTSTRAP", "1");
                command
            }
        };
        command.args(["--target", TARGET, "--target-dir"]).arg(target).current_dir(ws.root());
        command.env("CARGO_ENCODED_RUSTFLAGS", self.rustflags());
        // Wrappers are set up for the host's compiler.
        command.env_remove("RUSTC_WRAPPER").env_remove("RUSTC_WORKSPACE_WRAPPER");
        command
    }

    fn rustflags(&self) -> OsString {
        let mut linker = OsString::from("-Clinker=");
        linker.push(&self.linker);
        let arch = format!("bpf_target_arch=\"{}\"", std::env::consts::ARCH);
        let words: [OsString; 9] = [
            linker,
            "-Clink-arg=--btf".into(),
            // Instructions on 32 bits, which every kernel since 5.1 knows: fewer of them, and for the verifier as well.
            "-Ctarget-cpu=v3".into(),
            // With that, what is set to zero is a call of memset, a loop, whether it is 3 bytes or 300.
            "-Clink-arg=--disable-expand-memcpy-in-order".into(),
            "-Cdebuginfo=2".into(),
            // aya-ebpf reads the kernel's registers (pt_regs) by architecture; the target itself has none.
            "--cfg".into(),
            arch.into(),
            "--check-cfg".into(),
            "cfg(bpf_target_arch,values(any()))".into(),
        ];
        words.join(&OsString::from("\u{1f}"))
    }

    /// Says which one it is.
    pub(crate) fn announce(&self) {
        let compiler = match self.route {
            Route::Rustup => "rustup's nightly with rust-src",
            Route::Debian => "Debian's rustc-web",
        };
        say(&format!("kernel programs: {compiler}, linker {}", self.linker.display()));
    }
}

/// Little-endian: every host that this project supports (x86_64, aarch64) is.
pub(crate) const TARGET: &str = "bpfel-unknown-none";
