//! Scenario files: what happens, and what the maps and the clients have to show for it. See scenarios/README.md.

use std::{fmt, path::Path};

/// A line `-- command arguments`, and the lines below it up to the next.
#[derive(Debug)]
pub(crate) struct Step {
    pub(crate) command: String,
    pub(crate) arguments: Vec<String>,
    pub(crate) body: String,
    /// For messages.
    pub(crate) place: String,
}

/// Reads a scenario file. Lines before the first command say what it is about.
pub(crate) fn read(path: &Path) -> Vec<Step> {
    let text = std::fs::read_to_string(path).expect("the scenario can be read");
    let file = path.file_name().expect("a file").to_string_lossy().into_owned();
    let mut steps: Vec<Step> = Vec::new();
    for (number, line) in text.lines().enumerate() {
        if let Some(command) = line.strip_prefix("-- ") {
            let mut words = command.split_whitespace().map(str::to_owned);
            let command = words.next().expect("a command");
            let place = format!("{file}:{}", number + 1);
            steps.push(Step { command, arguments: words.collect(), body: String::new(), place });
        } else if let Some(step) = steps.last_mut() {
            step.body.push_str(line);
            step.body.push('\n');
        }
    }
    assert!(!steps.is_empty(), "{file} has no step");
    steps
}

impl Step {
    /// The lines of the body that say something, sorted.
    pub(crate) fn expected(&self) -> Vec<String> {
        let mut lines: Vec<String> =
            self.body.lines().map(|line| line.trim().to_owned()).filter(|line| !line.is_empty()).collect();
        lines.sort();
        lines
    }

    /// A text that means something.
    pub(crate) fn parsed<T: std::str::FromStr>(&self, text: &str) -> T {
        text.parse().unwrap_or_else(|_| panic!("{self}: {text} cannot be read"))
    }

    /// A number argument, by its index.
    pub(crate) fn number<N: std::str::FromStr>(&self, index: usize) -> N {
        let argument = self.arguments.get(index).and_then(|argument| argument.parse().ok());
        argument.unwrap_or_else(|| panic!("{self}: argument {index} is not a number"))
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} {}", self.place, self.command, self.arguments.join(" "))
    }
}
