//! The shared libraries of a program, as its own dynamic linker finds them.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::process::output;

/// Paths of all libraries, the dynamic linker included. A static program has none.
pub(crate) fn of(program: &Path) -> Result<Vec<PathBuf>> {
    match output(Command::new("ldd").arg(program).env("LC_ALL", "C")) {
        // ldd fails with these words.
        Err(error) if error.to_string().ends_with("not a dynamic executable") => Ok(Vec::new()),
        other => parse(&other.with_context(|| format!("list the libraries of {}", program.display()))?),
    }
}

/// Reads what ldd(1) prints: `NAME => PATH (ADDRESS)`, `PATH (ADDRESS)` for the dynamic linker, `NAME (ADDRESS)` for
/// what the kernel provides.
fn parse(text: &str) -> Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for line in text.lines() {
        let found = line.split_once("=>").map_or(line, |(_, path)| path).trim();
        if found == "not found" {
            bail!("library {} is not installed", line.split_once("=>").map_or("", |(name, _)| name.trim()));
        }
        let path = found.split(" (").next().unwrap_or(found);
        if path.starts_with('/') {
            paths.push(PathBuf::from(path));
        }
    }
    Ok(paths)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_and_the_dynamic_linker_are_taken_and_the_kernels_page_is_not() {
        let text = "\tlinux-vdso.so.1 (0x00007ffd)\n\
                    \tlibgcc_s.so.1 => /lib/x86_64-linux-gnu/libgcc_s.so.1 (0x00007f)\n\
                    \tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f)\n\
                    \t/lib64/ld-linux-x86-64.so.2 (0x00007f)\n";
        let paths = parse(text).expect("a complete list");
        let expected =
            ["/lib/x86_64-linux-gnu/libgcc_s.so.1", "/lib/x86_64-linux-gnu/libc.so.6", "/lib64/ld-linux-x86-64.so.2"];
        assert_eq!(paths, expected.map(PathBuf::from));
    }

    #[test]
    fn a_static_program_needs_none() {
        assert_eq!(parse("\tstatically linked\n").expect("no libraries"), Vec::<PathBuf>::new());
    }

    #[test]
    fn a_missing_library_is_named() {
        let error = parse("\tlibfoo.so.3 => not found\n").expect_err("an image that cannot start");
        assert!(error.to_string().contains("libfoo.so.3"), "{error}");
    }
}
