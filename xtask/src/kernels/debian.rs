//! Debian's kernels, unpacked below target/ and kept there. Each comes from a release of its own, by an apt source whose
//! lists lie below target/ as well: the machine's own packages and sources stay as they are, and no root is needed.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::packages::{self, has_apt};
use crate::process::{output, run, say};
use crate::workspace::Workspace;

/// A kernel and the Debian release that has it.
pub(super) struct Kernel {
    /// What the user calls it.
    pub(super) name: &'static str,
    suite: &'static str,
}

/// From the oldest that is supported to the newest there is.
pub(super) const KERNELS: [Kernel; 4] = [
    Kernel { name: "5.10", suite: "bullseye" },
    Kernel { name: "6.1", suite: "bookworm" },
    Kernel { name: "6.12", suite: "trixie" },
    Kernel { name: "newest", suite: "sid" },
];

/// Without drivers for real machines: small, and with all that virtual ones have built in.
const PACKAGE: &str = "linux-image-cloud-amd64";

/// The package above only names another one. Since 7.x image and modules are packages of their own.
const PARTS: [&str; 3] = ["linux-image-", "linux-binary-", "linux-modules-"];

/// A kernel's files.
pub(super) struct Files {
    /// Below it lies `lib/modules/RELEASE`.
    root: PathBuf,
    /// What `uname -r` says.
    pub(super) release: String,
    /// What a boot loader loads.
    pub(super) image: PathBuf,
}

impl Kernel {
    /// Fetches it, unless that was done before.
    pub(super) fn ensure(&self, ws: &Workspace) -> Result<Files> {
        let root = ws.target().join("kernels").join(self.name);
        if !root.is_dir() {
            self.fetch(&root).with_context(|| format!("fetch Debian's kernel {} ({})", self.name, self.suite))?;
        }
        files(root)
    }

    /// Renamed at the end, so that what was interrupted does not look finished.
    fn fetch(&self, root: &Path) -> Result<()> {
        if !has_apt() {
            bail!("it comes as a Debian package, and there is no apt-get here to get it with");
        }
        say(&format!(
            "fetching Debian's kernel {} below target/: tests on other kernels than this machine's",
            self.name
        ));
        let partial = root.with_file_name(format!("{}.partial", self.name));
        clear(&partial)?;
        let suite = Suite::new(&partial.join("apt"), self.suite)?;
        let mut wanted = vec![PACKAGE.to_owned()];
        while let Some(package) = wanted.pop() {
            wanted.extend(suite.parts_of(&package)?);
            if package != PACKAGE {
                run(suite.command("apt-get").args(["-qq", "download", &package]).current_dir(&partial))?;
            }
        }
        packages::unpack_archives(&partial)?;
        if !partial.join("lib").exists() {
            symlink("usr/lib", partial.join("lib")).context("link lib to usr/lib")?;
        }
        run(Command::new("mv").arg("-T").arg(&partial).arg(root))?;
        let release = files(root.to_owned())?.release;
        run(Command::new("depmod").arg("-b").arg(root).arg(release)).context("list what its modules depend on")
    }
}

fn clear(directory: &Path) -> Result<()> {
    if directory.exists() {
        fs::remove_dir_all(directory).with_context(|| format!("remove {}", directory.display()))?;
    }
    fs::create_dir_all(directory).with_context(|| format!("create {}", directory.display()))
}

fn files(root: PathBuf) -> Result<Files> {
    let modules = root.join("lib/modules");
    let mut entries = modules.read_dir().with_context(|| format!("list {}", modules.display()))?;
    let first = entries.next().with_context(|| format!("{} is empty: remove {}", modules.display(), root.display()))?;
    let release = first.with_context(|| format!("list {}", modules.display()))?.file_name();
    let release = release.into_string().ok().context("a release that is no text")?;
    // The latter since 7.x.
    let places = [root.join(format!("boot/vmlinuz-{release}")), modules.join(&release).join("vmlinuz")];
    let image = places.into_iter().find(|path| path.is_file());
    let image = image.with_context(|| format!("no kernel image in {}: remove it", root.display()))?;
    Ok(Files { root, release, image })
}

impl Files {
    /// The files of these modules and of those that they need, in the order in which they are to be loaded. What is built
    /// into the kernel has none.
    pub(super) fn modules(&self, names: &[&str]) -> Result<Vec<PathBuf>> {
        let mut found = Vec::new();
        for name in names {
            let mut modprobe = Command::new("modprobe");
            modprobe.arg("-d").arg(&self.root).args(["-S", &self.release, "--show-depends", name]);
            let text = output(&mut modprobe).with_context(|| format!("find the module {name} of {}", self.release))?;
            for file in text.lines().filter_map(|line| line.strip_prefix("insmod ")) {
                let file = PathBuf::from(file.trim());
                if !found.contains(&file) {
                    found.push(file);
                }
            }
        }
        Ok(found)
    }
}

/// A Debian release as apt sees it by options of its own.
struct Suite {
    options: Vec<String>,
}

impl Suite {
    /// With fresh lists, which are kept in `directory`.
    fn new(directory: &Path, name: &str) -> Result<Self> {
        for sub in ["lists/partial", "cache/archives/partial"] {
            clear(&directory.join(sub))?;
        }
        let sources = directory.join("sources.list");
        let line = format!("deb [arch=amd64] {} {name} main\n", mirror()?);
        fs::write(&sources, line).with_context(|| format!("write {}", sources.display()))?;
        let option = |name: &str, path: &Path| ["-o".to_owned(), format!("{name}={}", path.display())];
        let options = [
            option("Dir::Etc::sourcelist", &sources),
            option("Dir::Etc::sourceparts", Path::new("/dev/null")),
            option("Dir::State::lists", &directory.join("lists")),
            option("Dir::Cache", &directory.join("cache")),
            // Also where root calls: apt's own user may not be able to read target/.
            ["-o".to_owned(), "APT::Sandbox::User=root".to_owned()],
        ];
        let suite = Self { options: options.concat() };
        run(suite.command("apt-get").args(["-qq", "-o", "Acquire::Languages=none", "update"]))?;
        Ok(suite)
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.args(&self.options);
        command
    }

    fn parts_of(&self, package: &str) -> Result<Vec<String>> {
        Ok(parts(&output(self.command("apt-cache").args(["show", "--no-all-versions", package]))?))
    }
}

/// The kernel's own packages among the dependencies of a package that `apt-cache show` describes.
fn parts(description: &str) -> Vec<String> {
    let dependencies = description.lines().find_map(|line| line.strip_prefix("Depends:")).unwrap_or_default();
    let names = dependencies.split(',').filter_map(|dependency| dependency.split_whitespace().next());
    names.filter(|name| PARTS.iter().any(|part| name.starts_with(part))).map(str::to_owned).collect()
}

/// Where this machine gets Debian's packages from: any mirror has all releases.
fn mirror() -> Result<String> {
    let ask = || {
        let targets =
            ["indextargets", "--format", "$(REPO_URI)", "Created-By: Packages", "Origin: Debian", "Label: Debian"];
        output(Command::new("apt-get").args(targets))
    };
    let mut found = ask()?;
    if found.trim().is_empty() {
        // A bare machine has no lists, and apt then does not know whose its sources are.
        packages::update()?;
        found = ask()?;
    }
    let first = found.lines().next().context("no source in /etc/apt is Debian's: old kernels come from there")?;
    Ok(first.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_packages_dependencies_those_with_parts_of_the_kernel_are_fetched() {
        let description = "Package: linux-image-7.2.13+deb14-cloud-amd64\nVersion: 7.2.13-1\n\
                           Depends: dracut | linux-initramfs-tool, linux-base-7.2 (= 7.2.13-1), \
                           linux-binary-7.2.13+deb14-cloud-amd64 (= 7.2.13-1), linux-modules-7.2 (= 7.2.13-1)\n";
        assert_eq!(parts(description), ["linux-binary-7.2.13+deb14-cloud-amd64", "linux-modules-7.2"]);
        assert_eq!(parts("Depends: kmod, linux-base (>= 4.3)\n"), Vec::<String>::new());
    }
}
