//! An image archive: an OCI image layout in a tar file, with the `manifest.json` of `docker save` beside it, so that
//! `ctr images import`, `kind load image-archive`, `podman load` and `docker load` all take it. The same files give the
//! same bytes: sorted, with no times and no owners.
//!
//! Formats: OCI image specification 1.1 (image-layout.md, manifest.md, config.md, layer.md).

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use flate2::{Compression, write::GzEncoder};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

const INDEX_TYPE: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG_TYPE: &str = "application/vnd.oci.image.config.v1+json";
const LAYER_TYPE: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

/// What an image is made of.
pub(crate) struct Image<'a> {
    /// Registry, repository and tag.
    pub(crate) name: &'a str,
    /// In OCI's (Go's) words: see [`architecture`].
    pub(crate) architecture: &'static str,
    pub(crate) entrypoint: &'a [&'a str],
    pub(crate) cmd: &'a [&'a str],
    pub(crate) entries: Vec<Entry>,
}

/// A file in the image.
pub(crate) struct Entry {
    path: PathBuf,
    mode: u32,
    content: Vec<u8>,
}

impl Entry {
    /// `path` is relative to the image's root. Directories above it come by themselves.
    pub(crate) fn file(path: impl Into<PathBuf>, mode: u32, content: Vec<u8>) -> Self {
        Self { path: path.into(), mode, content }
    }
}

/// OCI's name for a Rust architecture.
pub(crate) fn architecture(arch: &str) -> Result<&'static str> {
    match arch {
        "x86_64" => Ok("amd64"),
        "aarch64" => Ok("arm64"),
        other => bail!("no image for {other}: the kernel programs support x86_64 and aarch64"),
    }
}

impl Image<'_> {
    /// The archive's bytes.
    pub(crate) fn archive(&self) -> io::Result<Vec<u8>> {
        let mut blobs = Blobs::default();
        let layer_tar = tar_of(&self.entries)?;
        let layer = blobs.add(LAYER_TYPE, gzip(&layer_tar)?);
        let config = blobs.add(CONFIG_TYPE, self.config(&digest(&layer_tar)).to_string().into_bytes());
        let manifest = json!({
            "schemaVersion": 2, "mediaType": MANIFEST_TYPE, "config": config, "layers": [layer],
        });
        let mut manifest_entry = blobs.add(MANIFEST_TYPE, manifest.to_string().into_bytes());
        manifest_entry["platform"] = json!({ "architecture": self.architecture, "os": "linux" });
        // containerd and podman read the whole name from the first; tools that know only OCI, from the second.
        manifest_entry["annotations"] = json!({
            "io.containerd.image.name": self.name,
            "org.opencontainers.image.ref.name": self.name,
        });
        let index = json!({ "schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": [manifest_entry] });
        let docker = json!([{
            "Config": blob_path(&config), "RepoTags": [self.name], "Layers": [blob_path(&layer)],
        }]);
        let mut files = blobs.files;
        files.insert("oci-layout".into(), json!({ "imageLayoutVersion": "1.0.0" }).to_string().into_bytes());
        files.insert("index.json".into(), index.to_string().into_bytes());
        files.insert("manifest.json".into(), docker.to_string().into_bytes());
        let entries: Vec<Entry> = files.into_iter().map(|(path, content)| Entry::file(path, 0o644, content)).collect();
        tar_of(&entries)
    }

    fn config(&self, layer: &str) -> Value {
        json!({
            "architecture": self.architecture,
            "os": "linux",
            "config": {
                "Env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"],
                "Entrypoint": self.entrypoint,
                "Cmd": self.cmd,
                "Labels": {
                    "org.opencontainers.image.title": "lb-agent",
                    "org.opencontainers.image.licenses": env!("CARGO_PKG_LICENSE"),
                    "org.opencontainers.image.version": env!("CARGO_PKG_VERSION"),
                },
            },
            "rootfs": { "type": "layers", "diff_ids": [layer] },
        })
    }
}

/// Content by the path it has in the layout.
#[derive(Default)]
struct Blobs {
    files: BTreeMap<PathBuf, Vec<u8>>,
}

impl Blobs {
    /// Adds a blob; returns its descriptor.
    fn add(&mut self, media_type: &str, content: Vec<u8>) -> Value {
        let descriptor = json!({ "mediaType": media_type, "digest": digest(&content), "size": content.len() });
        self.files.insert(blob_path(&descriptor).into(), content);
        descriptor
    }
}

fn blob_path(descriptor: &Value) -> String {
    format!("blobs/{}", descriptor["digest"].as_str().unwrap_or_default().replacen(':', "/", 1))
}

fn digest(content: &[u8]) -> String {
    let hash = Sha256::digest(content);
    hash.iter().fold("sha256:".to_owned(), |text, byte| format!("{text}{byte:02x}"))
}

fn gzip(content: &[u8]) -> io::Result<Vec<u8>> {
    // GzEncoder writes no name and no time.
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(content)?;
    encoder.finish()
}

/// The files, and the directories above them.
fn tar_of(entries: &[Entry]) -> io::Result<Vec<u8>> {
    let mut sorted: Vec<&Entry> = entries.iter().collect();
    sorted.sort_by(|a, b| a.path.cmp(&b.path));
    let mut tar = tar::Builder::new(Vec::new());
    let mut directories = BTreeSet::new();
    for entry in sorted {
        let above: Vec<&Path> = entry.path.ancestors().skip(1).filter(|dir| !dir.as_os_str().is_empty()).collect();
        for directory in above.into_iter().rev() {
            if directories.insert(directory) {
                append(&mut tar, directory, 0o755, tar::EntryType::Directory, &[])?;
            }
        }
        append(&mut tar, &entry.path, entry.mode, tar::EntryType::Regular, &entry.content)?;
    }
    tar.into_inner()
}

fn append(
    tar: &mut tar::Builder<Vec<u8>>,
    path: &Path,
    mode: u32,
    kind: tar::EntryType,
    content: &[u8],
) -> io::Result<()> {
    let mut header = tar::Header::new_ustar();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(content.len() as u64);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    tar.append_data(&mut header, path, content)
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use flate2::read::GzDecoder;

    use super::*;

    fn image(entries: Vec<Entry>) -> Image<'static> {
        Image {
            name: "localhost/lb-agent:1.2.3",
            architecture: "amd64",
            entrypoint: &["/usr/bin/lb-agent"],
            cmd: &["run"],
            entries,
        }
    }

    fn agent() -> Entry {
        Entry::file("usr/bin/lb-agent", 0o755, b"\x7fELF agent".to_vec())
    }

    fn library() -> Entry {
        Entry::file("lib64/ld.so", 0o755, b"\x7fELF linker".to_vec())
    }

    fn untar(bytes: &[u8]) -> Vec<(String, u32, Vec<u8>)> {
        let mut archive = tar::Archive::new(bytes);
        let read = |entry: io::Result<tar::Entry<'_, &[u8]>>| {
            let mut entry = entry.unwrap();
            let mut content = Vec::new();
            entry.read_to_end(&mut content).unwrap();
            let header = entry.header();
            assert_eq!((header.mtime().unwrap(), header.uid().unwrap(), header.gid().unwrap()), (0, 0, 0));
            (entry.path().unwrap().display().to_string(), header.mode().unwrap(), content)
        };
        archive.entries().unwrap().map(read).collect()
    }

    /// An archive as a container engine walks it.
    struct Parsed {
        files: BTreeMap<String, Vec<u8>>,
    }

    impl Parsed {
        fn of(image: &Image<'_>) -> Self {
            let files = untar(&image.archive().unwrap()).into_iter().map(|(path, _, content)| (path, content));
            Self { files: files.collect() }
        }

        fn json(&self, path: &str) -> Value {
            serde_json::from_slice(&self.files[path]).unwrap()
        }

        /// Follows a descriptor, checking what an engine checks.
        fn blob(&self, descriptor: &Value) -> &[u8] {
            let content = &self.files[&blob_path(descriptor)];
            assert_eq!(descriptor["digest"], digest(content));
            assert_eq!(descriptor["size"], content.len());
            content
        }

        fn manifest(&self) -> Value {
            let index = self.json("index.json");
            assert_eq!(index["manifests"].as_array().unwrap().len(), 1);
            serde_json::from_slice(self.blob(&index["manifests"][0])).unwrap()
        }
    }

    #[test]
    fn digests_have_the_form_of_the_oci_specification() {
        // The SHA-256 of no bytes, FIPS 180-4.
        assert_eq!(digest(b""), "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    }

    #[test]
    fn an_engine_finds_name_platform_entrypoint_and_layer_by_digest() {
        let parsed = Parsed::of(&image(vec![agent(), library()]));
        assert_eq!(parsed.json("oci-layout")["imageLayoutVersion"], "1.0.0");
        let entry = &parsed.json("index.json")["manifests"][0];
        assert_eq!(entry["annotations"]["io.containerd.image.name"], "localhost/lb-agent:1.2.3");
        assert_eq!(entry["platform"], json!({ "architecture": "amd64", "os": "linux" }));
        let manifest = parsed.manifest();
        let config: Value = serde_json::from_slice(parsed.blob(&manifest["config"])).unwrap();
        assert_eq!(config["config"]["Entrypoint"], json!(["/usr/bin/lb-agent"]));
        assert_eq!(config["config"]["Cmd"], json!(["run"]));
        let mut layer = Vec::new();
        GzDecoder::new(parsed.blob(&manifest["layers"][0])).read_to_end(&mut layer).unwrap();
        assert_eq!(config["rootfs"]["diff_ids"], json!([digest(&layer)]));
        let paths: Vec<(String, u32)> = untar(&layer).into_iter().map(|(path, mode, _)| (path, mode)).collect();
        let expected = [("lib64", 0o755), ("lib64/ld.so", 0o755), ("usr", 0o755), ("usr/bin", 0o755)];
        assert_eq!(paths[..4], expected.map(|(path, mode)| (path.to_owned(), mode)));
        assert_eq!(untar(&layer)[4], ("usr/bin/lb-agent".to_owned(), 0o755, b"\x7fELF agent".to_vec()));
    }

    #[test]
    fn what_docker_load_reads_names_the_same_blobs() {
        let parsed = Parsed::of(&image(vec![agent()]));
        let (docker, manifest) = (&parsed.json("manifest.json")[0], parsed.manifest());
        assert_eq!(docker["RepoTags"], json!(["localhost/lb-agent:1.2.3"]));
        assert_eq!(docker["Config"], blob_path(&manifest["config"]));
        assert_eq!(docker["Layers"], json!([blob_path(&manifest["layers"][0])]));
    }

    #[test]
    fn the_same_files_in_another_order_give_the_same_bytes() {
        let one = image(vec![agent(), library()]).archive().unwrap();
        let other = image(vec![library(), agent()]).archive().unwrap();
        assert!(one == other);
    }

    #[test]
    fn an_architecture_without_kernel_programs_has_no_image() {
        assert_eq!(architecture("aarch64").unwrap(), "arm64");
        assert!(architecture("riscv64").is_err());
    }
}
