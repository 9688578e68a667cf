//! The table of `docs/differences.md`: where the agent differs from kube-proxy, on purpose. Read by people and, in its
//! last column, by the peer test. Pure.
//!
//! A rule of the last column: `` `FIELD KUBE-PROXY'S -> AGENT'S; KEY=VALUE[|VALUE]...; ...` ``, where FIELD is one of
//! `ends`, `source`, `peer`, `call`, `kept`, both sides are words (or `*`), and KEY is `client`, `traffic`, `kind`, `end`,
//! `endpoint` or `case`. A difference is listed if one rule covers it, and a rule that covers nothing is out of date.

use std::{collections::BTreeSet, fmt};

use anyhow::{Context as _, Result, bail, ensure};

use super::{
    outcome::{Outcome, Seen},
    probe::{Probe, traffic_name},
    tokens::Kind,
};

/// One thing in which two outcomes of a probe differ.
#[derive(Clone, Debug)]
pub struct Difference {
    case: String,
    client: &'static str,
    traffic: &'static str,
    kind: &'static str,
    field: &'static str,
    end: String,
    /// Of a kept socket's endpoint: whether new sockets still reach it with kube-proxy.
    endpoint: &'static str,
    kube_proxy: BTreeSet<String>,
    agent: BTreeSet<String>,
}

impl Difference {
    /// That kept sockets met another fate, which `end` answered at first.
    pub(super) fn of_kept(
        case: &str,
        probe: &Probe,
        end: &str,
        is_serving: bool,
        fates: [&BTreeSet<String>; 2],
    ) -> Self {
        let [kube_proxy, agent] = fates.map(Clone::clone);
        let endpoint = if is_serving { "serving" } else { "gone" };
        Self { endpoint, ..Self::new(case, probe, "kept", end, kube_proxy, agent) }
    }

    fn new(
        case: &str,
        probe: &Probe,
        field: &'static str,
        end: &str,
        kube_proxy: BTreeSet<String>,
        agent: BTreeSet<String>,
    ) -> Self {
        Self {
            case: case.to_owned(),
            client: probe.client.name(),
            traffic: traffic_name(probe.traffic),
            kind: kind_name(probe.kind),
            field,
            end: end.to_owned(),
            endpoint: "",
            kube_proxy,
            agent,
        }
    }

    /// All differences between two outcomes; none if they are equal. What was seen is compared only where the same was
    /// reached.
    pub(super) fn between(case: &str, probe: &Probe, kube_proxy: &Outcome, agent: &Outcome) -> Vec<Self> {
        let difference = |field, end: &str, kube_proxy, agent| Self::new(case, probe, field, end, kube_proxy, agent);
        if kube_proxy.names() != agent.names() {
            return vec![difference("ends", "", kube_proxy.names(), agent.names())];
        }
        let mut differences = Vec::new();
        for (end, seen) in &kube_proxy.ends {
            let Some(other) = agent.ends.get(end) else { continue };
            for (field, of) in FIELDS {
                if of(seen) != of(other) {
                    differences.push(difference(field, end, of(seen).clone(), of(other).clone()));
                }
            }
        }
        differences
    }
}

type Field = (&'static str, fn(&Seen) -> &BTreeSet<String>);

const FIELDS: [Field; 3] = [("source", |seen| &seen.source), ("peer", |seen| &seen.peer), ("call", |seen| &seen.call)];

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words = |set: &BTreeSet<String>| set.iter().map(String::as_str).collect::<Vec<_>>().join(" ");
        write!(f, "{} {} -> {}; client={}", self.field, words(&self.kube_proxy), words(&self.agent), self.client)?;
        write!(f, "; traffic={}; kind={}", self.traffic, self.kind)?;
        if !self.end.is_empty() {
            write!(f, "; end={}", self.end)?;
        }
        if !self.endpoint.is_empty() {
            write!(f, "; endpoint={}", self.endpoint)?;
        }
        write!(f, "; case={}", self.case)
    }
}

fn kind_name(kind: Kind) -> &'static str {
    match kind {
        Kind::ClusterIp => "clusterip",
        Kind::NodePort => "nodeport",
        Kind::External => "external",
        Kind::LoadBalancer => "loadbalancer",
        Kind::Plain => "plain",
    }
}

/// The table, with what of it was met.
#[derive(Debug, Default)]
pub struct Table {
    rules: Vec<(Rule, bool)>,
}

#[derive(Debug)]
struct Rule {
    id: String,
    text: String,
    field: String,
    kube_proxy: Words,
    agent: Words,
    conditions: Vec<(String, Vec<String>)>,
}

#[derive(Debug)]
enum Words {
    Any,
    Exactly(BTreeSet<String>),
}

impl Words {
    fn parse(text: &str) -> Self {
        if text.trim() == "*" { Self::Any } else { Self::Exactly(text.split_whitespace().map(str::to_owned).collect()) }
    }

    fn covers(&self, words: &BTreeSet<String>) -> bool {
        match self {
            Self::Any => true,
            Self::Exactly(expected) => expected == words,
        }
    }
}

impl Table {
    /// Reads the rules out of a Markdown text: every row whose first cell is a code span has an id, and rules as the
    /// code spans of its last cell.
    ///
    /// # Errors
    /// With the id and the text of a rule that cannot be understood, or of a row without any.
    pub fn parse(markdown: &str) -> Result<Self> {
        let mut rules = Vec::new();
        for line in markdown.lines().filter(|line| line.starts_with("| `")) {
            let cells: Vec<&str> = line.trim().trim_matches('|').split(" | ").collect();
            let (Some(id), Some(last)) = (cells.first(), cells.last()) else { continue };
            let id = id.trim().trim_matches('`');
            let spans: Vec<&str> = last.split('`').skip(1).step_by(2).collect();
            ensure!(!spans.is_empty(), "row {id}: no rule in the last column");
            for text in spans {
                // A bar inside a cell is written `\|`.
                let text = text.replace("\\|", "|");
                rules.push((Rule::parse(id, &text).with_context(|| format!("row {id}: rule `{text}`"))?, false));
            }
        }
        Ok(Self { rules })
    }

    /// Whether a difference is listed; remembers the rules that cover it.
    pub fn covers(&mut self, difference: &Difference) -> bool {
        let mut covered = false;
        for (rule, met) in &mut self.rules {
            if rule.covers(difference) {
                *met = true;
                covered = true;
            }
        }
        covered
    }

    /// The rules that covered nothing so far, with their ids.
    pub fn unmet(&self) -> Vec<String> {
        let unmet = self.rules.iter().filter(|(_, met)| !met);
        unmet.map(|(rule, _)| format!("{}: {}", rule.id, rule.text)).collect()
    }
}

impl Rule {
    fn parse(id: &str, text: &str) -> Result<Self> {
        let mut parts = text.split(';');
        let (left, agent) = parts.next().and_then(|part| part.split_once("->")).context("without `->`")?;
        let (field, kube_proxy) = left.trim().split_once(' ').context("without a field")?;
        ensure!(
            ["ends", "kept"].contains(&field) || FIELDS.iter().any(|(name, _)| *name == field),
            "no field `{field}`"
        );
        let mut conditions = Vec::new();
        for part in parts {
            let (key, values) = part.split_once('=').with_context(|| format!("`{part}` is not KEY=VALUE"))?;
            let key = key.trim();
            if !["client", "traffic", "kind", "end", "endpoint", "case"].contains(&key) {
                bail!("no key `{key}`");
            }
            conditions.push((key.to_owned(), values.trim().split('|').map(str::to_owned).collect()));
        }
        let (kube_proxy, agent) = (Words::parse(kube_proxy), Words::parse(agent));
        Ok(Self { id: id.to_owned(), text: text.to_owned(), field: field.to_owned(), kube_proxy, agent, conditions })
    }

    fn covers(&self, difference: &Difference) -> bool {
        let value = |key: &str| match key {
            "client" => difference.client,
            "traffic" => difference.traffic,
            "kind" => difference.kind,
            "end" => &difference.end,
            "endpoint" => difference.endpoint,
            _ => &difference.case,
        };
        self.field == difference.field
            && self.kube_proxy.covers(&difference.kube_proxy)
            && self.agent.covers(&difference.agent)
            && self.conditions.iter().all(|(key, values)| values.iter().any(|wanted| wanted == value(key)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "
| Id | kube-proxy | Where |
| --- | --- | --- |
| `hairpin` | masquerades | `source node -> client; client=a; end=a` |
| `quiet` | drops | `ends silent -> refused; traffic=tcp\\|udpc` |
";

    fn difference(field: &'static str, kube_proxy: &str, agent: &str, client: &'static str) -> Difference {
        let words = |text: &str| text.split(' ').map(str::to_owned).collect();
        Difference {
            case: "x".to_owned(),
            client,
            traffic: "udpc",
            kind: "clusterip",
            field,
            end: "a".to_owned(),
            endpoint: "",
            kube_proxy: words(kube_proxy),
            agent: words(agent),
        }
    }

    #[test]
    fn listed_difference_is_covered_only_under_all_its_conditions() {
        let mut table = Table::parse(TABLE).unwrap();
        assert!(table.covers(&difference("source", "node", "client", "a")));
        assert!(!table.covers(&difference("source", "node", "client", "pod")));
        assert!(!table.covers(&difference("source", "client", "node", "a")));
        assert!(table.covers(&difference("ends", "silent", "refused", "pod")));
        assert!(!table.covers(&difference("ends", "a silent", "refused", "pod")));
    }

    #[test]
    fn rule_that_met_nothing_is_told() {
        let mut table = Table::parse(TABLE).unwrap();
        table.covers(&difference("source", "node", "client", "a"));
        assert_eq!(table.unmet(), ["quiet: ends silent -> refused; traffic=tcp|udpc"]);
    }

    #[test]
    fn rule_that_cannot_be_understood_is_an_error_with_its_id() {
        let error = Table::parse("| `odd` | x | `sorce a -> b` |").unwrap_err();
        assert!(format!("{error:#}").contains("odd") && format!("{error:#}").contains("sorce"), "{error:#}");
    }
}
