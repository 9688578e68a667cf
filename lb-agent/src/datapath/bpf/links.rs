//! Attaches the programs to a cgroup by links, which are pinned: the kernel keeps them attached without any process.

use std::{
    collections::VecDeque,
    fs, io,
    os::{fd::AsFd as _, unix::fs::MetadataExt as _},
    path::{Path, PathBuf},
};

use aya::Ebpf;

use super::{
    Attached, devices,
    error::{Note, OpenError, system},
    load::entries,
    paths::{Paths, replacement},
    pins,
    preflight::{self, Cgroup},
    programs::{self, Hook, PROGRAMS},
    sys,
};
use crate::cgroups;

/// Attaches every program that is wanted, and detaches the others. A link that hangs where it should gets the new program
/// in the place of the old one, in one step; any other is replaced by a new one, which is there before the old one goes.
///
/// When this has succeeded, no program of an earlier agent runs here: frontends may be written, whose copies
/// ([`lb_common::abi::FrontendCopy`]) only this agent's programs have.
pub(super) fn attach(
    ebpf: &mut Ebpf,
    paths: &Paths,
    cgroup: &Cgroup,
    bind_protection: bool,
) -> Result<Vec<Note>, OpenError> {
    fs::create_dir_all(&paths.links).map_err(system("create", &paths.links))?;
    let mut notes = Vec::new();
    for name in programs::wanted(bind_protection) {
        notes.extend(attach_one(name, Hook::find(ebpf, name)?, &paths.links.join(name), cgroup)?);
    }
    for pin in entries(&paths.links)?.iter().filter(|pin| !devices::is_link(pin)) {
        let name = pin.file_name().unwrap_or_default().to_string_lossy();
        if programs::wanted(bind_protection).all(|wanted| wanted != name) {
            notes.extend(detach(name.into_owned(), pin)?);
        }
    }
    Ok(notes)
}

fn attach_one(name: &'static str, mut hook: Hook<'_>, pin: &Path, cgroup: &Cgroup) -> Result<Option<Note>, OpenError> {
    let old = pins::open(pin, sys::link_info)?;
    let old_cgroup = old.as_ref().map(|(_, info)| info.cgroup_id);
    match (decide(old_cgroup, cgroup.id), old) {
        (Step::Create, _) => {
            link(&mut hook, pin, cgroup)?;
            Ok(None)
        }
        (Step::Replace, Some((old, _))) => {
            sys::link_update(old.as_fd(), hook.fd()?).map_err(system("replace the program of", pin))?;
            Ok(Some(Note::Replaced { program: name }))
        }
        (Step::Replace, None) => Ok(None),
        (Step::Move { reason }, old) => {
            let new = replacement(pin);
            pins::remove(&new)?;
            link(&mut hook, &new, cgroup)?;
            fs::rename(&new, pin).map_err(system("rename over", pin))?;
            // It has no name any more, but somebody may have it open.
            old.map_or(Ok(()), |(old, _)| sys::link_detach(old.as_fd())).map_err(system("detach", pin))?;
            Ok(Some(Note::Moved { program: name, reason }))
        }
    }
}

/// What an agent left that had other flags, was a later build with more programs, or died while it moved a link.
fn detach(name: String, pin: &Path) -> Result<Option<Note>, OpenError> {
    let Some((link, ())) = pins::open(pin, |_| Ok(()))? else {
        return Ok(None);
    };
    sys::link_detach(link.as_fd()).map_err(system("detach", pin))?;
    pins::remove(pin)?;
    Ok(Some(Note::Detached { program: name }))
}

/// What to do about a program's link.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    Create,
    Replace,
    Move { reason: String },
}

fn decide(old: Option<u64>, cgroup: u64) -> Step {
    match old {
        None => Step::Create,
        Some(old) if old == cgroup => Step::Replace,
        Some(0) => Step::Move { reason: "its cgroup was gone".to_owned() },
        Some(old) => Step::Move { reason: format!("it was on another cgroup (id {old})") },
    }
}

fn link(hook: &mut Hook<'_>, pin: &Path, cgroup: &Cgroup) -> Result<(), OpenError> {
    let link = hook.link(&cgroup.directory)?;
    link.pin(pin).map(drop).map_err(|error| system("pin", pin)(io::Error::other(error)))
}

/// Where the programs are attached. A program without a link is left out.
pub(super) fn attached(paths: &Paths) -> Result<Vec<Attached>, OpenError> {
    let mut attached: Vec<Attached> = Vec::new();
    for program in PROGRAMS {
        let Some((_, info)) = pins::open(&paths.links.join(program), sys::link_info)? else {
            continue;
        };
        let known = attached.iter().find(|other| other.cgroup_id == info.cgroup_id);
        let cgroup = match known {
            Some(other) => other.cgroup.clone(),
            None => find_cgroup(info.cgroup_id)?,
        };
        let (program_id, link_id, cgroup_id) = (info.program_id, info.id, info.cgroup_id);
        attached.push(Attached { program, program_id, link_id, cgroup_id, cgroup });
    }
    Ok(attached)
}

/// The directory of a cgroup, by its number, nearest the root first.
fn find_cgroup(id: u64) -> Result<Option<PathBuf>, OpenError> {
    let mut directories: VecDeque<_> = preflight::cgroup2_mount()?.into_iter().collect();
    while let Some(directory) = directories.pop_front() {
        // A cgroup may go while we look.
        let Ok(metadata) = fs::metadata(&directory) else {
            continue;
        };
        if metadata.ino() == id {
            return Ok(Some(directory));
        }
        directories.extend(cgroups::children(&directory).map_err(system("read", &directory))?);
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_on_the_right_cgroup_keeps_its_place() {
        assert_eq!(decide(None, 7), Step::Create);
        assert_eq!(decide(Some(7), 7), Step::Replace);
    }

    #[test]
    fn a_link_elsewhere_or_on_a_dead_cgroup_is_replaced_and_says_why() {
        assert!(matches!(decide(Some(0), 7), Step::Move { reason } if reason.contains("gone")));
        assert!(matches!(decide(Some(8), 7), Step::Move { reason } if reason.contains('8')));
    }
}
