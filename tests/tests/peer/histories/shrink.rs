//! Shrinking: leaves out of a history what its problem does not need, one thing after the other.

use anyhow::Result;
use lb_tests::peer::Case;
use serde_json::Value;

/// Each try runs the history anew, which takes seconds.
const TRIES: usize = 40;

/// A smaller history that still has a problem; none if even the whole one has not.
pub(super) fn shrink(whole: Case, mut has_problem: impl FnMut(&Case) -> Result<bool>) -> Result<Option<Case>> {
    if !has_problem(&whole)? {
        return Ok(None);
    }
    let mut smallest = whole;
    let mut tries = 0;
    let mut position = 0;
    while let Some(smaller) = without(&smallest, position) {
        tries += 1;
        if tries > TRIES {
            break;
        }
        if has_problem(&smaller)? {
            // What comes next has moved to this position.
            smallest = smaller;
        } else {
            position += 1;
        }
    }
    Ok(Some(smallest))
}

/// The history without its part number `position`: steps first, then lines of probes and of sockets to keep, objects and deletions, then
/// endpoints. None if there are not so many parts.
fn without(case: &Case, position: usize) -> Option<Case> {
    (0..case.steps.len())
        .rev()
        .map(|step| Part::Step { step })
        .chain(parts_of_steps(case))
        .chain(endpoints(case))
        .nth(position)
        .map(|part| part.taken_from(case.clone()))
}

enum Part {
    Step { step: usize },
    Probe { step: usize, line: usize },
    Kept { step: usize, line: usize },
    Object { step: usize, key: String },
    Deletion { step: usize, number: usize },
    Endpoint { step: usize, key: String, number: usize },
}

impl Part {
    fn taken_from(self, mut case: Case) -> Case {
        match self {
            Self::Step { step } => {
                case.steps.remove(step);
            }
            Self::Probe { step, line } => {
                case.steps[step].probe.remove(line);
            }
            Self::Kept { step, line } => {
                case.steps[step].keep.remove(line);
            }
            Self::Object { step, key } => {
                case.steps[step].apply.remove(&key);
            }
            Self::Deletion { step, number } => {
                case.steps[step].delete.remove(number);
            }
            Self::Endpoint { step, key, number } => {
                let object = case.steps[step].apply.get_mut(&key);
                if let Some(Value::Array(endpoints)) = object.and_then(|object| object.get_mut("endpoints")) {
                    endpoints.remove(number);
                }
            }
        }
        case
    }
}

fn parts_of_steps(case: &Case) -> impl Iterator<Item = Part> {
    case.steps.iter().enumerate().flat_map(|(step, content)| {
        let probes = (0..content.probe.len()).map(move |line| Part::Probe { step, line });
        let objects = content.apply.keys().cloned().map(move |key| Part::Object { step, key });
        let kept = (0..content.keep.len()).map(move |line| Part::Kept { step, line });
        probes
            .chain(kept)
            .chain(objects)
            .chain((0..content.delete.len()).map(move |number| Part::Deletion { step, number }))
    })
}

fn endpoints(case: &Case) -> impl Iterator<Item = Part> {
    case.steps.iter().enumerate().flat_map(|(step, content)| {
        content.apply.iter().flat_map(move |(key, object)| {
            let n_endpoints = object["endpoints"].as_array().map_or(0, Vec::len);
            (0..n_endpoints).map(move |number| Part::Endpoint { step, key: key.clone(), number })
        })
    })
}

#[cfg(test)]
mod tests {
    use lb_tests::peer::Step;
    use serde_json::json;

    use super::*;

    #[test]
    fn what_the_problem_needs_stays_and_nothing_else() {
        let step = |probes: &[&str]| Step {
            apply: [("slice/web".to_owned(), json!({"endpoints": ["a", "b", "c"]}))].into(),
            probe: probes.iter().map(|line| (*line).to_owned()).collect(),
            ..Step::default()
        };
        let whole = Case {
            name: "x".to_owned(),
            alone: false,
            steps: vec![step(&["one"]), step(&["two", "three"]), step(&[])],
        };
        let needs = |case: &Case| {
            case.steps.iter().any(|step| {
                let endpoints = step.apply.get("slice/web").map(|slice| slice["endpoints"].to_string());
                step.probe.iter().any(|line| line == "three") && endpoints.is_some_and(|text| text.contains('b'))
            })
        };
        let small = shrink(whole, |case| Ok(needs(case))).unwrap().unwrap();
        let text = serde_json::to_string(&small).unwrap();
        assert_eq!(text, r#"{"name":"x","steps":[{"apply":{"slice/web":{"endpoints":["b"]}},"probe":["three"]}]}"#);
    }

    #[test]
    fn history_without_a_problem_is_none() {
        let whole = Case { name: "x".to_owned(), alone: false, steps: Vec::new() };
        assert!(shrink(whole, |_| Ok(false)).unwrap().is_none());
    }
}
