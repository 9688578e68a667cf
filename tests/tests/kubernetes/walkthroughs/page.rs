//! A page of `docs/walkthroughs/`: the files that it shows and what a user types. Reads, does nothing.
//!
//! A `yaml` block whose first line is `# NAME.yaml` is a file. A `console` block holds commands after one of the prompts
//! `$` (kubectl), `client$` (a shell in a pod) and `node$` (a shell on the node), each with its output; `...` stands for
//! anything within a line.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, bail};

/// Files, and commands in order.
#[derive(Debug, Default)]
pub(crate) struct Page {
    pub(crate) files: BTreeMap<String, String>,
    pub(crate) commands: Vec<Command>,
}

#[derive(Debug)]
pub(crate) struct Command {
    pub(crate) prompt: Prompt,
    pub(crate) line: String,
    /// The lines that it writes.
    pub(crate) output: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Prompt {
    Kubectl,
    Client,
    Node,
}

const PROMPTS: [(&str, Prompt); 3] = [("$ ", Prompt::Kubectl), ("client$ ", Prompt::Client), ("node$ ", Prompt::Node)];

impl Page {
    /// Reads a Markdown text.
    pub(crate) fn parse(markdown: &str) -> Result<Self> {
        let mut page = Self::default();
        let mut lines = markdown.lines();
        while let Some(line) = lines.next() {
            let Some(language) = line.strip_prefix("```") else { continue };
            let block: Vec<&str> = lines.by_ref().take_while(|line| *line != "```").collect();
            match language {
                "yaml" => page.add_file(&block)?,
                "console" => page.add_commands(&block)?,
                _ => {}
            }
        }
        Ok(page)
    }

    fn add_file(&mut self, block: &[&str]) -> Result<()> {
        let name = block.first().and_then(|line| line.strip_prefix("# ")).context("a yaml block without `# NAME`")?;
        self.files.insert(name.to_owned(), block.join("\n"));
        Ok(())
    }

    fn add_commands(&mut self, block: &[&str]) -> Result<()> {
        for line in block {
            let prompt = PROMPTS.iter().find_map(|(text, prompt)| Some((*prompt, line.strip_prefix(text)?)));
            match (prompt, self.commands.last_mut()) {
                (Some((prompt, line)), _) => {
                    self.commands.push(Command { prompt, line: line.to_owned(), output: Vec::new() });
                }
                (None, Some(command)) => command.output.push((*line).to_owned()),
                (None, None) => bail!("`{line}` comes before any command"),
            }
        }
        Ok(())
    }
}

impl Command {
    /// Whether a text is the output that the page shows.
    pub(crate) fn shows(&self, text: &str) -> bool {
        let lines: Vec<&str> = text.lines().collect();
        let mut pairs = self.output.iter().zip(&lines);
        lines.len() == self.output.len() && pairs.all(|(pattern, line)| fits(pattern, line))
    }
}

fn fits(pattern: &str, line: &str) -> bool {
    let mut parts = pattern.split("...");
    let Some(mut rest) = parts.next().and_then(|first| line.strip_prefix(first)) else { return false };
    let mut parts = parts.peekable();
    while let Some(part) = parts.next() {
        let found =
            if parts.peek().is_none() { rest.ends_with(part).then_some(rest.len()) } else { end_of(rest, part) };
        let Some(end) = found else { return false };
        rest = rest.get(end..).unwrap_or_default();
    }
    rest.is_empty()
}

/// Where `part` ends in `text`.
fn end_of(text: &str, part: &str) -> Option<usize> {
    text.find(part).map(|start| start + part.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn page_gives_files_and_commands_in_order() {
        let text = "# T\n\n```yaml\n# web.yaml\nkind: Service\n```\n\n```console\n$ kubectl apply -f web.yaml\n\
                    client$ curl -s x\na\nb\n```\n";
        let page = Page::parse(text).unwrap();
        assert_eq!(page.files["web.yaml"], "# web.yaml\nkind: Service");
        assert_eq!(page.commands[0].prompt, Prompt::Kubectl);
        assert_eq!(page.commands[1].output, ["a", "b"]);
    }

    #[test]
    fn dots_stand_for_anything_within_a_line() {
        assert!(fits("web-...-...", "web-5d-x7") && fits("a", "a") && fits("curl: (7) ...", "curl: (7) no"));
        assert!(!fits("web-...", "db-1") && !fits("a", "ab") && !fits("a...b", "a-c"));
    }
}
