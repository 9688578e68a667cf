//! Which BPF toolchain to use, or what to install next. Pure: facts in, decision out.

use std::path::PathBuf;

/// The ways to a compiler with a `core` for BPF.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Route {
    /// rustup's nightly compiles `core` from rust-src.
    Rustup,
    /// Debian's rustc-web comes with a compiled `core`.
    Debian,
}

/// What the machine has.
#[derive(Clone, Debug, Default)]
pub(crate) struct Found {
    /// rustup is there.
    pub(crate) rustup: bool,
    /// A rustup nightly is installed and has rust-src.
    pub(crate) nightly_with_source: bool,
    /// bpf-linker in PATH: it comes with the LLVM that it was built for, usually rustup's.
    pub(crate) linker_in_path: Option<PathBuf>,
    /// apt is there.
    pub(crate) apt: bool,
    /// apt knows Debian's `core` for BPF.
    pub(crate) apt_offers_core: bool,
    /// apt's lists were fetched by this task already.
    pub(crate) apt_updated: bool,
    /// The major version of LLVM in Debian's compiler; none if it or its `core` for BPF is missing.
    pub(crate) debian_llvm: Option<u32>,
    /// The headers of that LLVM and of the libraries it links against are installed.
    pub(crate) debian_llvm_dev: bool,
    /// bpf-linker below the target directory, built for that LLVM.
    pub(crate) linker_built: Option<PathBuf>,
}

/// What is to be done.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Next {
    Ready { route: Route, linker: PathBuf },
    Do(Step),
}

/// One thing to install. Each is followed by another look.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Step {
    UpdatePackageLists,
    /// Debian's compiler and its `core` for BPF.
    DebianCompiler,
    /// What bpf-linker is built against: LLVM of this major version.
    DebianLlvm(u32),
    BuildLinker(u32),
    NightlyWithSource,
}

/// More looks than any way needs.
pub(crate) const MAX_STEPS: usize = 8;

/// The LLVM versions that the linker this project builds can be built against (features of bpf-linker 0.13).
pub(crate) const LINKER_LLVM: std::ops::RangeInclusive<u32> = 21..=23;

/// A complete toolchain wins, rustup's first: who has rust-src and a linker in PATH has set them up for eBPF. Otherwise
/// Debian's, which needs nothing but packages. A nightly is fetched only where there is a linker to go with it.
pub(crate) fn next(found: &Found) -> Result<Next, String> {
    if found.nightly_with_source
        && let Some(linker) = &found.linker_in_path
    {
        return Ok(Next::Ready { route: Route::Rustup, linker: linker.clone() });
    }
    if let Some(llvm) = found.debian_llvm {
        return debian(found, llvm);
    }
    if found.rustup && found.linker_in_path.is_some() {
        return Ok(Next::Do(Step::NightlyWithSource));
    }
    if found.apt && found.apt_offers_core {
        return Ok(Next::Do(Step::DebianCompiler));
    }
    if found.apt && !found.apt_updated {
        return Ok(Next::Do(Step::UpdatePackageLists));
    }
    Err(missing(found))
}

fn debian(found: &Found, llvm: u32) -> Result<Next, String> {
    if let Some(linker) = &found.linker_built {
        return Ok(Next::Ready { route: Route::Debian, linker: linker.clone() });
    }
    if !LINKER_LLVM.contains(&llvm) {
        return Err(format!(
            "Debian's rustc has LLVM {llvm}, and bpf-linker can be built for LLVM {} to {} only",
            LINKER_LLVM.start(),
            LINKER_LLVM.end()
        ));
    }
    if found.debian_llvm_dev {
        return Ok(Next::Do(Step::BuildLinker(llvm)));
    }
    if found.apt {
        return Ok(Next::Do(Step::DebianLlvm(llvm)));
    }
    Err(missing(found))
}

fn missing(found: &Found) -> String {
    let linker = if found.linker_in_path.is_some() { "found" } else { "missing" };
    let source = if found.nightly_with_source { "found" } else { "missing" };
    format!(
        "no compiler for the kernel programs. Either rustup's: a nightly with rust-src ({source}; `rustup toolchain \
         install nightly --component rust-src`) and bpf-linker in PATH ({linker}; `cargo binstall bpf-linker`). Or \
         Debian's: the packages rustc-web and libstd-rust-web-dev-bpf, which apt does not offer here"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bare_debian() -> Found {
        Found { rustup: true, apt: true, ..Found::default() }
    }

    fn rustup_setup() -> Found {
        Found {
            rustup: true,
            nightly_with_source: true,
            linker_in_path: Some("/home/u/.cargo/bin/bpf-linker".into()),
            ..Found::default()
        }
    }

    #[test]
    fn a_nightly_with_source_and_a_linker_in_path_is_used_as_it_is() {
        let linker = PathBuf::from("/home/u/.cargo/bin/bpf-linker");
        assert_eq!(next(&rustup_setup()), Ok(Next::Ready { route: Route::Rustup, linker: linker.clone() }));
        let both = Found { debian_llvm: Some(22), linker_built: Some("/t/bpf-linker".into()), ..rustup_setup() };
        assert_eq!(next(&both), Ok(Next::Ready { route: Route::Rustup, linker }));
    }

    #[test]
    fn a_bare_debian_machine_gets_lists_then_compiler_then_llvm_then_linker() {
        let mut found = bare_debian();
        assert_eq!(next(&found), Ok(Next::Do(Step::UpdatePackageLists)));
        found.apt_updated = true;
        found.apt_offers_core = true;
        assert_eq!(next(&found), Ok(Next::Do(Step::DebianCompiler)));
        found.debian_llvm = Some(22);
        assert_eq!(next(&found), Ok(Next::Do(Step::DebianLlvm(22))));
        found.debian_llvm_dev = true;
        assert_eq!(next(&found), Ok(Next::Do(Step::BuildLinker(22))));
        found.linker_built = Some("/t/bpf-linker".into());
        assert_eq!(next(&found), Ok(Next::Ready { route: Route::Debian, linker: "/t/bpf-linker".into() }));
    }

    #[test]
    fn the_linker_is_built_for_the_llvm_of_the_compiler_that_was_found() {
        let found = Found { debian_llvm: Some(23), debian_llvm_dev: true, ..bare_debian() };
        assert_eq!(next(&found), Ok(Next::Do(Step::BuildLinker(23))));
        let too_new = Found { debian_llvm: Some(24), ..found };
        let error = next(&too_new).expect_err("no linker for it");
        assert!(error.contains("LLVM 24"), "{error}");
    }

    #[test]
    fn a_nightly_without_source_does_not_keep_a_debian_machine_from_debians_compiler() {
        let found = Found { apt_offers_core: true, nightly_with_source: false, ..bare_debian() };
        assert_eq!(next(&found), Ok(Next::Do(Step::DebianCompiler)));
        let without_linker = Found { nightly_with_source: true, ..found };
        assert_eq!(next(&without_linker), Ok(Next::Do(Step::DebianCompiler)));
    }

    #[test]
    fn where_only_rust_src_is_missing_rustup_fetches_it() {
        let found = Found { nightly_with_source: false, ..rustup_setup() };
        assert_eq!(next(&found), Ok(Next::Do(Step::NightlyWithSource)));
    }

    #[test]
    fn a_machine_with_neither_way_is_told_what_each_way_lacks() {
        let no_apt = Found { rustup: true, ..Found::default() };
        let no_package = Found { apt_updated: true, ..bare_debian() };
        for found in [no_apt, no_package] {
            let error = next(&found).expect_err("nothing to build with");
            for word in ["rust-src (missing", "bpf-linker in PATH (missing", "libstd-rust-web-dev-bpf"] {
                assert!(error.contains(word), "{word}: {error}");
            }
        }
    }
}
