//! How the source as a whole is doing, from what the followers of the kinds report. Pure, but for the clock that the
//! caller reads.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
    time::SystemTime,
};

use super::{
    follow::{Report, Reported},
    trouble::Trouble,
};
use crate::{
    event::{Event, ObjectName, Service, ServiceKind},
    watch::{SourceError, SourceKind, SourceStatus},
};

/// What is known of one kind.
#[derive(Debug, Default)]
struct Condition {
    /// The agent can do without it.
    optional: bool,
    /// Why there is no list, if the servers do not let the agent have one.
    withheld: Option<Arc<str>>,
    listed: bool,
    answering: bool,
    problems: BTreeMap<ObjectName, Vec<Arc<str>>>,
    /// Errors that were told since it last answered: each is told once, however often it is met.
    told: BTreeSet<String>,
}

impl Condition {
    fn is_settled(&self) -> bool {
        (self.listed && self.answering) || self.withheld.is_some()
    }
}

/// What the operator should be told now.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Notice {
    Info(String),
    Warn(String),
    Error(String),
}

/// The status, and what it is made of.
#[derive(Debug)]
pub(super) struct Tracker {
    status: SourceStatus,
    kinds: BTreeMap<&'static str, Condition>,
    /// URLs that name an address, not a host name.
    servers: Vec<(Arc<str>, IpAddr, u16)>,
    /// Servers that were said to be out of reach since one last answered: once, and not for each kind.
    unreachable: BTreeSet<String>,
    /// Services whose address an API server has, and their complaint.
    own: BTreeMap<ObjectName, Vec<Arc<str>>>,
}

impl Tracker {
    /// For these kinds of objects, of which some can be done without, and these API servers.
    pub(super) fn new(required: &[&'static str], optional: &[&'static str], urls: &[Arc<str>]) -> Self {
        let status = SourceStatus {
            kind: SourceKind::Kubernetes,
            location: urls.first().cloned().unwrap_or_default(),
            synced_since: None,
            last_error: None,
            problems: Vec::new(),
        };
        let servers = urls.iter().filter_map(|url| address_of(url).map(|(ip, port)| (url.clone(), ip, port))).collect();
        let kind =
            |&kind: &&'static str| (kind, Condition { optional: optional.contains(&kind), ..Condition::default() });
        let kinds = required.iter().chain(optional).map(kind).collect();
        Self { status, kinds, servers, unreachable: BTreeSet::new(), own: BTreeMap::new() }
    }

    pub(super) fn status(&self) -> &SourceStatus {
        &self.status
    }

    /// Takes in a report. Returns what to log.
    pub(super) fn take(&mut self, reported: &Reported, now: SystemTime) -> Vec<Notice> {
        let mut notices = Vec::new();
        let kind = self.kinds.entry(reported.resource).or_default();
        match &reported.report {
            Report::Event(event) => note_own_addresses(&self.servers, event, &mut self.own),
            Report::Object(name, texts) if texts.is_empty() => drop(kind.problems.remove(name)),
            Report::Object(name, texts) => drop(kind.problems.insert(name.clone(), texts.clone())),
            Report::Listed(problems) => {
                kind.problems.clone_from(problems);
                kind.listed = true;
                kind.answering = true;
                kind.withheld = None;
                kind.told.clear();
                self.unreachable.clear();
            }
            Report::Answered => {
                if kind.listed && !kind.answering {
                    let text = format!("API server {}: {}: answers again", reported.url, reported.resource);
                    notices.push(Notice::Info(text));
                    kind.told.clear();
                }
                kind.answering = true;
                self.unreachable.clear();
            }
            Report::Doubted(text) => {
                kind.listed = false;
                notices.push(Notice::Warn(text.clone()));
                self.status.last_error = Some(SourceError { at: now, text: text.as_str().into() });
            }
            Report::Failed(trouble, text) => {
                let told = if *trouble == Trouble::Unreachable { &mut self.unreachable } else { &mut kind.told };
                let repeated = !told.insert(text.clone());
                kind.answering = false;
                self.status.last_error = Some(SourceError { at: now, text: text.as_str().into() });
                match trouble {
                    _ if repeated => {}
                    // Told as a lasting problem.
                    Trouble::Forbidden if kind.optional => {
                        kind.withheld.get_or_insert_with(|| format!("{text}; done without until then").into());
                    }
                    Trouble::Unauthorized | Trouble::Forbidden => notices.push(Notice::Error(text.clone())),
                    _ => notices.push(Notice::Warn(text.clone())),
                }
            }
        }
        self.status.location = reported.url.clone();
        self.refresh(now, &mut notices);
        notices
    }

    fn refresh(&mut self, now: SystemTime, notices: &mut Vec<Notice>) {
        let synced = self.kinds.values().all(Condition::is_settled);
        self.status.synced_since = synced.then(|| self.status.synced_since.unwrap_or(now));
        let of_kinds = self.kinds.values().flat_map(|kind| kind.problems.values());
        let withheld = self.kinds.values().filter_map(|kind| kind.withheld.as_ref());
        let problems = of_kinds.chain(self.own.values()).flatten().chain(withheld);
        let problems: Vec<Arc<str>> = problems.cloned().collect();
        if problems != self.status.problems {
            let old: BTreeSet<_> = std::mem::take(&mut self.status.problems).into_iter().collect();
            let new = problems.iter().filter(|problem| !old.contains(*problem));
            notices.extend(new.map(|problem| Notice::Warn(problem.to_string())));
            self.status.problems = problems;
        }
    }
}

/// An API server that is reached through a Service of this agent is out of reach whenever that Service is not yet, or no
/// longer, served.
fn note_own_addresses(
    servers: &[(Arc<str>, IpAddr, u16)],
    event: &Event,
    own: &mut BTreeMap<ObjectName, Vec<Arc<str>>>,
) {
    if let Event::ServicesReset(list) = event {
        own.retain(|name, _| list.unreadable.contains(name));
    }
    let mut note = |service: &Service| {
        let has =
            |ip: &IpAddr, port: u16| service.cluster_ips.contains(ip) && service.ports.iter().any(|p| p.port == port);
        let found = servers.iter().filter(|(_, ip, port)| service.kind == ServiceKind::ClusterIp && has(ip, *port));
        let texts: Vec<Arc<str>> = found
            .map(|(url, _, _)| {
                let name = &service.name;
                format!(
                    "API server {url} is the address of Service {name}, which this agent itself provides: name the API \
                     servers' own addresses with --api-servers"
                )
                .into()
            })
            .collect();
        if texts.is_empty() {
            own.remove(&service.name);
        } else {
            own.insert(service.name.clone(), texts);
        }
    };
    match event {
        Event::ServiceApplied(service) => note(service),
        Event::ServicesReset(list) => list.objects.iter().for_each(note),
        Event::ServiceDeleted(name) => drop(own.remove(name)),
        Event::SliceApplied(_)
        | Event::SliceDeleted(_)
        | Event::SlicesReset(_)
        | Event::NodeApplied(_)
        | Event::NodeDeleted
        | Event::Pods(_)
        | Event::AddressesChanged(_) => {}
    }
}

/// Address and port of a URL that names an address.
pub(super) fn address_of(url: &str) -> Option<(IpAddr, u16)> {
    let uri: http::Uri = url.parse().ok()?;
    let host = uri.host()?.trim_start_matches('[').trim_end_matches(']');
    let default = if uri.scheme_str() == Some("http") { 80 } else { 443 };
    Some((host.parse().ok()?, uri.port_u16().unwrap_or(default)))
}

#[cfg(test)]
mod tests {
    use lb_common::abi::Proto;

    use super::*;
    use crate::event::{FullList, ServicePort};

    const URL: &str = "https://10.96.0.1";

    /// The problems after each full list of Services.
    fn problems(lists: Vec<FullList<Service>>) -> Vec<usize> {
        let mut tracker = Tracker::new(&["services"], &[], &[URL.into()]);
        let mut after = |list| {
            let report = Report::Event(Event::ServicesReset(list));
            tracker.take(&Reported { resource: "services", url: URL.into(), report }, SystemTime::UNIX_EPOCH);
            tracker.status().problems.len()
        };
        lists.into_iter().map(&mut after).collect()
    }

    #[test]
    fn an_api_server_at_a_services_address_is_a_problem_as_long_as_that_service_is_there() {
        let name = ObjectName::new("default", "kubernetes");
        let port = ServicePort { name: "https".into(), proto: Proto::Tcp, port: 443, node_port: None };
        let cluster_ips = vec![[10, 96, 0, 1].into()];
        let service = Service { cluster_ips, ports: vec![port], ..Service::named(name.clone()) };
        let there = || FullList::from(vec![service.clone()]);
        let unreadable = FullList { unreadable: vec![name], ..FullList::from(Vec::new()) };
        assert_eq!(problems(vec![there(), unreadable, FullList::from(Vec::new()), there()]), [1, 1, 0, 1]);
    }
}
