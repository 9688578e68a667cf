//! A probe: who asks, how, where, and what kube-proxy is known to answer. Written on one line:
//!
//! `[CLIENT[,CLIENT...]] TRAFFIC DESTINATION = EXPECTATION`
//!
//! Clients are `pod`, `host` and `a` (a pod that is an endpoint itself), all three where none is named; further `out`,
//! a machine outside the cluster, and `vm`, a pod whose processes no socket hook sees (as endpoint it is `v`). Traffic
//! is `tcp`, `udp` (connected and not), `udpc`, `udpu`, or `any` (all three); also `http`, whose answer is a whole
//! response in one word. What is expected of kube-proxy are the names of who answers, `one of NAME...`, or a word for
//! what happens to the packets: `rejected` or `dropped` by a rule of kube-proxy, `refused` by whom they reach; also
//! names and such a word. `?` where nothing is known beforehand, so that only equality counts, and `one of ?` where any
//! single one is as good as another.

use std::{collections::BTreeSet, fmt, net::SocketAddr};

use anyhow::{Context as _, Result, ensure};

use super::tokens::{Kind, expand, kind};
use crate::guest::Traffic;

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Client {
    /// A pod on the node.
    Pod,
    /// A process of the node itself.
    Host,
    /// A pod on the node that is an endpoint of most Services.
    Endpoint,
    /// A machine outside the cluster.
    Outside,
    /// A pod on the node whose processes are in no cgroup of the node's.
    Vm,
}

impl Client {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Pod, Self::Host, Self::Endpoint, Self::Outside, Self::Vm];

    /// Those whose system calls the socket layer sees.
    const HOOKED: [Self; 3] = [Self::Pod, Self::Host, Self::Endpoint];

    pub(super) fn index(self) -> usize {
        match self {
            Self::Pod => 0,
            Self::Host => 1,
            Self::Endpoint => 2,
            Self::Outside => 3,
            Self::Vm => 4,
        }
    }

    /// As probes and the table of differences call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pod => "pod",
            Self::Host => "host",
            Self::Endpoint => "a",
            Self::Outside => "out",
            Self::Vm => "vm",
        }
    }
}

/// What a client is known to meet with kube-proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expectation {
    /// All of these, and nothing else: names of backends, and what failures are called. There may be several such sets
    /// that are as good.
    All(Vec<BTreeSet<String>>),
    /// A single one of these, whichever.
    OneOf(BTreeSet<String>),
    /// Whatever it is.
    Unknown,
    /// Whatever it is; backends only one by one.
    UnknownOne,
}

/// One client at one destination in one way.
#[derive(Clone, Debug)]
pub struct Probe {
    /// Who.
    pub client: Client,
    /// How.
    pub traffic: Traffic,
    /// Where.
    pub to: SocketAddr,
    /// What that address is to a proxy.
    pub kind: Kind,
    /// What kube-proxy does.
    pub expected: Expectation,
}

impl Probe {
    /// The probes that a line stands for.
    pub(super) fn parse(line: &str, case: u16) -> Result<Vec<Self>> {
        Self::parse_line(line, case).with_context(|| format!("probe `{line}`"))
    }

    /// Those that a line without an expectation stands for.
    pub(super) fn parse_kept(line: &str, case: u16) -> Result<Vec<Self>> {
        Self::asked(line, "?", case).with_context(|| format!("sockets to keep `{line}`"))
    }

    /// Whether a second may pass before the client knows: TCP sends a SYN again after that time.
    pub(super) fn takes_time(&self) -> bool {
        let may_be_late = match &self.expected {
            Expectation::All(sets) => sets.iter().any(|names| names.contains("refused-late")),
            Expectation::OneOf(_) => false,
            Expectation::Unknown | Expectation::UnknownOne => true,
        };
        self.traffic.is_tcp() && may_be_late
    }

    fn parse_line(line: &str, case: u16) -> Result<Vec<Self>> {
        let (what, expected) = line.split_once('=').context("without `= EXPECTATION`")?;
        Self::asked(what, expected, case)
    }

    fn asked(what: &str, expected: &str, case: u16) -> Result<Vec<Self>> {
        let words: Vec<&str> = what.split_whitespace().collect();
        let (clients, traffic, destination) = match words[..] {
            [traffic, destination] => (Client::HOOKED.to_vec(), traffic, destination),
            [clients, traffic, destination] => (parse_clients(clients)?, traffic, destination),
            _ => anyhow::bail!("not [CLIENTS] TRAFFIC DESTINATION"),
        };
        let (to, kind) = (parse_destination(&expand(destination, case)?)?, kind(destination));
        let mut probes = Vec::new();
        for client in clients {
            for &traffic in parse_traffic(traffic)? {
                let expected = parse_expectation(expected, &Way { client, traffic, kind })?;
                probes.push(Self { client, traffic, to, kind, expected });
            }
        }
        Ok(probes)
    }
}

impl fmt::Display for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.client.name(), traffic_name(self.traffic), self.to)
    }
}

pub(super) fn traffic_name(traffic: Traffic) -> &'static str {
    match traffic {
        Traffic::Tcp => "tcp",
        Traffic::UdpConnected => "udpc",
        Traffic::UdpUnconnected => "udpu",
        Traffic::Http => "http",
    }
}

fn parse_clients(text: &str) -> Result<Vec<Client>> {
    let client = |name: &str| Client::ALL.into_iter().find(|client| client.name() == name);
    text.split(',').map(|name| client(name).with_context(|| format!("no client `{name}`"))).collect()
}

fn parse_traffic(text: &str) -> Result<&'static [Traffic]> {
    Ok(match text {
        "tcp" => &[Traffic::Tcp],
        "udp" => &[Traffic::UdpConnected, Traffic::UdpUnconnected],
        "udpc" => &[Traffic::UdpConnected],
        "udpu" => &[Traffic::UdpUnconnected],
        "http" => &[Traffic::Http],
        "any" => &[Traffic::Tcp, Traffic::UdpConnected, Traffic::UdpUnconnected],
        _ => anyhow::bail!("no traffic `{text}`"),
    })
}

/// `ADDRESS:PORT`, also for IPv6 without brackets.
fn parse_destination(text: &str) -> Result<SocketAddr> {
    let (ip, port) = text.rsplit_once(':').context("a destination without a port")?;
    Ok(SocketAddr::new(ip.parse().with_context(|| ip.to_owned())?, port.parse().with_context(|| port.to_owned())?))
}

fn parse_expectation(text: &str, probe: &Way) -> Result<Expectation> {
    let text = text.trim();
    match text {
        "?" => return Ok(Expectation::Unknown),
        "one of ?" => return Ok(Expectation::UnknownOne),
        _ => {}
    }
    if let Some(names) = text.strip_prefix("one of ") {
        return Ok(Expectation::OneOf(names.split_whitespace().map(str::to_owned).collect()));
    }
    let mut sets = vec![BTreeSet::new()];
    for word in text.split_whitespace() {
        let alternatives = probe.met_by(word);
        sets = sets
            .iter()
            .flat_map(|set| alternatives.iter().map(|more| set.iter().cloned().chain(more.clone()).collect()))
            .collect();
    }
    ensure!(sets.iter().all(|set| !set.is_empty()), "an empty expectation");
    Ok(Expectation::All(sets))
}

/// What decides how a client is told of a packet's end.
struct Way {
    client: Client,
    traffic: Traffic,
    kind: Kind,
}

impl Way {
    /// What a client meets where a packet ends so; sets of names that are as good as each other.
    fn met_by(&self, word: &str) -> Vec<Vec<String>> {
        let is_udp = !self.traffic.is_tcp();
        // What a process of the node sends to a NodePort is looked at on its way in, anything else on its way out, and
        // what the output hook takes away is EPERM to the call that sent it. TCP tries again instead.
        let at_output = self.client == Client::Host && self.kind != Kind::NodePort;
        let names: &[&[&str]] = match (word, self.traffic) {
            ("rejected" | "dropped", _) if is_udp && at_output => &[&["EPERM"]],
            // The ICMP error comes while connect(2) still holds the socket, so that it counts only when the SYN is sent
            // again, a second later (tcp_v4_err: "sock_owned_by_user"). On a busy machine it may come after that.
            ("rejected", Traffic::Tcp | Traffic::Http) => {
                &[&["refused-late"], &["refused"], &["refused", "refused-late"]]
            }
            ("rejected", Traffic::UdpConnected) => &[&["refused"]],
            // Linux tells a UDP socket that is not connected of an ICMP error only if it asks for that (IP_RECVERR).
            ("rejected" | "refused", Traffic::UdpUnconnected) => &[&["silent"]],
            ("dropped", _) => &[&["silent"]],
            _ => return vec![vec![word.to_owned()]],
        };
        names.iter().map(|names| names.iter().map(|name| (*name).to_owned()).collect()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(names: &[&str]) -> Expectation {
        Expectation::All(vec![names.iter().map(|name| (*name).to_owned()).collect()])
    }

    #[test]
    fn line_stands_for_every_client_and_traffic() {
        let probes = Probe::parse("any $vip1v6:80 = a b", 0).unwrap();
        assert_eq!(probes.len(), 9);
        assert_eq!(probes[0].to, "[fd00:10:96::11]:80".parse().unwrap());
        assert_eq!((probes[0].kind, &probes[0].expected), (Kind::ClusterIp, &all(&["a", "b"])));
    }

    #[test]
    fn words_mean_what_the_kind_of_socket_is_told() {
        let expected = |line: &str| Probe::parse(line, 0).unwrap()[0].expected.clone();
        assert_eq!(expected("pod udpu $node:$np1 = rejected"), all(&["silent"]));
        assert_eq!(expected("pod udpc $vip1:80 = rejected"), all(&["refused"]));
        assert_eq!(expected("host udpc $vip1:80 = rejected"), all(&["EPERM"]));
        assert_eq!(expected("host udpc $node:$np1 = rejected"), all(&["refused"]));
        assert_eq!(expected("host tcp $lb1:80 = dropped"), all(&["silent"]));
        assert!(matches!(expected("tcp $vip1:80 = b rejected"), Expectation::All(sets) if sets.len() == 3));
    }

    #[test]
    fn line_without_expectation_is_refused() {
        assert!(Probe::parse("tcp $vip1:80", 0).is_err());
        assert!(Probe::parse("tcp $vip1:80 =", 0).is_err());
    }
}
