//! A directory of manifests as a source: the embedded default, where there is no API server.
//!
//! Files `*.yaml`, `*.yml` and `*.json` of the directory itself are read, with any number of Services, EndpointSlices,
//! Endpoints, Nodes and Lists of them each. The directory is watched by inotify; a file counts when it is closed after writing
//! or put in place by a rename (a ConfigMap volume's `..data` link included), so that no half-written file is read.
//! What is wrong with a document is told, and costs nothing that worked before: see [`set`].

mod directory;
mod document;
mod effective;
mod hint;
#[cfg(test)]
mod live_tests;
#[cfg(feature = "sim")]
pub mod memory;
mod set;
mod split;
#[cfg(test)]
mod tests;

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use notify::{RecursiveMode, Watcher as _};
use tokio::{sync::mpsc, time::Instant};

use self::{
    directory::{Directory, Look},
    hint::Hint,
    set::{Changes, Set},
};
use super::{
    Message, SourceError, SourceKind, SourceStatus,
    brake::{Adopted, Brake, Loss, Verdict},
};

/// How often the directory is compared with what is known, for the sake of changes that inotify does not tell: targets of
/// symbolic links, network file systems.
const RESCAN: Duration = Duration::from_secs(10);
/// How long a file must have been left alone to be read without inotify having told that its writer closed it.
const SETTLED: Duration = Duration::from_secs(2);
/// How often a directory that has vanished is looked for.
const RETRY: Duration = Duration::from_millis(500);

/// How long to wait before a first look that was not believed is followed by another: time for a volume to be mounted, or
/// for files to be copied.
const CONFIRM_AFTER: Duration = Duration::from_secs(5);

/// Why a manifest directory cannot be used. A matter of configuration.
#[derive(Debug, thiserror::Error)]
#[error("manifest directory {}: {what}", path.display())]
pub struct OpenError {
    path: PathBuf,
    what: String,
}

/// A manifest directory under watch.
#[derive(Debug)]
pub struct Source {
    path: PathBuf,
    watch: Watch,
    /// Away while a look is under way.
    reader: Option<Reader>,
    /// Full lists have been sent.
    listed: bool,
    brakes: Brakes,
    status: SourceStatus,
}

/// On the first full lists; see [`super::brake`].
#[derive(Debug, Default)]
struct Brakes {
    services: Brake,
    slices: Brake,
}

/// Closing it ends the watch.
#[derive(Debug)]
struct Watch {
    _watcher: notify::RecommendedWatcher,
    hints: mpsc::UnboundedReceiver<Hint>,
}

/// What is known of the files.
#[derive(Debug)]
struct Reader {
    directory: Directory,
    set: Set,
}

impl Source {
    /// Begins to watch `path`. Of the Nodes in it only the one called `node_name` counts.
    ///
    /// # Errors
    /// If it is not a directory, or cannot be read or watched; with what to do about it.
    pub fn open(path: &Path, node_name: &Arc<str>) -> Result<Self, OpenError> {
        let error = |what: String| OpenError { path: path.to_owned(), what };
        let metadata = std::fs::metadata(path).map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => error("does not exist; create it, or name another by --manifests".to_owned()),
            _ => error(format!("cannot be read: {e}")),
        })?;
        if !metadata.is_dir() {
            return Err(error("is not a directory; --manifests takes the directory that the files are in".to_owned()));
        }
        Directory::is_empty(path).map_err(|e| error(format!("cannot be read: {e}")))?;
        let watch = Watch::start(path).map_err(|e| error(watch_error(&e)))?;
        let status = SourceStatus {
            kind: SourceKind::Manifests,
            location: path.display().to_string().into(),
            synced_since: None,
            last_error: None,
            problems: Vec::new(),
        };
        let reader = Reader { directory: Directory::new(path.to_owned()), set: Set::new(node_name.clone()) };
        let brakes = Brakes::default();
        Ok(Self { path: path.to_owned(), watch, reader: Some(reader), listed: false, brakes, status })
    }

    /// For an agent that found this much in the maps. A directory that at first accounts for little of it is looked at
    /// again before it is believed.
    #[must_use]
    pub fn adopting(mut self, adopted: Adopted) -> Self {
        let Adopted { service_ports, backends } = adopted;
        self.brakes = Brakes { services: Brake::adopting(service_ports), slices: Brake::adopting(backends) };
        self
    }

    /// Sends what the manifests say, and every change, until the receiver is closed. The first events are full lists.
    pub async fn run(mut self, tx: mpsc::Sender<Message>) {
        let mut look = Look::everything();
        while let Ok(next) = self.step(look, &tx).await {
            look = next;
        }
    }

    /// Reads what `look` asks for and reports it. Returns what to look at next, as soon as there is something.
    async fn step(&mut self, look: Look, tx: &mpsc::Sender<Message>) -> Result<Look, Closed> {
        let next = match self.look(look).await {
            Ok(changes) => {
                if let Some(loss) = self.doubt() {
                    self.wait_to_confirm(loss, tx).await?;
                    return Ok(Look::everything());
                }
                self.report(changes, tx).await?;
                self.next_look(tx).await?
            }
            Err(error) => Next::Lost(error.to_string()),
        };
        match next {
            Next::Look(look) => Ok(look),
            Next::Lost(why) => {
                self.wait_until_back(&why, tx).await?;
                Ok(Look::everything())
            }
        }
    }

    /// Reading and parsing may take a second where the manifests are those of a large cluster, so it has its own thread.
    async fn look(&mut self, look: Look) -> io::Result<Changes> {
        let Some(mut reader) = self.reader.take() else { return Ok(Changes::default()) };
        let task = tokio::task::spawn_blocking(move || {
            let contents = reader.directory.look(&look);
            (contents.map(|contents| reader.set.update(contents)), reader)
        });
        match task.await {
            Ok((changes, reader)) => {
                self.reader = Some(reader);
                changes
            }
            Err(failed) => match failed.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                // Only at the end of the runtime.
                Err(cancelled) => Err(io::Error::other(cancelled)),
            },
        }
    }

    async fn report(&mut self, changes: Changes, tx: &mpsc::Sender<Message>) -> Result<(), Closed> {
        let events = if self.listed { changes.events } else { self.full_lists() };
        for event in events {
            tx.send(Message::Event(event)).await.map_err(|_| Closed)?;
        }
        self.listed = true;
        let mut status = self.status.clone();
        status.synced_since.get_or_insert_with(SystemTime::now);
        for problem in changes.problems.iter().filter(|problem| !self.status.problems.contains(problem)) {
            tracing::warn!("{problem}");
            status.last_error = Some(error_now(problem.clone()));
        }
        status.problems = changes.problems;
        self.send_status(status, tx).await
    }

    /// What the first look lacks, if it is not to be believed yet.
    fn doubt(&mut self) -> Option<Loss> {
        let reader = self.reader.as_ref().filter(|_| !self.listed)?;
        let (services, slices) = reader.set.weights();
        let verdicts = [
            self.brakes.services.judge(services.weights, services.entries),
            self.brakes.slices.judge(slices.weights, slices.entries),
        ];
        verdicts.into_iter().find_map(|verdict| match verdict {
            Verdict::Believe => None,
            Verdict::Confirm(loss) => Some(loss),
        })
    }

    async fn wait_to_confirm(&mut self, loss: Loss, tx: &mpsc::Sender<Message>) -> Result<(), Closed> {
        let text: Arc<str> = format!(
            "manifest directory {}: lacks {loss}; not believed until another look in {} s says the same",
            self.path.display(),
            CONFIRM_AFTER.as_secs()
        )
        .into();
        tracing::warn!("{text}");
        let status = SourceStatus { last_error: Some(error_now(text)), ..self.status.clone() };
        self.send_status(status, tx).await?;
        tokio::select! {
            () = tx.closed() => Err(Closed),
            () = tokio::time::sleep(CONFIRM_AFTER) => Ok(()),
        }
    }

    fn full_lists(&self) -> Vec<crate::event::Event> {
        self.reader.as_ref().map(|reader| reader.set.full_lists().to_vec()).unwrap_or_default()
    }

    async fn send_status(&mut self, status: SourceStatus, tx: &mpsc::Sender<Message>) -> Result<(), Closed> {
        if self.status != status {
            self.status = status.clone();
            tx.send(Message::Status(status)).await.map_err(|_| Closed)?;
        }
        Ok(())
    }

    /// What to look at next: waits for a change, and takes with it what arrived together.
    async fn next_look(&mut self, tx: &mpsc::Sender<Message>) -> Result<Next, Closed> {
        let rescan = Instant::now() + RESCAN;
        loop {
            let first = tokio::select! {
                () = tx.closed() => return Err(Closed),
                hint = self.watch.hints.recv() => hint.unwrap_or(Hint::Lost),
                () = tokio::time::sleep_until(rescan) => {
                    let replaced = self.reader.as_ref().is_some_and(|reader| reader.directory.is_replaced());
                    let look = Look { all_settled_for: Some(SETTLED), ..Look::default() };
                    return Ok(if replaced { Next::gone() } else { Next::Look(look) });
                }
            };
            let mut look = Look::default();
            let mut hint = Some(first);
            while let Some(some) = hint {
                if some.add_to(&mut look).is_err() {
                    return Ok(Next::gone());
                }
                hint = self.watch.hints.try_recv().ok();
            }
            if look != Look::default() {
                return Ok(Next::Look(look));
            }
        }
    }

    /// The directory cannot be read: says so, and waits until it can. An empty one is not believed yet: whoever took the
    /// directory away may be about to fill it again.
    async fn wait_until_back(&mut self, what: &str, tx: &mpsc::Sender<Message>) -> Result<(), Closed> {
        let text: Arc<str> = format!(
            "manifest directory {}: {what}; the last state stays in force until it is back",
            self.path.display()
        )
        .into();
        tracing::error!("{text}");
        let status = SourceStatus { synced_since: None, last_error: Some(error_now(text)), ..self.status.clone() };
        self.send_status(status, tx).await?;
        loop {
            tokio::select! {
                () = tx.closed() => return Err(Closed),
                () = tokio::time::sleep(RETRY) => {}
            }
            if matches!(Directory::is_empty(&self.path), Ok(false))
                && let Ok(watch) = Watch::start(&self.path)
            {
                tracing::info!("manifest directory {}: is back", self.path.display());
                self.watch = watch;
                return Ok(());
            }
        }
    }
}

/// What to do next.
#[derive(Debug)]
enum Next {
    Look(Look),
    /// The directory cannot be read: why.
    Lost(String),
}

impl Next {
    fn gone() -> Self {
        Self::Lost("is gone".to_owned())
    }
}

/// Nobody receives any more.
#[derive(Debug)]
struct Closed;

impl Watch {
    fn start(path: &Path) -> notify::Result<Self> {
        let (tx, hints) = mpsc::unbounded_channel();
        let directory = path.to_owned();
        let mut watcher = notify::recommended_watcher(move |event| {
            for hint in hint::hints(event, &directory) {
                // Nobody receives any more: this watch is being dropped.
                drop(tx.send(hint));
            }
        })?;
        watcher.watch(path, RecursiveMode::NonRecursive)?;
        Ok(Self { _watcher: watcher, hints })
    }
}

fn watch_error(error: &notify::Error) -> String {
    match &error.kind {
        notify::ErrorKind::MaxFilesWatch => {
            "cannot be watched: no inotify watch left; raise the sysctl fs.inotify.max_user_watches".to_owned()
        }
        notify::ErrorKind::Io(e) if e.raw_os_error() == Some(libc::EMFILE) => {
            "cannot be watched: no inotify instance left; raise the sysctl fs.inotify.max_user_instances".to_owned()
        }
        _ => format!("cannot be watched: {error}"),
    }
}

fn error_now(text: Arc<str>) -> SourceError {
    SourceError { at: SystemTime::now(), text }
}
