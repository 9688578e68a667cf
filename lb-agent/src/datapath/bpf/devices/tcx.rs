//! tcx links: one for each device and hook, pinned as `dev-INDEX-HOOK` beside the links to the cgroup. By number, because
//! names may hold what a pin's may not (a dot), and change.

use std::{
    collections::BTreeMap,
    fs, io,
    os::fd::{AsFd as _, OwnedFd},
    path::{Path, PathBuf},
};

use aya::programs::{
    LinkOrder, ProgramError, ProgramInfo, SchedClassifier,
    links::{FdLink, LinkError},
    tc::TcAttachOptions,
};

use super::{
    super::{
        error::{OpenError, system},
        load::entries,
        paths::replacement,
        pins,
        sys::{self, DeviceLinkInfo},
    },
    Classifier, DeviceRef, Hook, Programs, at, on_device, os_error, refused,
};

const PREFIX: &str = "dev-";

fn pin(links: &Path, index: u32, hook: Hook) -> PathBuf {
    links.join(format!("{PREFIX}{index}-{}", hook.name()))
}

/// Whether a pin among those of links is one of a device, finished or not.
pub(in super::super) fn is_link(pin: &Path) -> bool {
    pin.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(PREFIX.as_bytes()))
}

/// The device and hook of a pin, if it is one of these.
fn parse(pin: &Path) -> Option<(u32, Hook)> {
    let (index, hook) = pin.file_name()?.to_str()?.strip_prefix(PREFIX)?.split_once('-')?;
    let hook = Hook::ALL.into_iter().find(|known| known.name() == hook)?;
    Some((index.parse().ok()?, hook))
}

fn open(pin: &Path) -> Result<Option<(OwnedFd, DeviceLinkInfo)>, OpenError> {
    pins::open(pin, sys::device_link_info)
}

pub(super) fn attach(
    classifier: &mut Classifier,
    device: DeviceRef<'_>,
    hook: Hook,
    links: &Path,
) -> Result<(), OpenError> {
    let pin = pin(links, device.index, hook);
    if let Some((link, info)) = open(&pin)?
        && info.device == device.index
    {
        sys::link_update(link.as_fd(), classifier.fd()?).map_err(system("replace the program of", &pin))?;
        // A device of another network namespace may have the same number: an agent may have run there.
        if running(device, hook)?.iter().any(|(id, _)| *id == classifier.id) {
            return Ok(());
        }
    }
    create(classifier, device, hook, &pin)
}

/// The old link, if there is one, goes with its last name, when the new one is there.
fn create(classifier: &mut Classifier, device: DeviceRef<'_>, hook: Hook, pin: &Path) -> Result<(), OpenError> {
    let name = classifier.name;
    let refuse = |error: ProgramError| refused(name, &On { device: device.name.to_owned(), hook, error });
    // First: another's program that ends the run for every packet must not cut Services off. What is not a Service's is
    // passed on to it.
    let options = TcAttachOptions::TcxOrder(LinkOrder::first());
    let program = &mut classifier.program;
    let link = program.attach_with_options(device.name, hook.attach_type(), options).map_err(refuse)?;
    let link = program.take_link(link).map_err(refuse)?;
    let link: FdLink = link.try_into().map_err(|error: LinkError| refused(name, &error))?;
    let new = replacement(pin);
    pins::remove(&new)?;
    let pinned = link.pin(&new).map_err(|error| system("pin", &new)(io::Error::other(error)))?;
    drop(pinned);
    let found = open(&new)?.map(|(_, info)| info.device);
    if found != Some(device.index) {
        pins::remove(&new)?;
        return Err(on_device("attach to", device)(io::Error::other("it is another device by now; tried again")));
    }
    fs::rename(&new, pin).map_err(system("rename over", pin))
}

#[derive(Debug, thiserror::Error)]
#[error("on {device}, {}", hook.name())]
struct On {
    device: String,
    hook: Hook,
    #[source]
    error: ProgramError,
}

pub(super) fn detach(index: u32, hook: Hook, links: &Path) -> Result<(), OpenError> {
    let pin = pin(links, index, hook);
    let Some((link, _)) = open(&pin)? else {
        return Ok(());
    };
    sys::link_detach(link.as_fd()).map_err(system("detach", &pin))?;
    pins::remove(&pin)
}

/// Removes the pins of links whose device is gone: the kernel has detached them.
pub(super) fn forget_gone(links: &Path) -> Result<(), OpenError> {
    for pin in entries(links)?.iter().filter(|pin| parse(pin).is_some()) {
        let device = open(pin)?.map(|(_, info)| info.device);
        if device != parse(pin).map(|(index, _)| index) {
            pins::remove(pin)?;
        }
    }
    Ok(())
}

/// The programs in our links.
pub(super) fn attached(links: &Path) -> Result<BTreeMap<u32, Programs>, OpenError> {
    let mut found: BTreeMap<u32, Programs> = BTreeMap::new();
    for pin in entries(links)? {
        let (Some((index, hook)), Some((_, info))) = (parse(&pin), open_if_ours(&pin)?) else {
            continue;
        };
        if info.device == index {
            let programs = found.entry(index).or_default();
            *at(programs, hook) = Some(info.program_id);
        }
    }
    Ok(found)
}

fn open_if_ours(pin: &Path) -> Result<Option<(OwnedFd, DeviceLinkInfo)>, OpenError> {
    if parse(pin).is_some() { open(pin) } else { Ok(None) }
}

/// Programs at a hook, with id and name.
fn running(device: DeviceRef<'_>, hook: Hook) -> Result<Vec<(u32, String)>, OpenError> {
    // A program that is replaced between the list of ids and the question about its id is an error; then the list has
    // changed, and is asked for again.
    let mut attempts = 5;
    loop {
        attempts -= 1;
        match SchedClassifier::query_tcx(device.name, hook.attach_type()) {
            Ok((_, programs)) => {
                let name = |program: &ProgramInfo| program.name_as_str().unwrap_or("?").to_owned();
                return Ok(programs.iter().map(|program| (program.id(), name(program))).collect());
            }
            Err(error) if attempts > 0 && os_error(&error) == Some(libc::ENOENT) => {}
            Err(error) => return Err(refused("(query of tcx)", &error)),
        }
    }
}

/// Programs at a hook that are not ours.
pub(super) fn others(device: DeviceRef<'_>, hook: Hook, links: &Path) -> Result<Vec<String>, OpenError> {
    let ours = open(&pin(links, device.index, hook))?.map(|(_, info)| info.program_id);
    let others = running(device, hook)?.into_iter().filter(|(id, _)| Some(*id) != ours);
    Ok(others.map(|(id, name)| format!("program {name} (id {id})")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pin_says_device_and_hook_and_programs_of_the_cgroup_are_none() {
        for hook in Hook::ALL {
            assert_eq!(parse(&pin(Path::new("/l"), 7, hook)), Some((7, hook)));
        }
        for other in ["/l/lb_connect4", "/l/dev-7-ingress-new", "/l/dev-x-egress", "/l/dev-7"] {
            assert_eq!(parse(Path::new(other)), None, "{other}");
        }
    }
}
