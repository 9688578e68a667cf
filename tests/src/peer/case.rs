//! Cases: objects, changes to them, and probes, read from YAML. Says what is written, does nothing.

use std::{collections::BTreeMap, path::Path};

use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    objects::{self, check_name},
    probe::Probe,
    tokens::expand,
};

/// One case of a file, in order. Its objects are in a namespace of its own, named after it.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Case {
    /// What it shows; unique, and the name of a namespace.
    pub name: String,
    /// Whether it changes what all cases share, such as the node, and so runs by itself.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub alone: bool,
    /// One after the other; each is in force on both islands before its probes.
    pub steps: Vec<Step>,
}

/// Changes, made in this order: deletions, then what is applied, then waiting. Then probes.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Step {
    /// Objects to delete.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub delete: Vec<String>,
    /// Objects to create or change.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub apply: BTreeMap<String, Value>,
    /// Whether kube-proxy is started anew after the changes, as it must be to hear of some. The agent never is.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub restart_kube_proxy: bool,
    /// Seconds without traffic before each try of the probes, where time itself is the matter: the timeout of an
    /// affinity.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pause: Option<u64>,
    /// Sockets that are opened after the probes, asked once, and again after the changes of each later step: probes
    /// without an expectation, of `tcp` and `udpc`. What becomes of a socket that went on so far is compared: it goes on
    /// with whom it had (`same`), with somebody else (`moved`), or how it failed. Such a case runs by itself, or with
    /// others of its kind.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub keep: Vec<String>,
    /// What is asked.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub probe: Vec<String>,
}

impl Case {
    /// The cases of all `.yaml` files in a directory, in the order of the files' names.
    ///
    /// # Errors
    /// With the file's name, also where two cases have the same name.
    pub fn read_all(directory: &Path) -> Result<Vec<Self>> {
        let entries = std::fs::read_dir(directory).with_context(|| format!("cannot list {}", directory.display()))?;
        let mut files = entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
        files.retain(|file| file.extension().is_some_and(|extension| extension == "yaml"));
        files.sort();
        let mut cases: Vec<Self> = Vec::new();
        for file in files {
            let read = || anyhow::Ok(serde_saphyr::from_str::<Vec<Self>>(&std::fs::read_to_string(&file)?)?);
            for case in read().with_context(|| format!("cannot read the cases in {}", file.display()))? {
                check_name(&case.name)?;
                ensure!(cases.iter().all(|other| other.name != case.name), "two cases are called {}", case.name);
                cases.push(case);
            }
        }
        Ok(cases)
    }
}

impl Step {
    /// References to the objects that go, then the objects that come or change, for case `number` in `namespace`.
    pub(super) fn objects(&self, namespace: &str, number: u16) -> Result<(Vec<Value>, Vec<Value>)> {
        let deleted = self.delete.iter().map(|key| objects::reference(namespace, key)).collect::<Result<_>>()?;
        let applied = self.apply.iter().map(|(key, value)| objects::object(namespace, key, &expand_in(value, number)?));
        Ok((deleted, applied.collect::<Result<_>>()?))
    }

    /// What stands for the sockets to keep of all lines.
    pub(super) fn kept(&self, number: u16) -> Result<Vec<Probe>> {
        let kept = self.keep.iter().map(|line| Probe::parse_kept(line, number));
        Ok(kept.collect::<Result<Vec<_>>>()?.concat())
    }

    /// The probes of all lines.
    pub(super) fn probes(&self, number: u16) -> Result<Vec<Probe>> {
        let probes = self.probe.iter().map(|line| Probe::parse(line, number));
        Ok(probes.collect::<Result<Vec<_>>>()?.concat())
    }
}

/// Replaces the tokens in every string of a value.
fn expand_in(value: &Value, number: u16) -> Result<Value> {
    Ok(match value {
        // The only tokens that stand where the API wants a number.
        Value::String(text) if text.starts_with("$np") => expand(text, number)?.parse::<u16>()?.into(),
        Value::String(text) => Value::String(expand(text, number)?),
        Value::Array(items) => items.iter().map(|item| expand_in(item, number)).collect::<Result<_>>()?,
        Value::Object(fields) => {
            let fields = fields.iter().map(|(key, value)| Ok((key.clone(), expand_in(value, number)?)));
            Value::Object(fields.collect::<Result<_>>()?)
        }
        other => other.clone(),
    })
}
