//! `cargo xtask ebpf`: compiles the kernel programs and puts the object where the agent's build looks for it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use object::build::elf::{Builder, SectionData};
use object::elf::SHT_STRTAB;

use crate::process::run;
use crate::toolchain::{self, TARGET};
use crate::workspace::Workspace;

/// How the optimiser is told to compile the other build, instead of what the profile says.
const OTHER_OPT_LEVEL: &str = "2";

/// Compiles; returns the object's path.
pub(crate) fn build(ws: &Workspace) -> Result<PathBuf> {
    let toolchain = toolchain::ensure(ws)?;
    toolchain.announce();
    let object = ws.ebpf_object();
    compile(toolchain.cargo(ws, "build", &ws.ebpf_target()), &ws.ebpf_target(), &object)?;
    Ok(object)
}

/// Compiles the same programs to other instructions: what tests take for another build that has the same layout of the maps.
pub(crate) fn build_other(ws: &Workspace) -> Result<()> {
    let target = ws.other_ebpf_target();
    let mut cargo = toolchain::ensure(ws)?.cargo(ws, "build", &target);
    cargo.env("CARGO_PROFILE_BPF_OPT_LEVEL", OTHER_OPT_LEVEL);
    compile(cargo, &target, &ws.other_ebpf_object())
}

fn compile(mut cargo: Command, target: &Path, object: &Path) -> Result<()> {
    run(cargo.args(["--package", "lb-ebpf", "--profile", "bpf"])).context("compile the kernel programs")?;
    let built = target.join(TARGET).join("bpf/lb-ebpf");
    let linked = fs::read(&built).with_context(|| format!("read {}", built.display()))?;
    let slim =
        without_dwarf(&linked).with_context(|| format!("leave out the debug sections of {}", built.display()))?;
    write_if_changed(object, &slim).with_context(|| format!("write {}", object.display()))
}

/// The object without its DWARF sections, which are two thirds of it and of which BTF is made when it is linked. The agent
/// would carry them in its memory; the kernel, the verifier's log and bpftool take names, types and lines from BTF.
fn without_dwarf(object: &[u8]) -> Result<Vec<u8>> {
    let mut elf = Builder::read(object)?;
    for section in &mut elf.sections {
        let name = section.name.as_slice();
        section.delete = name.starts_with(b".debug_") || name.starts_with(b".rel.debug_");
    }
    elf.delete_orphans();
    // LLVM keeps the names of sections and of symbols in one table; this library writes two.
    let names = elf.sections.add();
    names.name = b".shstrtab".as_slice().into();
    names.sh_type = SHT_STRTAB;
    names.data = SectionData::SectionString;
    let mut slim = Vec::new();
    elf.write(&mut slim)?;
    Ok(slim)
}

/// The agent is compiled again when its object is newer, so an equal one stays as it is.
fn write_if_changed(to: &Path, new: &[u8]) -> std::io::Result<()> {
    if fs::read(to).is_ok_and(|old| old == new) {
        return Ok(());
    }
    if let Some(dir) = to.parent() {
        fs::create_dir_all(dir)?;
    }
    // Renamed into place: a build that runs at the same time must not read half of it.
    let partial = to.with_extension(format!("o.{}", std::process::id()));
    fs::write(&partial, new)?;
    fs::rename(&partial, to)
}
