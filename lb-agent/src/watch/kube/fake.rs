//! API servers for tests, without a network: a common store, as etcd is, and any number of servers over it, each with
//! faults of its own. They answer lists (paged) and watches (streaming lists included) as kube-apiserver does.

use std::{
    collections::{BTreeMap, VecDeque},
    io,
    sync::{Arc, Mutex},
};

use axum::body::Body as AnswerBody;
use futures::stream;
use http::{Request, Response};
use kube::{Client, client::Body};
use serde_json::{Value, json};
use tokio::sync::watch;

pub(super) const SERVICES: &str = "/api/v1/services";
pub(super) const NODES: &str = "/api/v1/nodes";
pub(super) const SLICES: &str = "/apis/discovery.k8s.io/v1/endpointslices";

/// All objects, and what happened to them.
#[derive(Debug)]
pub(super) struct Store {
    contents: Mutex<Contents>,
    version: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Contents {
    /// By collection and `namespace/name`.
    objects: BTreeMap<(&'static str, String), Value>,
    /// Version, collection and watch event.
    log: Vec<(u64, &'static str, Value)>,
    /// Watches from before this version cannot be resumed.
    oldest: u64,
}

impl Store {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self { contents: Mutex::default(), version: watch::Sender::new(1) })
    }

    pub(super) fn put(&self, collection: &'static str, mut object: Value) {
        self.version.send_modify(|version| {
            *version += 1;
            let mut contents = self.contents.lock().unwrap();
            object["metadata"]["resourceVersion"] = version.to_string().into();
            let key = (collection, key(&object));
            let kind = if contents.objects.contains_key(&key) { "MODIFIED" } else { "ADDED" };
            contents.log.push((*version, collection, json!({"type": kind, "object": object})));
            contents.objects.insert(key, object);
        });
    }

    pub(super) fn delete(&self, collection: &'static str, name: &str) {
        self.version.send_modify(|version| {
            *version += 1;
            let mut contents = self.contents.lock().unwrap();
            let namespace = if collection == NODES { "" } else { "default" };
            let mut object = contents.objects.remove(&(collection, format!("{namespace}/{name}"))).unwrap();
            object["metadata"]["resourceVersion"] = version.to_string().into();
            contents.log.push((*version, collection, json!({"type": "DELETED", "object": object})));
        });
    }

    /// Forgets the past, as etcd does by compaction: no watch can be resumed from before.
    pub(super) fn compact(&self) {
        self.version.send_modify(|version| {
            *version += 1;
            let mut contents = self.contents.lock().unwrap();
            contents.oldest = *version;
            contents.log.clear();
        });
    }

    fn objects(&self, collection: &str) -> Vec<Value> {
        let contents = self.contents.lock().unwrap();
        contents.objects.iter().filter(|((c, _), _)| *c == collection).map(|(_, object)| object.clone()).collect()
    }
}

fn key(object: &Value) -> String {
    let part = |name: &str| object["metadata"][name].as_str().unwrap_or_default().to_owned();
    format!("{}/{}", part("namespace"), part("name"))
}

/// What is wrong with a server.
#[derive(Clone, Debug, Default)]
pub(super) struct Faults {
    /// It cannot be reached, and watches that are open break.
    pub(super) down: bool,
    /// It accepts watches and breaks them.
    pub(super) breaks_watches: bool,
    /// It answers every request with this status and message.
    pub(super) refuse: Option<(u16, &'static str)>,
    /// It answers requests for Nodes with this status and message.
    pub(super) refuse_nodes: Option<(u16, &'static str)>,
    /// It sends no streaming lists and says so with this status and message.
    pub(super) no_streaming: Option<(u16, &'static str)>,
    /// It begins streaming lists and says only then that it has none.
    pub(super) no_streaming_after_all: bool,
    /// It begins streaming lists and never ends them.
    pub(super) stalls: bool,
    /// It answers 410 to the request for a watch that is too old, where others tell it within the watch.
    pub(super) gone_at_once: bool,
    /// It answers 410 to every request for a watch from some version on.
    pub(super) gone_always: bool,
    /// This many further lists are empty.
    pub(super) empty_lists: usize,
}

/// One API server.
#[derive(Debug)]
pub(super) struct Server {
    store: Arc<Store>,
    faults: watch::Sender<Faults>,
    requests: Mutex<Vec<String>>,
}

impl Server {
    pub(super) fn new(store: &Arc<Store>) -> Arc<Self> {
        Arc::new(Self { store: store.clone(), faults: watch::Sender::default(), requests: Mutex::default() })
    }

    pub(super) fn with(store: &Arc<Store>, faults: Faults) -> Arc<Self> {
        let server = Self::new(store);
        server.faults.send_replace(faults);
        server
    }

    pub(super) fn set(&self, change: impl FnOnce(&mut Faults)) {
        self.faults.send_modify(change);
    }

    /// Path and query of all requests since the last call.
    pub(super) fn requests(&self) -> Vec<String> {
        std::mem::take(&mut self.requests.lock().unwrap())
    }

    pub(super) fn client(self: &Arc<Self>) -> Client {
        let server = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let server = server.clone();
            async move { server.answer(&request) }
        });
        Client::new(service, "default")
    }

    fn answer(self: Arc<Self>, request: &Request<Body>) -> io::Result<Response<AnswerBody>> {
        let faults = self.faults.borrow().clone();
        if faults.down {
            return Err(io::Error::from(io::ErrorKind::ConnectionRefused));
        }
        self.requests.lock().unwrap().push(request.uri().path_and_query().unwrap().to_string());
        if let Some((code, message)) = faults.refuse {
            return Ok(status(code, message));
        }
        let collection = match request.uri().path() {
            SERVICES => SERVICES,
            NODES => NODES,
            _ => SLICES,
        };
        if let Some((code, message)) = faults.refuse_nodes.filter(|_| collection == NODES) {
            return Ok(status(code, message));
        }
        let query: BTreeMap<&str, &str> =
            request.uri().query().unwrap_or_default().split('&').filter_map(|pair| pair.split_once('=')).collect();
        let streaming = query.get("sendInitialEvents") == Some(&"true");
        match query.get("watch") {
            None => Ok(self.list(collection, &query)),
            Some(_) if let (true, Some((code, message))) = (streaming, faults.no_streaming) => {
                Ok(status(code, message))
            }
            Some(_) => Ok(self.watch(collection, streaming, &query, &faults)),
        }
    }

    fn objects(&self, collection: &str, name: Option<&str>) -> Vec<Value> {
        let mut empty = false;
        self.faults.send_if_modified(|faults| {
            empty = faults.empty_lists > 0 && collection != NODES;
            faults.empty_lists = faults.empty_lists.saturating_sub(usize::from(empty));
            false
        });
        let mut objects = if empty { Vec::new() } else { self.store.objects(collection) };
        objects.retain(|object| is_called(object, name));
        objects
    }

    fn list(&self, collection: &str, query: &BTreeMap<&str, &str>) -> Response<AnswerBody> {
        let objects = self.objects(collection, selected_name(query));
        let start: usize = query.get("continue").map_or(0, |token| token.parse().unwrap());
        let end = query.get("limit").map_or(objects.len(), |limit| start + limit.parse::<usize>().unwrap());
        let end = end.min(objects.len());
        let token = if end < objects.len() { end.to_string() } else { String::new() };
        let version = self.store.version.borrow().to_string();
        let list = json!({"apiVersion": "v1", "kind": "List", "items": objects[start..end],
            "metadata": {"resourceVersion": version, "continue": token}});
        Response::new(AnswerBody::from(list.to_string()))
    }

    fn watch(
        &self,
        collection: &'static str,
        streaming: bool,
        query: &BTreeMap<&str, &str>,
        faults: &Faults,
    ) -> Response<AnswerBody> {
        let from: u64 = query["resourceVersion"].parse().unwrap();
        let name = selected_name(query);
        let mut first = VecDeque::new();
        let mut version = from;
        if streaming {
            version = *self.store.version.borrow();
            first.extend(
                self.objects(collection, name).into_iter().map(|object| json!({"type": "ADDED", "object": object})),
            );
            let bookmark = json!({"type": "BOOKMARK", "object": {"kind": "x", "apiVersion": "v1", "metadata":
                {"resourceVersion": version.to_string(), "annotations": {"k8s.io/initial-events-end": "true"}}}});
            if faults.no_streaming_after_all {
                let failed = json!({"kind": "Status", "status": "Failure", "code": 500, "message": "no such feature"});
                first = [json!({"type": "ERROR", "object": failed})].into();
            } else if !faults.stalls {
                first.push_back(bookmark);
            }
        } else if faults.gone_always {
            return status(410, "too old resource version");
        } else if from < self.store.contents.lock().unwrap().oldest {
            if faults.gone_at_once {
                return status(410, "too old resource version");
            }
            let gone =
                json!({"kind": "Status", "status": "Failure", "code": 410, "reason": "Expired", "message": "old"});
            first.push_back(json!({"type": "ERROR", "object": gone}));
        }
        let watch = Watch {
            store: self.store.clone(),
            versions: self.store.version.subscribe(),
            faults: self.faults.subscribe(),
            collection,
            name: name.map(str::to_owned),
            version,
            first,
        };
        Response::new(AnswerBody::from_stream(stream::unfold(Some(watch), |watch| async {
            let mut watch = watch?;
            match watch.next().await {
                Ok(event) => Some((Ok(format!("{event}\n")), Some(watch))),
                Err(error) => Some((Err(error), None)),
            }
        })))
    }
}

/// A watch that is open.
struct Watch {
    store: Arc<Store>,
    versions: watch::Receiver<u64>,
    faults: watch::Receiver<Faults>,
    collection: &'static str,
    name: Option<String>,
    version: u64,
    first: VecDeque<Value>,
}

impl Watch {
    async fn next(&mut self) -> io::Result<Value> {
        loop {
            let faults = self.faults.borrow_and_update().clone();
            if faults.down || faults.breaks_watches {
                return Err(io::Error::from(io::ErrorKind::ConnectionReset));
            }
            if let Some(event) = self.first.pop_front() {
                return Ok(event);
            }
            self.versions.borrow_and_update();
            let found = {
                let contents = self.store.contents.lock().unwrap();
                let mut log = contents.log.iter();
                log.find(|(version, c, event)| {
                    let selected = is_called(&event["object"], self.name.as_deref());
                    *version > self.version && *c == self.collection && selected
                })
                .cloned()
            };
            if let Some((version, _, event)) = found {
                self.version = version;
                return Ok(event);
            }
            tokio::select! {
                changed = self.versions.changed() => changed.map_err(io::Error::other)?,
                changed = self.faults.changed() => changed.map_err(io::Error::other)?,
            }
        }
    }
}

/// The name that a field selector asks for.
fn selected_name<'a>(query: &BTreeMap<&str, &'a str>) -> Option<&'a str> {
    query.get("fieldSelector").map(|selector| selector.strip_prefix("metadata.name%3D").unwrap())
}

fn is_called(object: &Value, name: Option<&str>) -> bool {
    name.is_none_or(|name| object["metadata"]["name"] == name)
}

fn status(code: u16, message: &str) -> Response<AnswerBody> {
    let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "message": message,
        "reason": "Test", "metadata": {}});
    Response::builder().status(code).body(AnswerBody::from(status.to_string())).unwrap()
}
