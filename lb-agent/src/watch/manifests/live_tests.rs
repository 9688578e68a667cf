//! The source on a real directory, with real inotify.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::{sync::mpsc, task::JoinHandle, time::timeout};

use super::Source;
use crate::{
    event::{Event, ObjectName},
    model::Model,
    watch::{Adopted, Message, SourceStatus},
};

/// Below the interval of rescans, so that inotify has to have told.
const DEADLINE: Duration = Duration::from_secs(9);

/// A running source, and a model that follows it.
struct Live {
    directory: tempfile::TempDir,
    messages: mpsc::Receiver<Message>,
    model: Model,
    status: Option<SourceStatus>,
    events: Vec<Event>,
    task: JoinHandle<()>,
}

impl Live {
    fn start(prepare: impl FnOnce(&Path)) -> Self {
        Self::adopting(Adopted::default(), prepare)
    }

    fn adopting(adopted: Adopted, prepare: impl FnOnce(&Path)) -> Self {
        let directory = tempfile::tempdir().unwrap();
        prepare(&manifests(&directory));
        let source = Source::open(&manifests(&directory), &"n1".into()).unwrap().adopting(adopted);
        let (tx, messages) = mpsc::channel(1);
        let task = tokio::spawn(source.run(tx));
        let mut model = Model::default();
        // From another watch.
        model.apply(Event::AddressesChanged(BTreeSet::new()));
        Self { directory, messages, model, status: None, events: Vec::new(), task }
    }

    fn path(&self, file: &str) -> PathBuf {
        manifests(&self.directory).join(file)
    }

    fn addresses(&self) -> Vec<String> {
        let desired = self.model.services().map(|name| self.model.desired(name));
        let addresses = desired.flat_map(|s| s.ports.into_iter().flat_map(|port| port.frontends.into_keys()));
        addresses.map(|frontend| frontend.ip.to_string()).collect()
    }

    /// Takes messages in until `condition` holds.
    async fn until(&mut self, what: &str, condition: impl Fn(&Self) -> bool) {
        let waited = timeout(DEADLINE, async {
            while !condition(self) {
                match self.messages.recv().await.expect("the source runs") {
                    Message::Event(event) => {
                        self.events.push(event.clone());
                        self.model.apply(event);
                    }
                    Message::Status(status) => self.status = Some(status),
                }
            }
        });
        assert!(waited.await.is_ok(), "never: {what}; {:?} {:?}", self.addresses(), self.status);
    }

    async fn until_addresses(&mut self, expected: &[&str]) {
        self.until(&format!("{expected:?}"), |live| live.addresses() == expected).await;
    }

    fn problems(&self) -> String {
        self.status.iter().flat_map(|status| &status.problems).map(|problem| format!("{problem}\n")).collect()
    }
}

fn manifests(directory: &tempfile::TempDir) -> PathBuf {
    let path = directory.path().join("manifests");
    fs::create_dir_all(&path).unwrap();
    path
}

fn service(name: &str, ip: &str) -> String {
    format!(
        "{{apiVersion: v1, kind: Service, metadata: {{name: {name}}}, spec: {{clusterIP: {ip}, ports: [{{port: 80}}]}}}}\n"
    )
}

#[tokio::test]
async fn the_first_events_are_full_lists_and_then_the_source_is_in_sync() {
    let mut live = Live::start(|dir| fs::write(dir.join("a.yaml"), service("a", "10.96.0.1")).unwrap());
    live.until("in sync", |live| live.status.as_ref().is_some_and(|status| status.synced_since.is_some())).await;
    assert!(
        matches!(&live.events[..], [Event::NodeDeleted, Event::SlicesReset(_), Event::ServicesReset(_)]),
        "{:?}",
        live.events
    );
    assert_eq!(live.addresses(), ["10.96.0.1"]);
    assert!(live.model.in_sync());
}

#[tokio::test]
async fn an_empty_directory_is_an_empty_cluster() {
    let mut live = Live::start(|_| {});
    live.until("in sync", |live| live.model.in_sync()).await;
}

#[tokio::test]
async fn files_are_followed_when_written_renamed_linked_and_removed() {
    let mut live = Live::start(|_| {});
    live.until("in sync", |live| live.model.in_sync()).await;
    fs::write(live.path("a.yaml"), service("a", "10.96.0.1")).unwrap();
    live.until_addresses(&["10.96.0.1"]).await;
    fs::write(live.path("a.yaml"), service("a", "10.96.0.2")).unwrap();
    live.until_addresses(&["10.96.0.2"]).await;
    // As editors replace files; the name of the new one is not that of a manifest.
    fs::write(live.path("a.yaml.tmp"), service("a", "10.96.0.3")).unwrap();
    fs::rename(live.path("a.yaml.tmp"), live.path("a.yaml")).unwrap();
    live.until_addresses(&["10.96.0.3"]).await;
    let outside = live.directory.path().join("outside");
    fs::write(&outside, service("b", "10.96.0.4")).unwrap();
    symlink(&outside, live.path("b.yaml")).unwrap();
    live.until_addresses(&["10.96.0.3", "10.96.0.4"]).await;
    fs::remove_file(live.path("a.yaml")).unwrap();
    live.until_addresses(&["10.96.0.4"]).await;
}

#[tokio::test]
async fn a_configmap_volume_is_followed_when_its_link_is_switched() {
    let version = |dir: &Path, name: &str, ip: &str| {
        fs::create_dir(dir.join(name)).unwrap();
        fs::write(dir.join(name).join("web.yaml"), service("web", ip)).unwrap();
    };
    let mut live = Live::start(|dir| {
        version(dir, "..1", "10.96.0.1");
        symlink("..1", dir.join("..data")).unwrap();
        symlink("..data/web.yaml", dir.join("web.yaml")).unwrap();
    });
    live.until_addresses(&["10.96.0.1"]).await;
    // As the kubelet does it (pkg/volume/util/atomic_writer.go).
    version(&live.path(""), "..2", "10.96.0.2");
    symlink("..2", live.path("..data_tmp")).unwrap();
    fs::rename(live.path("..data_tmp"), live.path("..data")).unwrap();
    fs::remove_dir_all(live.path("..1")).unwrap();
    live.until_addresses(&["10.96.0.2"]).await;
}

#[tokio::test]
async fn a_file_that_is_still_being_written_is_not_read() {
    use std::io::Write as _;
    let mut live = Live::start(|dir| fs::write(dir.join("a.yaml"), service("a", "10.96.0.1")).unwrap());
    live.until_addresses(&["10.96.0.1"]).await;
    // Truncated, as every writer in place leaves it for a moment.
    let mut file = fs::File::create(live.path("a.yaml")).unwrap();
    // A change of another file comes through meanwhile, and finds the truncated one.
    fs::write(live.path("b.yaml"), service("b", "10.96.0.9")).unwrap();
    live.until_addresses(&["10.96.0.1", "10.96.0.9"]).await;
    file.write_all(service("a", "10.96.0.2").as_bytes()).unwrap();
    drop(file);
    live.until_addresses(&["10.96.0.2", "10.96.0.9"]).await;
    assert!(!live.events.contains(&Event::ServiceDeleted(ObjectName::new("default", "a"))), "{:?}", live.events);
}

#[tokio::test]
async fn problems_are_told_with_the_file_and_end_when_mended() {
    let mut live = Live::start(|dir| fs::write(dir.join("a.yaml"), service("a", "10.96.0.1")).unwrap());
    live.until_addresses(&["10.96.0.1"]).await;
    fs::write(live.path("a.yaml"), service("a", "10.96.0.300")).unwrap();
    live.until("the problem is told", |live| {
        live.problems().contains("a.yaml, document 1 (line 1): Service default/a")
    })
    .await;
    assert_eq!(live.addresses(), ["10.96.0.1"]);
    let error = live.status.as_ref().and_then(|status| status.last_error.clone()).unwrap();
    assert!(error.text.contains("spec.clusterIP: \"10.96.0.300\" is not an IP address"), "{}", error.text);
    fs::write(live.path("a.yaml"), service("a", "10.96.0.2")).unwrap();
    live.until("the problem is over", |live| live.problems().is_empty() && live.addresses() == ["10.96.0.2"]).await;
}

#[tokio::test]
async fn a_directory_that_vanishes_keeps_the_last_state_until_it_is_back_with_files() {
    let mut live = Live::start(|dir| fs::write(dir.join("a.yaml"), service("a", "10.96.0.1")).unwrap());
    live.until_addresses(&["10.96.0.1"]).await;
    let (path, away) = (live.path(""), live.directory.path().join("away"));
    fs::rename(&path, &away).unwrap();
    live.until("the loss is told", |live| live.status.as_ref().is_some_and(|status| status.synced_since.is_none()))
        .await;
    let error = live.status.as_ref().and_then(|status| status.last_error.clone()).unwrap();
    assert!(error.text.contains("is gone; the last state stays in force"), "{}", error.text);
    assert_eq!(live.addresses(), ["10.96.0.1"]);
    // Put together elsewhere and moved into place, so that it is never there without its file.
    let next = live.directory.path().join("next");
    fs::create_dir(&next).unwrap();
    fs::write(next.join("a.yaml"), service("a", "10.96.0.2")).unwrap();
    fs::rename(&next, &path).unwrap();
    live.until_addresses(&["10.96.0.2"]).await;
    live.until("in sync again", |live| live.status.as_ref().is_some_and(|status| status.synced_since.is_some())).await;
    // The new directory is the one that is watched.
    fs::write(live.path("b.yaml"), service("b", "10.96.0.3")).unwrap();
    live.until_addresses(&["10.96.0.2", "10.96.0.3"]).await;
}

#[tokio::test]
async fn the_source_ends_when_nobody_receives() {
    let mut live = Live::start(|_| {});
    live.until("in sync", |live| live.model.in_sync()).await;
    drop(live.messages);
    assert!(timeout(DEADLINE, live.task).await.is_ok());
}

#[test]
fn what_is_no_directory_is_refused_with_what_to_do() {
    let directory = tempfile::tempdir().unwrap();
    let missing = directory.path().join("missing");
    assert_eq!(
        Source::open(&missing, &"n1".into()).unwrap_err().to_string(),
        format!("manifest directory {}: does not exist; create it, or name another by --manifests", missing.display())
    );
    let file = directory.path().join("file");
    fs::write(&file, "").unwrap();
    let error = Source::open(&file, &"n1".into()).unwrap_err().to_string();
    assert!(error.ends_with("is not a directory; --manifests takes the directory that the files are in"), "{error}");
}

/// By a paused clock, which jumps while there is nothing to do.
#[tokio::test(start_paused = true)]
async fn a_directory_that_lacks_most_of_what_was_adopted_is_looked_at_again_before_it_is_believed() {
    let doubted = |live: &Live| {
        let error = live.status.as_ref().and_then(|status| status.last_error.as_ref());
        error.is_some_and(|error| error.text.contains("lacks 10 of 12 entries that the last agent left in the maps"))
    };
    for is_filled in [true, false] {
        let adopted = Adopted { service_ports: 12, backends: 0 };
        let few = service("s1", "10.96.0.1") + "---\n" + &service("s2", "10.96.0.2");
        let mut live = Live::adopting(adopted, |dir| fs::write(dir.join("a.yaml"), few).unwrap());
        live.until("the doubt", doubted).await;
        assert!(live.events.is_empty());
        if is_filled {
            // Its volume is mounted now.
            let services: String =
                (1..=7).map(|i| service(&format!("s{i}"), &format!("10.96.0.{i}")) + "---\n").collect();
            fs::write(live.path("a.yaml"), services).unwrap();
        }
        live.until("in sync", |live| live.model.in_sync()).await;
        assert_eq!(live.addresses().len(), if is_filled { 7 } else { 2 });
        assert_eq!(live.events.len(), 3, "full lists of what was believed");
    }
}

#[tokio::test]
async fn a_directory_that_accounts_for_what_was_adopted_is_believed_at_once() {
    let adopted = Adopted { service_ports: 12, backends: 0 };
    let services: String = (1..=6).map(|i| service(&format!("s{i}"), &format!("10.96.0.{i}")) + "---\n").collect();
    let mut live = Live::adopting(adopted, |dir| fs::write(dir.join("a.yaml"), services).unwrap());
    live.until("in sync", |live| live.model.in_sync()).await;
    assert_eq!((live.addresses().len(), live.status.as_ref().and_then(|status| status.last_error.clone())), (6, None));
}
