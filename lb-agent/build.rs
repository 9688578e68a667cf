//! Embeds the kernel programs, if they are built, and says which version this is.
//!
//! `cargo build` works without the BPF toolchain: then nothing is embedded and `lb-agent run` says so. The object is
//! the file named by `LB_EBPF_OBJECT`, else `bpf/lb-ebpf.o` below the target directory, where `cargo xtask ebpf` puts it.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

fn main() {
    println!("cargo::rerun-if-env-changed=LB_EBPF_OBJECT");
    println!("cargo::rustc-check-cfg=cfg(lb_ebpf_object)");
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    embed_object(&out);
    println!("cargo::rustc-env=LB_VERSION={}", version());
}

/// Copies the object beside the build's output, so that `include_bytes!` sees one fixed place, and sets the cfg
/// `lb_ebpf_object` when there is one.
fn embed_object(out: &Path) {
    let named = env::var_os("LB_EBPF_OBJECT").filter(|name| !name.is_empty()).map(PathBuf::from);
    let object = named.clone().unwrap_or_else(|| built_object(out));
    // Also when it is missing: the object may be built later, and then this must run again.
    println!("cargo::rerun-if-changed={}", object.display());
    match fs::copy(&object, out.join("lb-ebpf.o")) {
        Ok(_) => println!("cargo::rustc-cfg=lb_ebpf_object"),
        Err(error) if named.is_some() => panic!("LB_EBPF_OBJECT={}: {error}", object.display()),
        Err(_) => {}
    }
}

/// Where the object is, or will be, below the workspace's target directory. Cargo tells a build script only OUT_DIR, which
/// is `TARGET/[TRIPLE/]PROFILE/build/lb-agent-HASH/out`. It marks TARGET with a CACHEDIR.TAG, but not where somebody else
/// made that directory (a cache mount of a container build).
fn built_object(out: &Path) -> PathBuf {
    const OBJECT: &str = "bpf/lb-ebpf.o";
    let holder = out.ancestors().find(|directory| directory.join(OBJECT).exists());
    let tagged = || out.ancestors().find(|directory| directory.join("CACHEDIR.TAG").exists());
    holder.or_else(tagged).unwrap_or(out).join(OBJECT)
}

/// The package's version, and the commit where git knows one.
fn version() -> String {
    let package = env::var("CARGO_PKG_VERSION").unwrap_or_default();
    // LB_BUILD_COMMIT: for builds outside a git work tree (a container image).
    println!("cargo::rerun-if-env-changed=LB_BUILD_COMMIT");
    let commit = env::var("LB_BUILD_COMMIT").ok().or_else(|| {
        let head = git(&["rev-parse", "--git-path", "logs/HEAD"])?;
        println!("cargo::rerun-if-changed={head}");
        git(&["rev-parse", "--short=12", "HEAD"])
    });
    match commit {
        Some(commit) => format!("{package} ({commit})"),
        None => package,
    }
}

fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?.trim().to_owned();
    (output.status.success() && !text.is_empty()).then_some(text)
}
