//! What a probe met, in words that do not depend on chance or on ports: the same on both islands unless the proxies
//! differ. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::{IpAddr, SocketAddr},
};

use super::probe::Expectation;
use crate::guest::{Attempt, Failure, Said};

/// How a probe ended, and what was seen at each end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// By the name of who answered, or by what the failure is called.
    pub ends: BTreeMap<String, Seen>,
}

/// What was seen at one end of a probe.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// How the backend sees the client: `client` by its own address, `node` by the node's, or by another.
    pub source: BTreeSet<String>,
    /// With whom the client takes itself to talk: `dialled`, or another address.
    pub peer: BTreeSet<String>,
    /// The call that failed.
    pub call: BTreeSet<String>,
}

/// What the addresses of a probe are called.
#[derive(Clone, Copy, Debug)]
pub(super) struct Names {
    pub(super) dialled: SocketAddr,
    pub(super) client: IpAddr,
    pub(super) node: IpAddr,
}

impl Outcome {
    pub(super) fn new(attempts: &[Attempt], names: Names) -> Self {
        let mut outcome = Self::default();
        for attempt in attempts {
            outcome.add(attempt, names);
        }
        outcome
    }

    fn add(&mut self, attempt: &Attempt, names: Names) {
        match &attempt.end {
            Ok(answer) => {
                // Not everybody tells whom it sees.
                let (name, source) = answer.split_once(' ').unwrap_or((answer, ""));
                let seen = self.ends.entry(name.to_owned()).or_default();
                seen.source.insert(names.source(source));
                seen.peer.insert(names.peer(attempt.peer));
            }
            Err(failure) => {
                let seen = self.ends.entry(name_of(failure, attempt.repeats)).or_default();
                seen.call.insert(failure.call.clone());
            }
        }
    }

    fn is_answered(&self) -> bool {
        self.ends.values().any(|seen| !seen.source.is_empty())
    }

    /// The names of the ends.
    pub fn names(&self) -> BTreeSet<String> {
        self.ends.keys().cloned().collect()
    }

    /// Whether this is what was expected.
    pub(super) fn meets(&self, expected: &Expectation) -> bool {
        match expected {
            Expectation::All(sets) => sets.contains(&self.names()),
            Expectation::OneOf(names) => self.ends.len() == 1 && self.ends.keys().all(|name| names.contains(name)),
            Expectation::Unknown => true,
            Expectation::UnknownOne => self.ends.len() == 1 || !self.is_answered(),
        }
    }

    /// Both, without what is no difference: which one was met where any is as good, with how that one sees the client,
    /// which depends on where it is; and whether some or all refusals came only when the SYN was sent again, which
    /// depends on how busy the machine is.
    pub(super) fn comparable(both: [Self; 2], expected: &Expectation) -> [Self; 2] {
        let any_is_as_good = matches!(expected, Expectation::OneOf(_) | Expectation::UnknownOne);
        let [first, second] = &both;
        let differ_by_chance = any_is_as_good
            && first.names() != second.names()
            && both.iter().all(|outcome| outcome.meets(expected) && outcome.is_answered());
        if differ_by_chance {
            return both.map(Self::of_whichever);
        }
        both.map(|mut outcome| {
            if outcome.ends.contains_key("refused-late") {
                outcome.ends.remove("refused");
            }
            outcome
        })
    }

    fn of_whichever(self) -> Self {
        let seen = self.ends.into_values().map(|seen| Seen { source: BTreeSet::new(), ..seen });
        Self { ends: seen.map(|seen| ("one of them".to_owned(), seen)).collect() }
    }
}

/// What became of kept sockets, by the name of who answered each of them at first: `same`, `moved`, or what the failure
/// is called.
pub(super) fn fates(first: &[Said], now: &[Said]) -> BTreeMap<String, BTreeSet<String>> {
    let mut fates: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (first, now) in first.iter().zip(now) {
        // One that was never answered is a matter of probes.
        let Ok(first) = first else { continue };
        let fate = match now {
            Ok(now) if name_in(now) == name_in(first) => "same".to_owned(),
            Ok(_) => "moved".to_owned(),
            Err(failure) => name_of(failure, 0),
        };
        fates.entry(name_in(first).to_owned()).or_default().insert(fate);
    }
    fates
}

/// The name of who gave an answer, without whom it sees.
fn name_in(answer: &str) -> &str {
    answer.split_once(' ').map_or(answer, |(name, _)| name)
}

impl Names {
    fn source(&self, text: &str) -> String {
        match text.parse::<IpAddr>() {
            Ok(ip) if ip == self.client => "client".to_owned(),
            Ok(ip) if ip == self.node => "node".to_owned(),
            _ => text.to_owned(),
        }
    }

    fn peer(&self, peer: Option<SocketAddr>) -> String {
        match peer {
            Some(peer) if peer == self.dialled => "dialled".to_owned(),
            Some(peer) => peer.to_string(),
            None => "none".to_owned(),
        }
    }
}

fn name_of(failure: &Failure, repeats: u8) -> String {
    let name = match failure.errno.as_str() {
        _ if failure.is_silence() => "silent",
        // Late is what counts for the socket only when TCP sends its SYN again, a second later, not what took long.
        "ECONNREFUSED" if repeats > 0 => "refused-late",
        "ECONNREFUSED" => "refused",
        "EHOSTUNREACH" | "ENETUNREACH" => "unreachable",
        "" => &failure.call,
        other => other,
    };
    name.to_owned()
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = |set: &BTreeSet<String>| set.iter().map(String::as_str).collect::<Vec<_>>().join("+");
        let ends = self.ends.iter().map(|(name, seen)| match (seen.source.is_empty(), seen.call.is_empty()) {
            (false, _) => format!("{name} (source {}, peer {})", word(&seen.source), word(&seen.peer)),
            (true, false) => format!("{name} ({})", word(&seen.call)),
            (true, true) => name.clone(),
        });
        f.write_str(&ends.collect::<Vec<_>>().join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names() -> Names {
        Names {
            dialled: "10.96.0.17:80".parse().unwrap(),
            client: "10.244.1.4".parse().unwrap(),
            node: "172.18.0.1".parse().unwrap(),
        }
    }

    fn answer(text: &str) -> Attempt {
        Attempt { end: Ok(text.to_owned()), peer: Some(names().dialled), repeats: 0 }
    }

    fn failure(errno: &str, repeats: u8) -> Attempt {
        let failure = Failure { call: "connect".to_owned(), errno: errno.to_owned() };
        Attempt { end: Err(failure), peer: None, repeats }
    }

    #[test]
    fn addresses_are_called_by_what_they_are() {
        let outcome = Outcome::new(&[answer("a 10.244.1.4"), answer("b 172.18.0.1")], names());
        assert_eq!(outcome.to_string(), "a (source client, peer dialled), b (source node, peer dialled)");
    }

    #[test]
    fn failures_differ_by_errno_and_by_whether_they_take_another_syn() {
        let name = |attempt| Outcome::new(&[attempt], names()).names().pop_first().unwrap();
        assert_eq!(name(failure("ECONNREFUSED", 0)), "refused");
        assert_eq!(name(failure("ECONNREFUSED", 1)), "refused-late");
        assert_eq!(name(failure("EINPROGRESS", 1)), "silent");
        assert_eq!(name(failure("EPERM", 0)), "EPERM");
    }

    #[test]
    fn fate_of_a_socket_is_told_by_who_answered_it_at_first() {
        let said = |text: &str| Ok(text.to_owned());
        let ended = Err(Failure { call: "send".to_owned(), errno: "ECONNABORTED".to_owned() });
        let first = [said("a 10.0.0.1"), said("a 10.0.0.1"), said("b"), said("c"), ended.clone()];
        let now = [said("a 10.0.0.9"), said("b"), ended.clone(), said("c"), ended];
        let fates: Vec<_> = fates(&first, &now).into_iter().collect();
        let of = |name: &str, fates: &[&str]| (name.to_owned(), fates.iter().map(|fate| (*fate).to_owned()).collect());
        assert_eq!(fates, [of("a", &["moved", "same"]), of("b", &["ECONNABORTED"]), of("c", &["same"])]);
    }

    #[test]
    fn one_of_several_is_met_by_a_single_one_only() {
        let expected = Expectation::OneOf(["a".to_owned(), "b".to_owned()].into());
        let one = Outcome::new(&[answer("a 10.244.1.4"), answer("a 10.244.1.4")], names());
        let two = Outcome::new(&[answer("a 10.244.1.4"), answer("b 10.244.1.4")], names());
        assert!(one.meets(&expected) && !two.meets(&expected));
        let other = Outcome::new(&[answer("b 172.18.0.1")], names());
        let [first, second] = Outcome::comparable([one.clone(), other.clone()], &expected);
        assert_eq!(first, second);
        assert_ne!(Outcome::comparable([one.clone(), other], &Expectation::Unknown), [first, second]);
        assert_eq!(Outcome::comparable([one.clone(), two.clone()], &expected), [one, two]);
    }
}
