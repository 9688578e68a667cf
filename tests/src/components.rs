//! The Kubernetes programs that tests run for real: where they come from, and how they are built.
//!
//! kube-apiserver, kube-controller-manager, kube-proxy and CoreDNS are in no Debian package, so they are built from the
//! Go modules in `tests/components/`, once, into `target/components/`. Where `KUBEBUILDER_ASSETS` names a directory
//! that has a program, that one is used instead, as other test suites of the ecosystem do. This file installs no
//! packages: a missing one is an error that names it (`cargo xtask` installs them).

use std::{
    env,
    ffi::OsStr,
    fmt, fs,
    path::{Path, PathBuf},
    process::Command,
    time::Instant,
};

use anyhow::{Context as _, Result, bail};

/// A program that tests run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Component {
    /// etcd, from Debian's `etcd-server`.
    Etcd,
    /// kube-apiserver.
    ApiServer,
    /// kube-controller-manager.
    ControllerManager,
    /// kube-proxy: the peer that the benchmark compares with.
    KubeProxy,
    /// CoreDNS.
    CoreDns,
}

impl Component {
    /// All of them, in the order in which they are built.
    pub const ALL: [Self; 5] = [Self::Etcd, Self::KubeProxy, Self::ApiServer, Self::ControllerManager, Self::CoreDns];

    /// The name of its binary.
    pub fn name(self) -> &'static str {
        match self {
            Self::Etcd => "etcd",
            Self::ApiServer => "kube-apiserver",
            Self::ControllerManager => "kube-controller-manager",
            Self::KubeProxy => "kube-proxy",
            Self::CoreDns => "coredns",
        }
    }

    /// The component with this binary name.
    pub fn by_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|component| component.name() == name)
    }

    fn source(self) -> Source {
        match self {
            Self::Etcd => Source::Package { debian: "etcd-server" },
            Self::ApiServer | Self::ControllerManager | Self::KubeProxy => {
                Source::Go { module: "kubernetes", package: format!("k8s.io/kubernetes/cmd/{}", self.name()) }
            }
            Self::CoreDns => Source::Go { module: "coredns", package: "github.com/coredns/coredns".to_owned() },
        }
    }
}

impl fmt::Display for Component {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

enum Source {
    /// In `PATH`, put there by a Debian package.
    Package { debian: &'static str },
    /// Built in the Go module `tests/components/<module>`.
    Go { module: &'static str, package: String },
}

/// The path of a component's binary, which is built first if it has to be. What is built, why and how long it took goes
/// to stderr.
pub fn ensure(component: Component) -> Result<PathBuf> {
    if let Some(path) = in_assets(component, env::var_os("KUBEBUILDER_ASSETS").as_deref()) {
        return Ok(path);
    }
    match component.source() {
        Source::Package { debian } => in_path(component.name(), env::var_os("PATH").as_deref())
            .with_context(|| format!("{component} is not in PATH: apt-get install {debian}")),
        Source::Go { module, package } => built(component, module, &package),
    }
}

/// The workspace's target directory.
pub fn target_dir() -> PathBuf {
    env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| concat!(env!("CARGO_MANIFEST_DIR"), "/../target").into(), PathBuf::from)
}

fn in_assets(component: Component, assets: Option<&OsStr>) -> Option<PathBuf> {
    Some(Path::new(assets?).join(component.name())).filter(|path| path.is_file())
}

fn in_path(name: &str, path: Option<&OsStr>) -> Option<PathBuf> {
    env::split_paths(path?).map(|dir| dir.join(name)).find(|path| path.is_file())
}

fn built(component: Component, module: &str, package: &str) -> Result<PathBuf> {
    let module = Path::new(env!("CARGO_MANIFEST_DIR")).join("components").join(module);
    let dir = target_dir().join("components");
    fs::create_dir_all(&dir).with_context(|| format!("creating {}", dir.display()))?;
    // Test processes run side by side; the second one waits here for what the first one builds.
    let lock = fs::File::create(dir.join(".lock")).context("creating the lock of target/components")?;
    lock.lock().context("locking target/components")?;

    let binary = dir.join(component.name());
    let recipe = Recipe::read(&module)?;
    let recorded = dir.join(format!("{component}.built-from"));
    let why = if !binary.is_file() {
        "not built yet"
    } else if fs::read_to_string(&recorded).is_ok_and(|text| text == recipe.text()) {
        return Ok(binary);
    } else {
        "its Go module or build flags changed"
    };
    eprintln!("building {component} ({why}; minutes with an empty Go build cache)");
    let start = Instant::now();
    recipe.build(&module, package, &binary)?;
    fs::write(&recorded, recipe.text()).with_context(|| format!("writing {}", recorded.display()))?;
    eprintln!("built {component} in {} s: {}", start.elapsed().as_secs(), binary.display());
    Ok(binary)
}

/// All that decides what a build gives: a binary is kept as long as this stays the same.
struct Recipe {
    go_mod: String,
    ldflags: String,
}

impl Recipe {
    fn read(module: &Path) -> Result<Self> {
        let path = module.join("go.mod");
        let go_mod = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
        let ldflags = match kubernetes_version(&go_mod) {
            Some(version) => format!("-s -w {}", version_flags(version)),
            None => "-s -w".to_owned(),
        };
        Ok(Self { go_mod, ldflags })
    }

    fn text(&self) -> String {
        format!("{}\n{}", self.ldflags, self.go_mod)
    }

    fn build(&self, module: &Path, package: &str, binary: &Path) -> Result<()> {
        let partial = binary.with_extension("partial");
        let status = Command::new("go")
            .current_dir(module)
            .env("CGO_ENABLED", "0")
            // The committed go.sum is all that a build may use; no version is looked up anew.
            .args(["build", "-mod=readonly", "-buildvcs=false", "-ldflags", &self.ldflags, "-o"])
            .arg(&partial)
            .arg(package)
            .status()
            .context("starting `go`: install Go 1.21 or newer (it fetches the version that go.mod names)")?;
        if !status.success() {
            bail!("`go build {package}` in {} failed: {status}", module.display());
        }
        // Renamed at the end, so that a build that was interrupted leaves nothing that looks finished.
        fs::rename(&partial, binary).with_context(|| format!("renaming {}", partial.display()))
    }
}

/// The version of k8s.io/kubernetes that a go.mod requires, if it does.
fn kubernetes_version(go_mod: &str) -> Option<&str> {
    go_mod.lines().find_map(|line| line.trim().strip_prefix("k8s.io/kubernetes v")?.split_whitespace().next())
}

/// Without these, the programs take themselves for v0.0.0 and refuse emulation versions and feature gates.
fn version_flags(version: &str) -> String {
    let mut numbers = version.split('.');
    let (major, minor) = (numbers.next().unwrap_or_default(), numbers.next().unwrap_or_default());
    let component_base = "k8s.io/component-base/version";
    format!(
        "-X {component_base}.gitVersion=v{version} -X {component_base}.gitMajor={major} \
         -X {component_base}.gitMinor={minor} -X k8s.io/client-go/pkg/version.gitVersion=v{version}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn assets_directory_wins_only_for_the_programs_that_it_has() {
        let assets = tempfile::tempdir().unwrap();
        fs::write(assets.path().join("etcd"), "").unwrap();
        let found = |component| in_assets(component, Some(assets.path().as_os_str()));
        assert_eq!(found(Component::Etcd), Some(assets.path().join("etcd")));
        assert_eq!(found(Component::CoreDns), None);
    }

    #[test]
    fn every_component_is_found_by_the_name_of_its_binary() {
        for component in Component::ALL {
            assert_eq!(Component::by_name(component.name()), Some(component));
        }
        assert_eq!(Component::by_name("kubelet"), None);
    }

    #[test]
    fn built_programs_report_the_version_that_the_module_requires() {
        let go_mod =
            "require (\n\tk8s.io/kubernetes v1.36.3 // indirect\n)\nreplace k8s.io/api => k8s.io/api v0.36.3\n";
        let version = kubernetes_version(go_mod).unwrap();
        assert_eq!(version, "1.36.3");
        assert!(version_flags(version).contains("gitVersion=v1.36.3 "), "{}", version_flags(version));
        assert!(version_flags(version).contains("gitMinor=36 "), "{}", version_flags(version));
        assert_eq!(kubernetes_version("require github.com/coredns/coredns v1.12.4\n"), None);
    }
}
