//! `cargo xtask image`: the agent as a container image, written without a container engine. No base image: the agent,
//! the shared libraries it is linked to, and nothing else, so there is no shell to break into and nothing to patch but
//! what is listed here.

mod oci;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::agent;
use crate::flags::{ImageFlags, Profile};
use crate::libraries;
use crate::process::say;
use crate::workspace::Workspace;
use oci::{Entry, Image};

/// The name that deploy/ asks for. `localhost` is a registry that nothing pulls from.
pub(crate) const NAME: &str = concat!("localhost/lb-agent:", env!("CARGO_PKG_VERSION"));

/// Where the agent is inside the image: in PATH, so that `kubectl exec ds/lb-agent -- lb-agent services` works.
const AGENT: &str = "usr/bin/lb-agent";

/// Builds the agent, optimised, and writes the archive; returns its path.
pub(crate) fn write(ws: &Workspace, flags: &ImageFlags) -> Result<PathBuf> {
    let agent = agent::build(ws, Profile::Release)?;
    let image = Image {
        name: NAME,
        architecture: oci::architecture(std::env::consts::ARCH)?,
        entrypoint: &[&format!("/{AGENT}")],
        cmd: &["run"],
        entries: entries(&agent)?,
    };
    let archive = image.archive().context("write the image")?;
    let output = flags.output.clone().unwrap_or_else(|| ws.target().join("image/lb-agent.tar"));
    if let Some(dir) = output.parent() {
        fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
    }
    fs::write(&output, &archive).with_context(|| format!("write {}", output.display()))?;
    say(&format!("{NAME}: {} ({} MiB)", output.display(), archive.len() >> 20));
    Ok(output)
}

/// Every file of the image.
fn entries(agent: &Path) -> Result<Vec<Entry>> {
    let mut entries = vec![
        Entry::file(AGENT, 0o755, read(agent)?),
        // Names of API servers: the hosts file that the kubelet mounts, then DNS. Both are inside glibc since 2.34.
        Entry::file("etc/nsswitch.conf", 0o644, b"hosts: files dns\n".to_vec()),
    ];
    for library in libraries::of(agent)? {
        let content = read(&library)?;
        // At the path where the dynamic linker of this machine looks for it.
        let inside = library.strip_prefix("/").with_context(|| format!("{} is relative", library.display()))?;
        entries.push(Entry::file(inside, 0o755, content));
    }
    Ok(entries)
}

fn read(file: &Path) -> Result<Vec<u8>> {
    fs::read(file).with_context(|| format!("read {}", file.display()))
}
