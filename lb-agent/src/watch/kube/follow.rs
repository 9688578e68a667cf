//! Follows one kind of object: lists, watches, converts each object as it arrives and drops the API's form of it.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures::StreamExt as _;
use kube::{Api, Resource as _, runtime::watcher};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep, sleep_until},
};

use super::{failover::Line, kind::Watched, pace::Pace, raw::Raw, trouble::Trouble};
use crate::{
    event::{Event, FullList, ObjectName},
    watch::{
        brake::{Brake, Verdict, Weights},
        convert,
        intern::Interner,
        problem::{Converted, Problem},
    },
};

/// How long a streaming list may stand still. A server that does not know them may begin as if it did and never end.
const LIST_STALL: Duration = Duration::from_secs(30);
/// How long to wait before a list that was not believed is asked for again.
const CONFIRM_AFTER: Duration = Duration::from_secs(3);

/// What happened to one kind.
#[derive(Debug)]
pub(super) enum Report {
    /// Something about the world, as the server `url` says.
    Event(Event),
    /// What is wrong with an object now; nothing where it is well or gone.
    Object(ObjectName, Vec<Arc<str>>),
    /// A full list was believed; with everything that is wrong with objects in it.
    Listed(BTreeMap<ObjectName, Vec<Arc<str>>>),
    /// A server answers.
    Answered,
    /// A full list was not believed.
    Doubted(String),
    /// It does not work; it is tried again.
    Failed(Trouble, String),
}

/// A report, of which kind and about which server.
#[derive(Debug)]
pub(super) struct Reported {
    pub(super) resource: &'static str,
    pub(super) url: Arc<str>,
    pub(super) report: Report,
}

/// Nobody listens any more.
#[derive(Debug)]
pub(super) struct Closed;

/// Follows one kind of object.
#[derive(Debug)]
pub(super) struct Follower<W> {
    line: Line,
    credentials: Arc<str>,
    node_name: Arc<str>,
    out: mpsc::Sender<Reported>,
    names: Interner,
    brake: Brake,
    pace: Pace,
    /// Lists are asked for as streams.
    streaming: bool,
    /// What the watcher asks for next is a list, not the rest of a watch.
    needs_list: bool,
    /// How often the first list was refused for lack of permission; `None` once there was one, or it is done without.
    refusals: Option<usize>,
    list: List<W>,
}

/// A full list on its way.
#[derive(Debug)]
struct List<W> {
    objects: FullList<W>,
    weights: Weights,
    /// How many entries of the maps the objects take.
    entries: u64,
    problems: BTreeMap<ObjectName, Vec<Arc<str>>>,
    under_way: bool,
}

impl<W> Default for List<W> {
    fn default() -> Self {
        let objects = FullList::from(Vec::new());
        Self { objects, weights: Weights::new(), entries: 0, problems: BTreeMap::new(), under_way: false }
    }
}

/// Why the watcher has to begin anew, with a list.
#[derive(Debug)]
enum Restart {
    /// In pages this time, since the server sends no streaming list.
    Paged,
    /// Because the watch cannot be resumed.
    List,
    /// To confirm a list that was not believed.
    Confirm,
}

impl<W: Watched> Follower<W> {
    /// `brake` may know what an earlier agent left.
    pub(super) fn new(
        line: Line,
        credentials: Arc<str>,
        node_name: Arc<str>,
        out: mpsc::Sender<Reported>,
        brake: Brake,
    ) -> Self {
        Self {
            line,
            credentials,
            node_name,
            out,
            names: Interner::default(),
            brake,
            pace: Pace::default(),
            streaming: true,
            needs_list: true,
            refusals: Some(0),
            list: List::default(),
        }
    }

    /// Runs until nobody listens any more.
    pub(super) async fn run(mut self) {
        while let Ok(restart) = self.follow().await {
            match restart {
                Restart::Paged => self.streaming = false,
                Restart::List => self.streaming = true,
                Restart::Confirm => {
                    self.streaming = true;
                    self.line.leave_server();
                    sleep(CONFIRM_AFTER).await;
                }
            }
        }
    }

    async fn follow(&mut self) -> Result<Restart, Closed> {
        let api = Api::<Raw<W::Api>>::all(self.line.client());
        let config = W::selection(&self.node_name);
        let config = if self.streaming { config.streaming_lists() } else { config };
        let mut stream = watcher::watcher(api, config).boxed();
        self.list = List::default();
        self.needs_list = true;
        let mut stalled = Instant::now() + LIST_STALL;
        loop {
            let item = tokio::select! {
                biased;
                () = self.line.answered() => {
                    self.report(Report::Answered).await?;
                    continue;
                }
                item = stream.next() => item,
                () = sleep_until(stalled), if self.streaming && self.list.under_way => return Ok(Restart::Paged),
                () = self.out.closed() => return Err(Closed),
            };
            stalled = Instant::now() + LIST_STALL;
            match item {
                Some(Ok(event)) => {
                    if let Some(restart) = self.take(event).await? {
                        return Ok(restart);
                    }
                }
                Some(Err(error)) => {
                    if let Some(restart) = self.failed(&error).await? {
                        return Ok(restart);
                    }
                }
                // Never: the watcher goes on for ever.
                None => {
                    sleep(self.pace.pause()).await;
                    return Ok(Restart::List);
                }
            }
        }
    }

    /// Reports an error, waits, and tells whether the watcher has to begin anew.
    async fn failed(&mut self, error: &watcher::Error) -> Result<Option<Restart>, Closed> {
        let trouble = Trouble::of(error, self.streaming && self.needs_list);
        if trouble == Trouble::NoStreamingLists {
            return Ok(Some(Restart::Paged));
        }
        let expired = trouble == Trouble::Expired;
        self.needs_list |= expired;
        if !expired || self.pace.expired() {
            let text = trouble.text(error, &self.line.url(), W::RESOURCE, &self.credentials);
            self.report(Report::Failed(trouble, text)).await?;
            if trouble == Trouble::Forbidden {
                self.refused().await?;
            }
            // A refusal (401, 403) may be the fault of this server alone: of its clock, certificates or authorizer.
            self.line.leave_server();
        }
        sleep(self.pace.pause()).await;
        // Kube lists again only if it is told so within a watch, not in answer to the request for one.
        Ok((expired && matches!(error, watcher::Error::WatchStartFailed(_))).then_some(Restart::List))
    }

    /// When every server has refused the first list of something that can be done without, it is.
    async fn refused(&mut self) -> Result<(), Closed> {
        let Some(refusals) = &mut self.refusals else { return Ok(()) };
        *refusals += 1;
        if *refusals >= self.line.n_servers()
            && let Some(event) = W::withheld()
        {
            self.refusals = None;
            self.report(Report::Event(event)).await?;
        }
        Ok(())
    }

    async fn take(&mut self, event: watcher::Event<Raw<W::Api>>) -> Result<Option<Restart>, Closed> {
        match event {
            watcher::Event::Init => self.list = List { under_way: true, ..List::default() },
            watcher::Event::InitApply(raw) => self.collect(&raw),
            watcher::Event::InitDone => return self.listed().await,
            watcher::Event::Apply(raw) => {
                self.pace.delivered();
                self.applied(&raw).await?;
            }
            watcher::Event::Delete(raw) => {
                self.pace.delivered();
                if let Some(name) = convert::name(raw.meta(), &mut self.names) {
                    self.gone(name).await?;
                }
            }
        }
        Ok(None)
    }

    /// An object of a full list.
    fn collect(&mut self, raw: &Raw<W::Api>) {
        let Some(name) = convert::name(raw.meta(), &mut self.names) else { return };
        let problems = match self.convert(raw) {
            Ok(None) => return,
            Ok(Some(Converted { object, warnings })) => {
                self.list.weights.insert(name.clone(), object.weight());
                self.list.entries += object.entries();
                self.list.objects.objects.push(object);
                warnings
            }
            Err(problem) => {
                let weight = self.brake.weight(&name);
                self.list.weights.extend(weight.map(|weight| (name.clone(), weight)));
                self.list.objects.unreadable.push(name.clone());
                vec![problem]
            }
        };
        if !problems.is_empty() {
            self.list.problems.insert(name, self.texts(&problems));
        }
    }

    async fn listed(&mut self) -> Result<Option<Restart>, Closed> {
        let list = std::mem::take(&mut self.list);
        self.needs_list = false;
        match self.brake.judge(list.weights, list.entries) {
            Verdict::Believe => {
                self.refusals = None;
                self.report(Report::Event(W::listed(list.objects))).await?;
                self.report(Report::Listed(list.problems)).await?;
                self.names.sweep();
                Ok(None)
            }
            Verdict::Confirm(loss) => {
                let text = format!(
                    "API server {}: the new list of {} lacks {loss}; not believed until a second list says the same",
                    self.line.url(),
                    W::RESOURCE
                );
                self.report(Report::Doubted(text)).await?;
                Ok(Some(Restart::Confirm))
            }
        }
    }

    async fn applied(&mut self, raw: &Raw<W::Api>) -> Result<(), Closed> {
        let Some(name) = convert::name(raw.meta(), &mut self.names) else { return Ok(()) };
        let problems = match self.convert(raw) {
            // It may have been ours before.
            Ok(None) => return self.gone(name).await,
            Ok(Some(Converted { object, warnings })) => {
                self.brake.applied(name.clone(), object.weight());
                self.report(Report::Event(object.applied())).await?;
                warnings
            }
            Err(problem) => vec![problem],
        };
        let texts = self.texts(&problems);
        self.report(Report::Object(name, texts)).await
    }

    async fn gone(&mut self, name: ObjectName) -> Result<(), Closed> {
        self.brake.deleted(&name);
        self.report(Report::Event(W::deleted(name.clone()))).await?;
        self.report(Report::Object(name, Vec::new())).await
    }

    fn convert(&mut self, raw: &Raw<W::Api>) -> Result<Option<Converted<W>>, Problem> {
        match raw {
            Raw::Good(object) => W::convert(object, &mut self.names),
            Raw::Bad(bad) => Err(bad.1.clone()),
        }
    }

    fn texts(&self, problems: &[Problem]) -> Vec<Arc<str>> {
        problems.iter().map(|problem| format!("API server {}: {problem}", self.line.url()).into()).collect()
    }

    async fn report(&self, report: Report) -> Result<(), Closed> {
        let reported = Reported { resource: W::RESOURCE, url: self.line.url(), report };
        self.out.send(reported).await.map_err(|_| Closed)
    }
}
