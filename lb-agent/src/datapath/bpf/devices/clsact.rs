//! Filters of a clsact qdisc, for kernels without tcx. A filter lives with its qdisc, without any process, so that it is
//! found again by its place: priority and handle. The rtnetlink messages are made here because aya's filters go when
//! their handle is dropped.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    os::fd::AsRawFd as _,
};

use netlink_packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP};
use netlink_packet_route::{
    RouteNetlinkMessage,
    tc::{TcAttribute, TcBpfFlags, TcFilterBpfOption, TcHandle, TcMessage, TcOption},
};
use netlink_sys::protocols::NETLINK_ROUTE;

use super::{super::error::OpenError, Classifier, DEVICE_PROGRAMS, DeviceRef, Hook, Programs, at, on_device};
use crate::netlink::Conversation;

/// Filters run in the order of their priorities, and the kernel's own choice for others begins at 49152.
const PRIORITY: u16 = 3;
/// "LB".
const HANDLE: u32 = 0x4c42;
const ETH_P_ALL: u16 = 3;
const QDISC: &str = "clsact";

/// A filter at one of the two hooks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Filter {
    kind: String,
    priority: u16,
    handle: u32,
    /// Of a BPF filter.
    name: String,
    program_id: u32,
}

impl Filter {
    fn is_at_our_place(&self) -> bool {
        self.kind == "bpf" && self.priority == PRIORITY && self.handle == HANDLE
    }

    fn is_ours(&self) -> bool {
        self.is_at_our_place() && DEVICE_PROGRAMS.contains(&self.name.as_str())
    }
}

impl std::fmt::Display for Filter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { kind, priority, handle, name, program_id } = self;
        match kind.as_str() {
            "bpf" => write!(f, "filter with program {name} (id {program_id}, priority {priority})"),
            _ => write!(f, "filter {kind} (priority {priority}, handle {handle:#x})"),
        }
    }
}

fn kernel() -> io::Result<Conversation> {
    Conversation::open(NETLINK_ROUTE)
}

fn index(device: u32) -> io::Result<i32> {
    i32::try_from(device).map_err(io::Error::other)
}

fn parent(hook: Hook) -> TcHandle {
    let minor = match hook {
        Hook::Ingress => TcHandle::MIN_INGRESS,
        Hook::Egress => TcHandle::MIN_EGRESS,
    };
    TcHandle { major: TcHandle::CLSACT.major, minor }
}

fn qdisc(device: u32) -> io::Result<TcMessage> {
    let mut message = TcMessage::with_index(index(device)?);
    message.header.parent = TcHandle::CLSACT;
    message.header.handle = TcHandle { major: TcHandle::CLSACT.major, minor: 0 };
    message.attributes.push(TcAttribute::Kind(QDISC.to_owned()));
    Ok(message)
}

/// Our place at a hook.
fn place(device: u32, hook: Hook) -> io::Result<TcMessage> {
    let mut message = TcMessage::with_index(index(device)?);
    message.header.parent = parent(hook);
    message.header.handle = HANDLE.into();
    message.header.info = u32::from(PRIORITY) << 16 | u32::from(ETH_P_ALL.to_be());
    message.attributes.push(TcAttribute::Kind("bpf".to_owned()));
    Ok(message)
}

/// Does what has no other answer than yes or no.
fn act(message: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
    let mut kernel = kernel()?;
    kernel.send(message, NLM_F_ACK | flags)?;
    kernel.replies(|message: io::Result<RouteNetlinkMessage>| message.map(drop))
}

/// The filters at a hook; none where there is no such qdisc or device.
fn filters(device: u32, hook: Hook) -> io::Result<Vec<Filter>> {
    let mut kernel = kernel()?;
    let mut request = TcMessage::with_index(index(device)?);
    request.header.parent = parent(hook);
    kernel.send(RouteNetlinkMessage::GetTrafficFilter(request), NLM_F_DUMP)?;
    let mut found = Vec::new();
    kernel.replies(|message| {
        found.extend(told(message));
        Ok(())
    })?;
    Ok(found)
}

/// The filter that a message tells of. One that cannot be read is somebody else's: ours can.
fn told(message: io::Result<RouteNetlinkMessage>) -> Option<Filter> {
    match message {
        Ok(RouteNetlinkMessage::NewTrafficFilter(message)) => filter(&message),
        Ok(_) => None,
        Err(_) => Some(Filter { kind: "of a kind that cannot be read".to_owned(), ..Filter::default() }),
    }
}

fn filter(message: &TcMessage) -> Option<Filter> {
    let handle = u32::from(message.header.handle);
    // The list begins with the classifier itself, without a filter.
    if handle == 0 {
        return None;
    }
    let priority = u16::try_from(message.header.info >> 16).unwrap_or(u16::MAX);
    let mut filter = Filter { kind: String::new(), priority, handle, name: String::new(), program_id: 0 };
    for attribute in &message.attributes {
        match attribute {
            TcAttribute::Kind(kind) => filter.kind.clone_from(kind),
            TcAttribute::Options(options) => {
                for option in options {
                    match option {
                        TcOption::Bpf(TcFilterBpfOption::ProgName(name)) => filter.name.clone_from(name),
                        TcOption::Bpf(TcFilterBpfOption::ProgId(id)) => filter.program_id = *id,
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    Some(filter)
}

/// The devices that have a clsact qdisc.
fn with_qdisc() -> io::Result<BTreeSet<u32>> {
    let mut kernel = kernel()?;
    kernel.send(RouteNetlinkMessage::GetQueueDiscipline(TcMessage::default()), NLM_F_DUMP)?;
    let mut found = BTreeSet::new();
    kernel.replies(|message| {
        // What cannot be read is a qdisc with options, which clsact has none of.
        if let Ok(RouteNetlinkMessage::NewQueueDiscipline(message)) = message {
            let is_clsact = |attribute: &TcAttribute| matches!(attribute, TcAttribute::Kind(kind) if kind == QDISC);
            if message.attributes.iter().any(is_clsact) {
                found.extend(u32::try_from(message.header.index));
            }
        }
        Ok(())
    })?;
    Ok(found)
}

pub(super) fn attach(classifier: &Classifier, device: DeviceRef<'_>, hook: Hook) -> Result<(), OpenError> {
    let failed = || on_device("attach a filter to", device);
    let create_qdisc = qdisc(device.index).and_then(|message| {
        // Without NLM_F_EXCL: one that is there is left as it is.
        act(RouteNetlinkMessage::NewQueueDiscipline(message), NLM_F_CREATE)
    });
    create_qdisc.map_err(failed())?;
    let there = filters(device.index, hook).map_err(failed())?;
    if let Some(other) = there.iter().find(|filter| filter.is_at_our_place() && !filter.is_ours()) {
        let taken = io::Error::other(format!("its place at {} is taken by a {other}: remove that one", hook.name()));
        return Err(failed()(taken));
    }
    let fd = classifier.fd()?.as_raw_fd().cast_unsigned();
    let put = place(device.index, hook).and_then(|mut message| {
        message.attributes.push(TcAttribute::Options(vec![
            TcOption::Bpf(TcFilterBpfOption::ProgFd(fd)),
            TcOption::Bpf(TcFilterBpfOption::ProgName(classifier.name.to_owned())),
            TcOption::Bpf(TcFilterBpfOption::Flags(TcBpfFlags::DirectAction)),
        ]));
        // Creates it, or puts the program in the place of the one there (`cls_bpf_change` in net/sched/cls_bpf.c).
        act(RouteNetlinkMessage::NewTrafficFilter(message), NLM_F_CREATE)
    });
    put.map_err(failed())
}

/// Takes ours off a device, and the qdisc, if nothing else is in it. Without either it is no error.
pub(super) fn detach(device: DeviceRef<'_>) -> Result<(), OpenError> {
    remove(device.index).map(drop).map_err(on_device("take the filters off", device))
}

/// The names of those that were removed.
fn remove(device: u32) -> io::Result<Vec<String>> {
    let mut removed = Vec::new();
    let mut others = 0;
    for hook in Hook::ALL {
        for filter in filters(device, hook)? {
            if filter.is_ours() {
                act(RouteNetlinkMessage::DelTrafficFilter(place(device, hook)?), 0)?;
                removed.push(filter.name);
            } else {
                others += 1;
            }
        }
    }
    if others == 0 && !removed.is_empty() {
        act(RouteNetlinkMessage::DelQueueDiscipline(qdisc(device)?), 0)?;
    }
    Ok(removed)
}

/// The devices with filters of ours.
pub(super) fn attached() -> Result<BTreeMap<u32, Programs>, OpenError> {
    let anywhere = DeviceRef { index: 0, name: "all devices" };
    let failed = || on_device("list the filters of", anywhere);
    let mut found = BTreeMap::new();
    for device in with_qdisc().map_err(failed())? {
        let mut programs = Programs::default();
        for hook in Hook::ALL {
            let filters = filters(device, hook).map_err(failed())?;
            *at(&mut programs, hook) = filters.iter().find(|filter| filter.is_ours()).map(|filter| filter.program_id);
        }
        if programs != Programs::default() {
            found.insert(device, programs);
        }
    }
    Ok(found)
}

/// Filters at a hook that are not ours.
pub(super) fn others(device: DeviceRef<'_>, hook: Hook) -> Result<Vec<String>, OpenError> {
    let all = filters(device.index, hook).map_err(on_device("list the filters of", device))?;
    Ok(all.iter().filter(|filter| !filter.is_ours()).map(ToString::to_string).collect())
}

/// Removes ours from all devices of this network namespace; what was removed, for people.
pub(in super::super) fn remove_all() -> Result<Vec<String>, OpenError> {
    let mut removed = Vec::new();
    for device in attached()?.into_keys() {
        let number = format!("device number {device}");
        let names =
            remove(device).map_err(on_device("take the filters off", DeviceRef { index: device, name: &number }))?;
        removed.extend(names.iter().map(|name| format!("program {name} on {number}")));
    }
    Ok(removed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_that_cannot_be_read_is_somebody_elses_and_hides_no_other() {
        let strange = told(Err(io::Error::other("flower, of a later kernel"))).unwrap();
        assert!(!strange.is_ours() && !strange.is_at_our_place());
        assert_eq!(strange.to_string(), "filter of a kind that cannot be read (priority 0, handle 0x0)");
        let mut ours = TcMessage::with_index(2);
        ours.header.handle = HANDLE.into();
        ours.header.info = u32::from(PRIORITY) << 16;
        let name = TcOption::Bpf(TcFilterBpfOption::ProgName("lb_egress".to_owned()));
        ours.attributes = vec![TcAttribute::Kind("bpf".to_owned()), TcAttribute::Options(vec![name])];
        assert!(told(Ok(RouteNetlinkMessage::NewTrafficFilter(ours))).is_some_and(|filter| filter.is_ours()));
    }
}
