//! What this machine has for building eBPF. Looks only; changes nothing and decides nothing.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use super::TARGET;
use super::choose::Found;
use crate::packages;
use crate::process::{find, output};
use crate::workspace::Workspace;

/// Where Debian's packages put the compiler. A rustup proxy of the same name may come first in PATH.
pub(crate) const DEBIAN_RUSTC: &str = "/usr/bin/rustc";

/// The package with the compiled `core`. Its presence in apt's lists tells a Debian that can do this.
pub(crate) const DEBIAN_CORE: &str = "libstd-rust-web-dev-bpf";

static LISTS_UPDATED: AtomicBool = AtomicBool::new(false);

/// To be called once apt's lists are fresh: what apt does not offer then, it does not have.
pub(crate) fn note_lists_updated() {
    LISTS_UPDATED.store(true, Ordering::Relaxed);
}

pub(crate) fn look(ws: &Workspace) -> Found {
    let rustup = find("rustup").is_some();
    let apt = packages::has_apt();
    let debian_llvm = debian_llvm();
    Found {
        rustup,
        nightly_with_source: rustup && nightly_has_source(),
        linker_in_path: find("bpf-linker"),
        apt,
        apt_offers_core: apt && packages::is_offered(DEBIAN_CORE),
        apt_updated: LISTS_UPDATED.load(Ordering::Relaxed),
        debian_llvm,
        debian_llvm_dev: debian_llvm.is_some_and(can_build_linker),
        linker_built: debian_llvm.and_then(|llvm| built_linker(ws, llvm)),
    }
}

/// Where Debian installs an LLVM.
pub(crate) fn llvm_prefix(llvm: u32) -> PathBuf {
    PathBuf::from(format!("/usr/lib/llvm-{llvm}"))
}

fn can_build_linker(llvm: u32) -> bool {
    let headers = ["zlib.h", "zstd.h", "libxml2/libxml/parser.h"];
    llvm_prefix(llvm).join("include/llvm-c/Core.h").is_file()
        && headers.iter().all(|header| Path::new("/usr/include").join(header).is_file())
}

/// The linker that this project built earlier, if it was for that LLVM: one reads no bitcode newer than its own.
fn built_linker(ws: &Workspace, llvm: u32) -> Option<PathBuf> {
    // What `cargo install` notes about what it installed, among it the features.
    let notes = fs::read_to_string(ws.linker_root().join(".crates2.json")).ok()?;
    let linker = ws.linker_root().join("bin/bpf-linker");
    (notes.contains(&format!("\"llvm-{llvm}\"")) && linker.is_file()).then_some(linker)
}

fn nightly_has_source() -> bool {
    output(Command::new("rustup").args(["run", "nightly", "rustc", "--print", "sysroot"]))
        .is_ok_and(|sysroot| Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library/core/Cargo.toml").is_file())
}

/// The major version of LLVM in Debian's compiler, if its `core` for BPF is there too.
fn debian_llvm() -> Option<u32> {
    let libdir = output(Command::new(DEBIAN_RUSTC).args(["--print", "target-libdir", "--target", TARGET])).ok()?;
    let has_core = Path::new(libdir.trim())
        .read_dir()
        .ok()?
        .flatten()
        .any(|entry| entry.file_name().to_string_lossy().starts_with("libcore-"));
    if !has_core {
        return None;
    }
    llvm_major(&output(Command::new(DEBIAN_RUSTC).arg("-vV")).ok()?)
}

/// Reads the line "LLVM version: 22.1.8" of `rustc -vV`.
fn llvm_major(version: &str) -> Option<u32> {
    let line = version.lines().find_map(|line| line.strip_prefix("LLVM version:"))?;
    line.trim().split('.').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_llvm_version_is_read_from_what_rustc_prints() {
        let text = "rustc 1.96.0 (ac68faa20 2026-05-25) (built from a source tarball)\nrelease: 1.96.0\nLLVM version: 22.1.8\n";
        assert_eq!(llvm_major(text), Some(22));
        assert_eq!(llvm_major("rustc 1.96.0\n"), None);
    }
}
