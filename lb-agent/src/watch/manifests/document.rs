//! One manifest file: from its text to the objects in it, each with the place where it stands. A document that cannot
//! be read costs only itself.

use std::{fmt, sync::Arc};

use serde_json::Value;

use super::split::{self, Chunk};
use crate::{
    event::{EndpointSlice, Node, ObjectName, Service},
    watch::{
        convert,
        intern::Interner,
        object::typed,
        problem::{Converted, Key, Kind, Problem},
    },
};

/// Where an object stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) file: Arc<str>,
    /// From 1.
    document: usize,
    /// Of the file, from 1.
    line: usize,
    /// Index in a list.
    item: Option<usize>,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, document {} (line {})", self.file, self.document, self.line)?;
        self.item.map_or(Ok(()), |item| write!(f, ", items[{item}]"))
    }
}

/// What a manifest says.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Object {
    Service { service: Service, has_selector: bool },
    Slice { slice: EndpointSlice, mirrored: bool },
    Endpoints { slices: Vec<EndpointSlice>, skip_mirror: bool },
    Node(Node),
}

/// What became of one object of a file.
#[derive(Debug)]
pub(super) enum Outcome {
    Good {
        key: Key,
        object: Object,
        warnings: Vec<Problem>,
    },
    /// Without a key where not even the name could be read.
    Bad {
        key: Option<Key>,
        text: String,
    },
    /// Nothing for this agent.
    Ignored {
        text: String,
    },
}

/// One object of a file.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) place: Place,
    pub(super) outcome: Outcome,
}

/// Reads a file.
pub(super) fn read(file: &Arc<str>, text: &str, names: &mut Interner) -> Vec<Entry> {
    let mut entries = Vec::new();
    for (i, Chunk { line, value }) in split::values(text, file.ends_with(".json")).into_iter().enumerate() {
        let place = Place { file: file.clone(), document: i + 1, line, item: None };
        match value {
            Ok(value) => objects(place, value, names, &mut entries),
            Err(text) => entries.push(Entry { place, outcome: Outcome::Bad { key: None, text } }),
        }
    }
    entries
}

/// The objects of one document: itself, or the items of a list.
fn objects(place: Place, mut value: Value, names: &mut Interner, entries: &mut Vec<Entry>) {
    let item_type = match (text(&value, "apiVersion"), text(&value, "kind")) {
        (Some("v1"), Some("List")) => None,
        (Some("v1"), Some("ServiceList")) => Some(("v1", "Service")),
        (Some("v1"), Some("NodeList")) => Some(("v1", "Node")),
        (Some("v1"), Some("EndpointsList")) => Some(("v1", "Endpoints")),
        (Some("discovery.k8s.io/v1"), Some("EndpointSliceList")) => Some(("discovery.k8s.io/v1", "EndpointSlice")),
        _ => {
            entries.push(Entry { place, outcome: object(value, names) });
            return;
        }
    };
    let items = match value.get_mut("items").map(Value::take) {
        None | Some(Value::Null) => Vec::new(),
        Some(Value::Array(items)) => items,
        Some(_) => {
            let outcome = Outcome::Bad { key: None, text: "items: not a list".to_owned() };
            entries.push(Entry { place, outcome });
            return;
        }
    };
    for (i, mut item) in items.into_iter().enumerate() {
        if let (Some((version, kind)), Some(fields)) = (item_type, item.as_object_mut()) {
            // The API leaves these out in the items of a typed list.
            fields.entry("apiVersion").or_insert_with(|| version.into());
            fields.entry("kind").or_insert_with(|| kind.into());
        }
        entries.push(Entry { place: Place { item: Some(i), ..place.clone() }, outcome: object(item, names) });
    }
}

fn object(mut value: Value, names: &mut Interner) -> Outcome {
    let kind = match kind(&value) {
        Ok(kind) => kind,
        Err(outcome) => return *outcome,
    };
    let metadata = value.get_mut("metadata").and_then(Value::as_object_mut);
    let Some(name) = metadata.as_ref().and_then(|m| m.get("name")).and_then(Value::as_str).map(str::to_owned) else {
        return Outcome::Bad { key: None, text: format!("{kind}: metadata.name: missing, or not a text") };
    };
    let namespace = match metadata.as_ref().and_then(|metadata| metadata.get("namespace")) {
        // The one kind that is in no namespace.
        _ if kind == Kind::Node => String::new(),
        None | Some(Value::Null) => "default".to_owned(),
        Some(Value::String(namespace)) if !namespace.is_empty() => namespace.clone(),
        Some(_) => return Outcome::Bad { key: None, text: format!("{kind} {name}: metadata.namespace: not a name") },
    };
    if let Some(metadata) = metadata {
        metadata.insert("namespace".to_owned(), namespace.clone().into());
    }
    let key = Key { kind, name: ObjectName { namespace: names.get(&namespace), name: name.into() } };
    match check_names(&key).and_then(|()| convert(&key, value, names)) {
        Ok(Converted { object, warnings }) => Outcome::Good { key, object, warnings },
        Err(problem) => Outcome::Bad { key: Some(key), text: problem.to_string() },
    }
}

fn kind(value: &Value) -> Result<Kind, Box<Outcome>> {
    let bad = |text: &str| Box::new(Outcome::Bad { key: None, text: text.to_owned() });
    if !value.is_object() {
        return Err(bad("not an object: a document needs apiVersion, kind and metadata"));
    }
    let Some(kind) = text(value, "kind") else { return Err(bad("kind: missing, or not a text")) };
    let Some(version) = text(value, "apiVersion") else {
        return Err(bad(&format!("{kind}: apiVersion: missing, or not a text")));
    };
    match (version, kind) {
        ("v1", "Service") => Ok(Kind::Service),
        ("v1", "Endpoints") => Ok(Kind::Endpoints),
        ("v1", "Node") => Ok(Kind::Node),
        ("discovery.k8s.io/v1", "EndpointSlice") => Ok(Kind::EndpointSlice),
        ("discovery.k8s.io/v1beta1" | "v1", "EndpointSlice") => {
            Err(bad(&format!("{kind}: apiVersion: {version:?} is not supported, write discovery.k8s.io/v1")))
        }
        _ => Err(Box::new(Outcome::Ignored {
            text: format!(
                "{version} {kind} is not read by this agent (Service, EndpointSlice, Endpoints, Node and List are)"
            ),
        })),
    }
}

fn convert(key: &Key, value: Value, names: &mut Interner) -> Result<Converted<Object>, Problem> {
    match key.kind {
        Kind::Service => {
            let api: k8s_openapi::api::core::v1::Service = typed(key, value)?;
            let has_selector = api.spec.as_ref().and_then(|spec| spec.selector.as_ref()).is_some_and(|s| !s.is_empty());
            let Converted { object: service, warnings } = convert::service(&api, names)?;
            Ok(Converted { object: Object::Service { service, has_selector }, warnings })
        }
        Kind::EndpointSlice => {
            let api: k8s_openapi::api::discovery::v1::EndpointSlice = typed(key, value)?;
            let Some(Converted { object: slice, warnings }) = convert::slice(&api, names)? else {
                let field = format!("metadata.labels[{}]", convert::SERVICE_NAME);
                return Err(key.problem(field, "missing: the slice belongs to no Service"));
            };
            Ok(Converted { object: Object::Slice { slice, mirrored: convert::is_mirrored(&api) }, warnings })
        }
        Kind::Endpoints => {
            let api: k8s_openapi::api::core::v1::Endpoints = typed(key, value)?;
            let Converted { object: slices, warnings } = convert::endpoints(&api, names)?;
            let label = api.metadata.labels.as_ref().and_then(|l| l.get("endpointslice.kubernetes.io/skip-mirror"));
            let skip_mirror = label.is_some_and(|value| value == "true");
            Ok(Converted { object: Object::Endpoints { slices, skip_mirror }, warnings })
        }
        Kind::Node => {
            let Converted { object, warnings } = convert::node(&typed(key, value)?, names);
            Ok(Converted { object: Object::Node(object), warnings })
        }
        // Of a cluster only: no kubelet makes cgroups for what is in a file.
        Kind::Pod => Err(key.problem("kind", "Pods are not read from manifests")),
    }
}

/// Names are checked as the API server would: they end up in file names, tables and metrics.
fn check_names(key: &Key) -> Result<(), Problem> {
    let is_label = |text: &str, max: usize, dots: bool| {
        let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || (dots && b == b'.');
        !text.is_empty() && text.len() <= max && text.bytes().all(allowed)
    };
    let (max, dots) = if key.kind == Kind::Service { (63, false) } else { (253, true) };
    if !is_label(&key.name.name, max, dots) {
        return Err(key.problem("metadata.name", format!("not a name (at most {max} of a-z, 0-9 and -)")));
    }
    if key.kind != Kind::Node && !is_label(&key.name.namespace, 63, false) {
        return Err(key.problem("metadata.namespace", "not a name (at most 63 of a-z, 0-9 and -)"));
    }
    Ok(())
}

fn text<'a>(value: &'a Value, field: &str) -> Option<&'a str> {
    value.get(field)?.as_str()
}
