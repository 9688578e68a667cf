//! Reads the directory: which files there are, and what changed in which. Knows nothing of what they say.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use super::set::Content;

/// Which files to read.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Look {
    /// These were written or replaced: read them, whatever they look like from outside.
    pub(super) written: BTreeSet<PathBuf>,
    /// Something happened to these that may come before their content is there (a file that was just created): read them
    /// if no write can follow.
    pub(super) touched: BTreeSet<PathBuf>,
    /// Read the others too if they look different from last time and were not modified for so long: whoever writes in
    /// place may still be at it.
    pub(super) all_settled_for: Option<Duration>,
}

impl Look {
    /// All that looks different from last time.
    pub(super) fn everything() -> Self {
        Self { all_settled_for: Some(Duration::ZERO), ..Self::default() }
    }
}

/// The files seen so far.
#[derive(Debug)]
pub(super) struct Directory {
    path: PathBuf,
    identity: Option<(u64, u64)>,
    seen: BTreeMap<PathBuf, Seen>,
}

#[derive(Debug, PartialEq)]
struct Seen {
    fingerprint: Option<Fingerprint>,
    readable: bool,
}

/// What a file looks like from outside: device, inode, size, times of change of content and of inode.
type Fingerprint = (u64, u64, u64, (i64, i64), (i64, i64));

impl Directory {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, identity: None, seen: BTreeMap::new() }
    }

    /// Whether the path leads to another directory than at the last look.
    pub(super) fn is_replaced(&self) -> bool {
        self.identity.is_some() && self.identity != identity(&self.path).ok()
    }

    /// Reads what `look` asks for. An error means that the directory itself cannot be read; nothing is forgotten then.
    pub(super) fn look(&mut self, look: &Look) -> io::Result<Vec<(Arc<str>, Content)>> {
        let identity = identity(&self.path)?;
        let present = manifests(&self.path)?;
        self.identity = Some(identity);
        let gone: Vec<PathBuf> = self.seen.keys().filter(|path| !present.contains(*path)).cloned().collect();
        let mut contents = Vec::new();
        for path in gone {
            self.seen.remove(&path);
            contents.push((file_name(&path), Content::Gone));
        }
        for path in present {
            let metadata = fs::metadata(&path);
            if metadata.as_ref().is_ok_and(fs::Metadata::is_dir) {
                continue;
            }
            let fingerprint = metadata.as_ref().ok().map(fingerprint);
            if self.is_due(&path, fingerprint, look) {
                let content = read(&path);
                let readable = matches!(content, Content::Text(_));
                contents.push((file_name(&path), content));
                self.seen.insert(path, Seen { fingerprint, readable });
            }
        }
        Ok(contents)
    }

    /// Whether no file was seen, in a directory that can be read.
    pub(super) fn is_empty(path: &Path) -> io::Result<bool> {
        Ok(manifests(path)?.is_empty())
    }

    fn is_due(&self, path: &Path, fingerprint: Option<Fingerprint>, look: &Look) -> bool {
        let seen = self.seen.get(path);
        if look.written.contains(path) {
            return true;
        }
        if look.touched.contains(path) {
            let was_unreadable = seen.is_some_and(|seen| !seen.readable);
            let complete = fs::symlink_metadata(path).is_ok_and(|m| !m.is_file() || m.nlink() > 1);
            if was_unreadable || complete {
                return true;
            }
        }
        let changed = seen.is_none_or(|seen| seen.fingerprint != fingerprint);
        changed && look.all_settled_for.is_some_and(|age| is_older(fingerprint, age))
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    fs::metadata(path).map(|metadata| (metadata.dev(), metadata.ino()))
}

/// The manifest files of the directory: not hidden (as a ConfigMap volume's `..data` is), not in subdirectories.
fn manifests(directory: &Path) -> io::Result<BTreeSet<PathBuf>> {
    let mut files = BTreeSet::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if is_manifest(&path) {
            files.insert(path);
        }
    }
    Ok(files)
}

/// Whether a file's name says that it is a manifest.
pub(super) fn is_manifest(path: &Path) -> bool {
    let hidden = path.file_name().is_none_or(|name| name.as_encoded_bytes().starts_with(b"."));
    let extension = path.extension().and_then(|extension| extension.to_str());
    !hidden && matches!(extension, Some("yaml" | "yml" | "json"))
}

fn file_name(path: &Path) -> Arc<str> {
    path.display().to_string().into()
}

fn read(path: &Path) -> Content {
    match fs::read(path) {
        Ok(bytes) => match String::from_utf8(bytes) {
            Ok(text) => Content::Text(text),
            Err(_) => Content::Unreadable("not UTF-8 text".to_owned()),
        },
        Err(error) => Content::Unreadable(format!("cannot be read: {error}")),
    }
}

fn fingerprint(metadata: &fs::Metadata) -> Fingerprint {
    let modified = (metadata.mtime(), metadata.mtime_nsec());
    let changed = (metadata.ctime(), metadata.ctime_nsec());
    (metadata.dev(), metadata.ino(), metadata.size(), modified, changed)
}

fn is_older(fingerprint: Option<Fingerprint>, age: Duration) -> bool {
    let Some((_, _, _, (seconds, nanoseconds), _)) = fingerprint else { return true };
    let (Ok(seconds), Ok(nanoseconds)) = (u64::try_from(seconds), u32::try_from(nanoseconds)) else { return true };
    let modified = SystemTime::UNIX_EPOCH + Duration::new(seconds, nanoseconds);
    // A file from the future (a clock that was set back) is as old as it gets.
    SystemTime::now().duration_since(modified).map_or(true, |passed| passed >= age)
}
