//! What a virtual machine starts from: programs of this machine with their libraries, modules of the kernel, and `init.sh`,
//! in a cpio archive that is its root file system.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::libraries;
use crate::process::{find, run};

const INIT: &str = include_str!("init.sh");

/// A directory that becomes the archive.
pub(super) struct Initramfs {
    root: PathBuf,
}

impl Initramfs {
    /// With init and its shell, in an empty directory.
    pub(super) fn new(root: PathBuf) -> Result<Self> {
        if root.exists() {
            fs::remove_dir_all(&root).with_context(|| format!("remove {}", root.display()))?;
        }
        let files = Self { root };
        files.script("init", INIT)?;
        files.program_of_this_machine("busybox", "bin/busybox")?;
        Ok(files)
    }

    /// A shell script.
    pub(super) fn script(&self, inside: &str, text: &str) -> Result<()> {
        let path = self.make_room(Path::new(inside))?;
        fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))
            .with_context(|| format!("chmod {}", path.display()))
    }

    /// A file as it is.
    pub(super) fn copy(&self, from: &Path, inside: &Path) -> Result<()> {
        let to = self.make_room(inside)?;
        fs::copy(from, &to).with_context(|| format!("copy {} to {}", from.display(), to.display())).map(drop)
    }

    /// A program that is installed here, with its libraries.
    pub(super) fn program_of_this_machine(&self, name: &str, inside: &str) -> Result<()> {
        let path = find(name).with_context(|| format!("{name} is not installed"))?;
        self.copy(&path, Path::new(inside))?;
        self.libraries(&path)
    }

    /// A program that was built here, with its libraries and without what only a debugger reads.
    pub(super) fn program(&self, built: &Path, inside: &Path) -> Result<()> {
        let to = self.make_room(inside)?;
        run(Command::new("strip").arg("--strip-debug").arg("-o").arg(&to).arg(built))?;
        self.libraries(built)
    }

    /// At the paths where the dynamic linker of this machine looks for them.
    fn libraries(&self, program: &Path) -> Result<()> {
        for library in libraries::of(program)? {
            let inside = library.strip_prefix("/").with_context(|| format!("{} is relative", library.display()))?;
            if !self.root.join(inside).exists() {
                self.copy(&library, inside)?;
            }
        }
        Ok(())
    }

    /// Modules in the order in which they are to be loaded, unpacked: not every kernel can do that itself.
    pub(super) fn modules(&self, files: &[PathBuf]) -> Result<()> {
        for (number, file) in files.iter().enumerate() {
            let name = file.file_name().unwrap_or_default().to_string_lossy();
            let plain = name.split(".ko").next().unwrap_or(&name);
            let to = self.make_room(Path::new(&format!("modules/{number:02}-{plain}.ko")))?;
            match file.extension().and_then(|extension| extension.to_str()) {
                Some("ko") => {
                    fs::copy(file, &to).with_context(|| format!("copy {}", file.display()))?;
                }
                Some("xz") => unpack("xz", file, &to)?,
                Some("zst") => unpack("zstd", file, &to)?,
                _ => bail!("{}: packed in a way that is not known here", file.display()),
            }
        }
        Ok(())
    }

    /// Writes the archive, in the form that the kernel reads (Documentation/driver-api/early-userspace).
    pub(super) fn write(&self, archive: &Path) -> Result<()> {
        let pack = "cd \"$0\" && find . | busybox cpio -o -H newc >\"$1\" 2>/dev/null";
        run(Command::new("sh").args(["-c", pack]).arg(&self.root).arg(archive))
            .with_context(|| format!("write {}", archive.display()))
    }

    fn make_room(&self, inside: &Path) -> Result<PathBuf> {
        let path = self.root.join(inside);
        let directory = path.parent().unwrap_or(&self.root);
        fs::create_dir_all(directory).with_context(|| format!("create {}", directory.display()))?;
        Ok(path)
    }
}

fn unpack(program: &str, file: &Path, to: &Path) -> Result<()> {
    run(Command::new("sh").args(["-c", "\"$0\" -dc \"$1\" >\"$2\"", program]).arg(file).arg(to))
}
