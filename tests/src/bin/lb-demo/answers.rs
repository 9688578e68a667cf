//! Who answered, and how often. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use anyhow::{Result, bail};

/// Answers, or the errors that came instead of them, with their numbers.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Answers {
    counts: BTreeMap<Result<String, String>, usize>,
}

/// What a failed question begins with in the client's output; the reason follows.
pub(crate) const FAILED: &str = "failed: ";

impl Answers {
    /// Of the client's output: one line for each question.
    pub(crate) fn parse(lines: &str) -> Self {
        let mut answers = Self::default();
        for line in lines.lines() {
            let answer = line.strip_prefix(FAILED).map_or_else(|| Ok(line.to_owned()), |error| Err(error.to_owned()));
            *answers.counts.entry(answer).or_default() += 1;
        }
        answers
    }

    pub(crate) fn add(&mut self, more: Self) {
        for (answer, count) in more.counts {
            *self.counts.entry(answer).or_default() += count;
        }
    }

    /// Without the numbers, which are random.
    pub(crate) fn who(&self) -> BTreeSet<&Result<String, String>> {
        self.counts.keys().collect()
    }

    /// Checks that all of these answered, nobody else, and that no question failed.
    pub(crate) fn complete(&self, pods: &[&str]) -> Result<()> {
        let expected: BTreeSet<Result<String, String>> = pods.iter().map(|&pod| Ok(pod.to_owned())).collect();
        if self.who() != expected.iter().collect() {
            bail!("expected answers from {} and nothing else, got {self}", pods.join(", "));
        }
        Ok(())
    }
}

impl fmt::Display for Answers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = self.counts.iter().map(|(answer, count)| {
            let who = answer.as_ref().unwrap_or_else(|error| error);
            if *count == 1 { who.clone() } else { format!("{who} ({count})") }
        });
        f.write_str(&all.collect::<Vec<_>>().join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_demo_has_worked_only_if_every_pod_answered_and_nothing_failed() {
        let pods = ["web-1", "web-2"];
        assert!(Answers::parse("web-1\nweb-2\nweb-1\n").complete(&pods).is_ok());
        let one_silent = Answers::parse("web-1\nweb-1\n").complete(&pods);
        assert!(one_silent.unwrap_err().to_string().contains("got web-1 (2)"));
        assert!(Answers::parse("web-1\nweb-2\nfailed: connection refused\n").complete(&pods).is_err());
        assert!(Answers::parse("web-1\nweb-2\nweb-3\n").complete(&pods).is_err());
        assert!(Answers::default().complete(&pods).is_err());
    }

    #[test]
    fn only_who_answers_counts_as_a_change() {
        assert_eq!(Answers::parse("a\na\nb\n").who(), Answers::parse("b\na\n").who());
        assert_ne!(Answers::parse("a\n").who(), Answers::parse("failed: a\n").who());
    }
}
