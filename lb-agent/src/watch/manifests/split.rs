//! Takes a manifest file apart into its documents, YAML or JSON. Documents are cut out before they are parsed, so that a
//! syntax error in one does not hide those after it.

use serde_json::Value;

/// A document: the line it begins at (from 1), and what it says or why it cannot be read.
#[derive(Debug)]
pub(super) struct Chunk {
    pub(super) line: usize,
    pub(super) value: Result<Value, String>,
}

/// The documents of a file. Empty ones are left out.
pub(super) fn values(text: &str, is_json: bool) -> Vec<Chunk> {
    let mut chunks = Vec::new();
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    for (line, document) in documents(text) {
        let looks_like_json = document.trim_start().starts_with(['{', '[']);
        match json(line, document) {
            Some(values) if is_json || looks_like_json && values.first().is_some_and(|v| v.value.is_ok()) => {
                chunks.extend(values);
            }
            _ => chunks.push(Chunk { line, value: yaml(line, document) }),
        }
    }
    chunks.retain(|chunk| !matches!(chunk.value, Ok(Value::Null)));
    chunks
}

/// Cuts at `---` and `...`, which mean the end of a document wherever they stand at the beginning of a line (YAML 1.2,
/// 9.1.2), even within a block of text.
fn documents(text: &str) -> Vec<(usize, &str)> {
    let mut documents = Vec::new();
    let (mut start, mut start_line, mut offset) = (0, 1, 0);
    for (i, line) in text.split_inclusive('\n').enumerate() {
        let is_marker =
            |marker: &str| line.strip_prefix(marker).is_some_and(|rest| rest.trim_start().len() < rest.len());
        let next = offset + line.len();
        let last_line_marker = |marker: &str| line == marker;
        if is_marker("---") || last_line_marker("---") {
            documents.push((start_line, &text[start..offset]));
            (start, start_line) = (offset, i + 1);
        } else if is_marker("...") || last_line_marker("...") {
            documents.push((start_line, &text[start..offset]));
            (start, start_line) = (next, i + 2);
        }
        offset = next;
    }
    documents.push((start_line, &text[start..]));
    documents.retain(|(_, document)| !is_empty(document));
    documents
}

/// Nothing but comments, directives and the marker at its beginning.
fn is_empty(document: &str) -> bool {
    document.lines().all(|line| {
        let line = line.strip_prefix("---").unwrap_or(line).trim();
        line.is_empty() || line.starts_with(['#', '%'])
    })
}

/// JSON values, one after the other. `None` if there is none.
fn json(line: usize, document: &str) -> Option<Vec<Chunk>> {
    let mut stream = serde_json::Deserializer::from_str(document).into_iter::<Value>();
    let mut chunks = Vec::new();
    loop {
        let rest = document.get(stream.byte_offset()..)?;
        let begin = document.len() - rest.trim_start().len();
        let at = line + document[..begin].matches('\n').count();
        let Some(value) = stream.next() else { break };
        let failed = value.is_err();
        chunks.push(Chunk { line: at, value: value.map_err(|error| json_error(line, &error)) });
        if failed {
            break;
        }
    }
    (!chunks.is_empty()).then_some(chunks)
}

fn json_error(line: usize, error: &serde_json::Error) -> String {
    let text = error.to_string();
    let what = text.split(" at line ").next().unwrap_or(&text);
    format!("not JSON: {what} (line {}, column {})", line + error.line().saturating_sub(1), error.column())
}

fn yaml(line: usize, document: &str) -> Result<Value, String> {
    // No budget: the files are the operator's own, and a list of every Service of a cluster is large. No snippet: the
    // message is one line of a log.
    let options = serde_saphyr::options! { budget: None, with_snippet: false };
    serde_saphyr::from_str_with_options(document, options).map_err(|error| {
        let offset = u64::try_from(line - 1).unwrap_or(u64::MAX);
        let text = error.render_with_options(serde_saphyr::render_options! { line_offset: offset });
        format!("not YAML: {}", text.lines().collect::<Vec<_>>().join(" "))
    })
}
