//! The source against API servers that fail in every way.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime},
};

use serde_json::{Value, json};
use tokio::{
    sync::mpsc,
    task::JoinSet,
    time::{Instant, timeout},
};

use super::{
    Adopted, Options, Source,
    failover::Renew,
    fake::{Faults, NODES, SERVICES, SLICES, Server, Store},
    follow::{Report, Reported},
    pass_on,
    status::{Notice, Tracker},
    trouble::Trouble,
};
use crate::{
    event::{Event, ObjectName},
    model::Model,
    watch::{Message, SourceStatus},
};

/// Of the paused clock, which jumps when there is nothing to do: costs no time.
const DEADLINE: Duration = Duration::from_secs(300);

fn service(name: &str, ip: &str) -> Value {
    json!({"metadata": {"name": name, "namespace": "default", "managedFields": [{"manager": "kubectl"}]},
        "spec": {"clusterIP": ip, "clusterIPs": [ip], "ports": [{"port": 443, "protocol": "TCP", "targetPort": 8443}]}})
}

fn slice(name: &str, service: &str, addresses: &[&str]) -> Value {
    let endpoints: Vec<Value> =
        addresses.iter().map(|ip| json!({"addresses": [ip], "conditions": {"ready": true}})).collect();
    json!({"metadata": {"name": name, "namespace": "default", "labels": {"kubernetes.io/service-name": service}},
        "addressType": "IPv4", "endpoints": endpoints, "ports": [{"name": "", "port": 8443, "protocol": "TCP"}]})
}

/// A cluster of `n` Services, each with a slice of one endpoint.
fn cluster(n: usize) -> Arc<Store> {
    let store = Store::new();
    for i in 0..n {
        store.put(SERVICES, service(&format!("s{i}"), &format!("10.96.{}.{}", i / 250, 1 + i % 250)));
        store.put(SLICES, slice(&format!("s{i}-x"), &format!("s{i}"), &[&format!("10.0.{}.{}", i / 250, 1 + i % 250)]));
    }
    store
}

/// A running source, and a model that follows it.
struct Live {
    messages: mpsc::Receiver<Message>,
    model: Model,
    status: Option<SourceStatus>,
    events: Vec<Event>,
}

/// One that waits only for what the source tells.
fn model() -> Model {
    let mut model = Model::default();
    model.apply(Event::AddressesChanged(BTreeSet::new()));
    model
}

impl Live {
    fn start(servers: &[&Arc<Server>]) -> Self {
        Self::adopting(servers, Adopted::default())
    }

    fn adopting(servers: &[&Arc<Server>], adopted: Adopted) -> Self {
        let clients =
            servers.iter().enumerate().map(|(i, s)| (format!("https://10.96.0.{}", i + 1).into(), s.client()));
        let source = Source::of_clients(clients.collect(), None, "kubeconfig k".into(), "n1".into());
        let (tx, messages) = mpsc::channel(1);
        tokio::spawn(source.adopting(adopted).run(tx));
        Self { messages, model: model(), status: None, events: Vec::new() }
    }

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
        assert!(waited.await.is_ok(), "never: {what}; {:?}", self.status);
    }

    async fn until_synced(&mut self) {
        self.until("in sync", Live::is_synced).await;
    }

    fn is_synced(&self) -> bool {
        self.status.as_ref().is_some_and(|status| status.synced_since.is_some())
    }

    /// Full lists of Services that were believed.
    fn n_lists(&self) -> usize {
        self.events.iter().filter(|event| matches!(event, Event::ServicesReset(_))).count()
    }

    fn n_services(&self) -> usize {
        self.model.services().count()
    }

    /// The backends of the only port of a Service.
    fn backends(&self, service: &str) -> Vec<String> {
        let desired = self.model.desired(&ObjectName::new("default", service));
        desired.ports.iter().flat_map(|port| &port.backends).map(|backend| backend.ip.to_string()).collect()
    }

    fn last_error(&self) -> &str {
        self.status.as_ref().and_then(|status| status.last_error.as_ref()).map_or("", |error| &error.text)
    }

    fn has_problem(&self, part: &str) -> bool {
        self.status.iter().flat_map(|status| &status.problems).any(|problem| problem.contains(part))
    }
}

#[tokio::test(start_paused = true)]
async fn lists_and_watches_select_what_is_ours_and_are_followed() {
    let store = cluster(3);
    let server = Server::new(&store);
    let mut live = Live::start(&[&server]);
    live.until_synced().await;
    assert!(live.model.in_sync());
    assert_eq!(live.backends("s1"), ["10.0.0.2"]);
    let requests = server.requests();
    assert_eq!(requests.len(), 3, "{requests:?}");
    for request in requests {
        let selector = if request.starts_with(NODES) {
            "fieldSelector=metadata.name%3Dn1"
        } else {
            "labelSelector=%21service.kubernetes.io%2Fheadless%2C%21service.kubernetes.io%2Fservice-proxy-name"
        };
        assert!(request.contains(selector), "{request}");
        assert!(request.contains("sendInitialEvents=true"), "{request}");
    }

    store.put(SLICES, slice("s1-x", "s1", &["10.0.0.7", "10.0.0.8"]));
    live.until("the change", |live| live.backends("s1") == ["10.0.0.7", "10.0.0.8"]).await;
    store.delete(SERVICES, "s1");
    live.until("the deletion", |live| live.n_services() == 2).await;
    store.put(SERVICES, service("s9", "10.96.0.9"));
    live.until("the addition", |live| live.n_services() == 3).await;
}

fn node(name: &str, zone: &str) -> Value {
    json!({"metadata": {"name": name, "labels": {"topology.kubernetes.io/zone": zone}},
        "status": {"addresses": [{"type": "InternalIP", "address": "192.0.2.1"}]}})
}

/// What the source said last of this node: its zone, or `None` if there is no such node.
fn zone(live: &Live) -> Option<Option<&str>> {
    live.events.iter().rev().find_map(|event| match event {
        Event::NodeApplied(node) => Some(node.zone.as_deref()),
        Event::NodeDeleted => Some(None),
        _ => None,
    })
}

#[tokio::test(start_paused = true)]
async fn this_nodes_own_object_is_followed_and_no_other() {
    let store = cluster(1);
    store.put(NODES, node("n0", "other"));
    let mut live = Live::start(&[&Server::new(&store)]);
    live.until_synced().await;
    assert!(live.model.in_sync(), "also without a Node");
    assert_eq!(zone(&live), Some(None));
    store.put(NODES, node("n1", "a"));
    live.until("the node", |live| zone(live) == Some(Some("a"))).await;
    store.put(NODES, node("n0", "another"));
    store.put(NODES, node("n1", "b"));
    live.until("its change", |live| zone(live) == Some(Some("b"))).await;
    store.delete(NODES, "n1");
    live.until("its end", |live| zone(live) == Some(None)).await;
}

#[tokio::test(start_paused = true)]
async fn without_permission_for_nodes_the_agent_goes_on_with_one_warning_until_it_is_given() {
    let store = cluster(3);
    store.put(NODES, node("n1", "a"));
    let refuse = Faults { refuse_nodes: Some((403, "nodes is forbidden")), ..Faults::default() };
    let servers = [Server::with(&store, refuse.clone()), Server::with(&store, refuse)];
    let mut live = Live::start(&[&servers[0], &servers[1]]);
    live.until_synced().await;
    live.until("something to go on with", |live| live.model.in_sync()).await;
    assert_eq!(live.n_services(), 3);
    let problems = live.status.as_ref().unwrap().problems.clone();
    let told: Vec<_> = problems.iter().filter(|problem| problem.contains("nodes is forbidden")).collect();
    assert!(told.len() == 1 && told[0].contains("grant list and watch on services, nodes"), "{problems:?}");
    for server in &servers {
        server.set(|faults| faults.refuse_nodes = None);
    }
    live.until("the node", |live| zone(live) == Some(Some("a"))).await;
    live.until("the end of the warning", |live| !live.has_problem("nodes is forbidden")).await;

    // Lost later, the node stays what it was.
    servers[0].set(|faults| faults.refuse_nodes = Some((403, "nodes is forbidden")));
    servers[1].set(|faults| faults.down = true);
    servers[0].set(|faults| faults.breaks_watches = true);
    live.until("the loss", |live| live.has_problem("nodes is forbidden")).await;
    servers[0].set(|faults| faults.breaks_watches = false);
    live.until_synced().await;
    assert_eq!(zone(&live), Some(Some("a")));
}

#[tokio::test(start_paused = true)]
async fn a_server_without_streaming_lists_is_listed_in_pages() {
    let refusals = [
        (422, "sendInitialEvents is forbidden for watch unless the WatchList feature gate is enabled"),
        (500, "the required storage feature RequestWatchProgress is disabled"),
    ];
    let refusing = refusals.map(|refusal| Faults { no_streaming: Some(refusal), ..Faults::default() });
    let failing = Faults { no_streaming_after_all: true, ..Faults::default() };
    let stalling = Faults { stalls: true, ..Faults::default() };
    for faults in refusing.into_iter().chain([failing, stalling]) {
        let server = Server::with(&cluster(1200), faults);
        let mut live = Live::start(&[&server]);
        live.until_synced().await;
        assert_eq!(live.n_services(), 1200);
        let pages: Vec<_> =
            server.requests().into_iter().filter(|r| r.starts_with(SERVICES) && !r.contains("watch=")).collect();
        assert_eq!(pages.len(), 3, "{pages:?}");
        assert!(pages.iter().all(|page| page.contains("limit=500")), "{pages:?}");
        assert!(live.last_error().is_empty(), "{}", live.last_error());
    }
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_expired_is_followed_by_a_new_list_and_what_is_gone_goes() {
    for gone_at_once in [false, true] {
        let store = cluster(3);
        let server = Server::with(&store, Faults { gone_at_once, ..Faults::default() });
        let mut live = Live::start(&[&server]);
        live.until_synced().await;
        server.set(|faults| faults.down = true);
        live.until("out of sync", |live| !live.is_synced()).await;
        store.delete(SERVICES, "s0");
        store.put(SERVICES, service("s3", "10.96.0.33"));
        store.compact();
        server.set(|faults| faults.down = false);
        let names = ["s1", "s2", "s3"].map(|name| ObjectName::new("default", name));
        live.until("the new list", |live| live.model.services().eq(&names)).await;
        live.until_synced().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_that_lets_every_watch_expire_is_not_asked_for_lists_without_pause_and_shows() {
    let paged = Some((422, "sendInitialEvents is forbidden"));
    for no_streaming in [None, paged] {
        let server = Server::with(&cluster(3), Faults { no_streaming, gone_always: true, ..Faults::default() });
        let mut live = Live::start(&[&server]);
        live.until_synced().await;
        // Ends the first watch. The next ones have to be asked for.
        server.set(|faults| faults.breaks_watches = true);
        live.until("out of sync", |live| !live.is_synced()).await;
        server.set(|faults| faults.breaks_watches = false);
        let start = Instant::now();
        let minute = Duration::from_secs(60);
        if no_streaming.is_some() {
            live.until("a minute or many lists", |live| start.elapsed() >= minute || live.n_lists() > 40).await;
            assert!(start.elapsed() >= minute, "{} lists in {:?}", live.n_lists(), start.elapsed());
            assert!((5..=20).contains(&live.n_lists()), "{}", live.n_lists());
            assert!(live.last_error().contains("410 too old resource version"), "{}", live.last_error());
        } else {
            // A streaming list is a watch as well.
            live.until("the new list", |live| live.n_lists() > 1).await;
            live.until_synced().await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_that_lets_every_watch_expire_is_left_for_another() {
    let store = cluster(3);
    let faults = Faults { no_streaming: Some((422, "forbidden")), gone_always: true, ..Faults::default() };
    let mut live = Live::start(&[&Server::with(&store, faults), &Server::new(&store)]);
    live.until("the complaint", |live| live.last_error().contains("https://10.96.0.1: ")).await;
    live.until_synced().await;
    store.put(SLICES, slice("s1-x", "s1", &["10.0.0.7"]));
    live.until("the change", |live| live.backends("s1") == ["10.0.0.7"]).await;
    assert!(live.n_lists() <= 4, "{}", live.n_lists());
}

#[tokio::test(start_paused = true)]
async fn losing_every_server_changes_nothing_and_shows_in_the_status() {
    let store = cluster(3);
    let server = Server::new(&store);
    let mut live = Live::start(&[&server]);
    live.until_synced().await;
    let n_events = live.events.len();
    server.set(|faults| faults.down = true);
    live.until("the loss", |live| !live.is_synced() && live.last_error().contains("connection refused")).await;
    assert_eq!(
        live.last_error(),
        "API server https://10.96.0.1: connection refused; see that it runs and that this is its address (--api-servers, \
         else the server in kubeconfig k). Trying again, with the last state in force"
    );
    assert_eq!(live.events.len(), n_events);
    store.put(SLICES, slice("s1-x", "s1", &["10.0.0.7"]));
    server.set(|faults| faults.down = false);
    live.until_synced().await;
    live.until("what happened meanwhile", |live| live.backends("s1") == ["10.0.0.7"]).await;
    // Resumed, not listed again.
    assert!(!live.events[n_events..].iter().any(|e| matches!(e, Event::ServicesReset(_) | Event::SlicesReset(_))));
}

#[test]
fn a_server_out_of_reach_is_logged_once_for_all_kinds_until_one_answers() {
    let now = SystemTime::UNIX_EPOCH;
    let reported = |resource, report| Reported { resource, url: "https://192.0.2.1".into(), report };
    let failed = |resource| reported(resource, Report::Failed(Trouble::Unreachable, "nobody there".to_owned()));
    let mut tracker = Tracker::new(&["services", "endpointslices"], &[], &[]);
    let told = [Notice::Warn("nobody there".to_owned())];
    for _ in 0..2 {
        assert_eq!(tracker.take(&failed("services"), now), told);
        assert_eq!(tracker.take(&failed("endpointslices"), now), []);
        assert_eq!(tracker.take(&failed("services"), now), []);
        assert_eq!(tracker.take(&reported("services", Report::Answered), now), []);
    }
}

#[tokio::test(start_paused = true)]
async fn another_server_goes_on_where_the_first_one_stopped() {
    let store = cluster(3);
    let (first, second) = (Server::new(&store), Server::new(&store));
    let mut live = Live::start(&[&first, &second]);
    live.until_synced().await;
    assert!(second.requests().is_empty());
    first.set(|faults| faults.down = true);
    store.put(SLICES, slice("s1-x", "s1", &["10.0.0.7"]));
    live.until("the change", |live| live.backends("s1") == ["10.0.0.7"]).await;
    let on_second = |live: &Live| live.status.as_ref().is_some_and(|status| &*status.location == "https://10.96.0.2");
    live.until("in sync with the second", |live| live.is_synced() && on_second(live)).await;
    let requests = second.requests();
    assert!(!requests.is_empty() && requests.iter().all(|r| !r.contains("sendInitialEvents=true")), "{requests:?}");
}

#[tokio::test(start_paused = true)]
async fn a_server_that_accepts_watches_and_breaks_them_is_left() {
    let store = cluster(3);
    let broken = Faults { breaks_watches: true, ..Faults::default() };
    let mut live = Live::start(&[&Server::with(&store, broken), &Server::new(&store)]);
    live.until_synced().await;
    assert_eq!(live.n_services(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_is_down_at_the_start_is_passed_over() {
    let store = cluster(3);
    let down = Faults { down: true, ..Faults::default() };
    let sick = Faults { refuse: Some((503, "starting")), ..Faults::default() };
    let servers = [Server::with(&store, down), Server::with(&store, sick), Server::new(&store)];
    let mut live = Live::start(&[&servers[0], &servers[1], &servers[2]]);
    live.until_synced().await;
    assert_eq!(live.n_services(), 3);
    assert!(live.last_error().is_empty(), "{}", live.last_error());
}

#[tokio::test(start_paused = true)]
async fn an_object_that_cannot_be_read_costs_only_itself_and_is_named() {
    let store = cluster(3);
    store.put(SERVICES, service("odd", "10.96.0.nine"));
    let mut wrong_type = service("wrong", "10.96.0.99");
    wrong_type["spec"]["ports"][0]["port"] = "https".into();
    store.put(SERVICES, wrong_type);
    let server = Server::new(&store);
    let mut live = Live::start(&[&server]);
    live.until_synced().await;
    assert_eq!(live.n_services(), 3);
    assert!(live.has_problem("Service default/odd: spec.clusterIP: \"10.96.0.nine\" is not an IP address"));
    assert!(
        live.has_problem("Service default/wrong: spec.ports[0].port: invalid type: string \"https\", expected i32")
    );

    // One that was good keeps its last good state, through changes and through a new list.
    store.put(SERVICES, service("s1", "nonsense"));
    live.until("the problem", |live| live.has_problem("Service default/s1")).await;
    server.set(|faults| faults.down = true);
    live.until("out of sync", |live| !live.is_synced()).await;
    store.compact();
    server.set(|faults| faults.down = false);
    live.until_synced().await;
    live.until("the new list", |live| live.events.iter().filter(|e| matches!(e, Event::ServicesReset(_))).count() == 2)
        .await;
    assert_eq!(live.backends("s1"), ["10.0.0.2"]);

    store.put(SERVICES, service("s1", "10.96.0.50"));
    store.delete(SERVICES, "odd");
    live.until("it is over", |live| !live.has_problem("default/s1") && !live.has_problem("default/odd")).await;
}

#[tokio::test(start_paused = true)]
async fn refusals_are_told_with_what_to_do_and_tried_again() {
    let message =
        "services is forbidden: User \"lb\" cannot watch resource \"services\" in API group \"\" at the cluster scope";
    let server = Server::with(&cluster(3), Faults { refuse: Some((403, message)), ..Faults::default() });
    let mut live = Live::start(&[&server]);
    live.until("the refusal", |live| live.last_error().contains(message)).await;
    assert!(live.last_error().contains("grant list and watch on services"), "{}", live.last_error());
    server.set(|faults| faults.refuse = Some((401, "Unauthorized")));
    live.until("the other refusal", |live| live.last_error().contains("401")).await;
    assert!(live.last_error().contains("does not accept the credentials of kubeconfig k"), "{}", live.last_error());
    server.set(|faults| faults.refuse = None);
    live.until_synced().await;
}

#[tokio::test(start_paused = true)]
async fn credentials_that_are_not_accepted_any_more_are_read_again() {
    let store = cluster(3);
    let server = Server::new(&store);
    // Who comes with the new credentials is another to the server.
    let renewed = Server::new(&store);
    let reads = Arc::new(AtomicUsize::new(0));
    let client = |server: &Arc<Server>| ("https://10.96.0.1".into(), server.client());
    let (clients, next) = (vec![client(&server)], vec![client(&renewed)]);
    let renew: Renew = Box::new({
        let (reads, old) = (reads.clone(), clients.clone());
        // Written by the second look.
        move || {
            let is_there = reads.fetch_add(1, Ordering::Relaxed) > 0;
            let clients = if is_there { next.clone() } else { old.clone() };
            Box::pin(async move { Ok(clients) })
        }
    });
    let source = Source::of_clients(clients, Some(renew), "kubeconfig k".into(), "n1".into());
    let (tx, messages) = mpsc::channel(1);
    tokio::spawn(source.run(tx));
    let mut live = Live { messages, model: model(), status: None, events: Vec::new() };
    live.until_synced().await;
    assert_eq!(reads.load(Ordering::Relaxed), 0);
    server.set(|faults| {
        *faults = Faults { refuse: Some((401, "Unauthorized")), breaks_watches: true, ..Faults::default() }
    });
    store.put(SLICES, slice("s1-x", "s1", &["10.0.0.7"]));
    live.until("the change", |live| live.backends("s1") == ["10.0.0.7"]).await;
    assert!(live.last_error().contains("401"), "the first look brought nothing new: {}", live.last_error());
    assert_eq!(reads.load(Ordering::Relaxed), 2);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_refuses_us_is_passed_over_and_told() {
    for refusal in [(401, "Unauthorized"), (403, "services is forbidden")] {
        let store = cluster(3);
        let refuse = Faults { refuse: Some(refusal), ..Faults::default() };
        let (first, second) = (Server::with(&store, refuse.clone()), Server::new(&store));
        let mut live = Live::start(&[&first, &second]);
        live.until_synced().await;
        assert_eq!(live.n_services(), 3);
        let told = format!("({} {})", refusal.0, refusal.1);
        assert!(live.last_error().contains("https://10.96.0.1 ") && live.last_error().contains(&told));
        // And the same the other way round, with watches that are under way.
        first.set(|faults| faults.refuse = None);
        second.set(|faults| *faults = Faults { breaks_watches: true, ..refuse });
        store.put(SLICES, slice("s1-x", "s1", &["10.0.0.7"]));
        live.until("the change", |live| live.backends("s1") == ["10.0.0.7"]).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_first_list_that_would_remove_most_of_what_was_adopted_is_believed_only_when_it_is_repeated() {
    let adopted = Adopted { service_ports: 40, backends: 40 };
    for (empty_lists, believed) in [(1, false), (2, true)] {
        // One list of each kind.
        let faults = Faults { empty_lists: 2 * empty_lists, ..Faults::default() };
        let mut live = Live::adopting(&[&Server::with(&cluster(40), faults)], adopted);
        live.until("the doubt", |live| live.last_error().contains("lacks 40 of 40 entries that the last agent")).await;
        assert!(!live.is_synced() && !live.model.in_sync());
        live.until_synced().await;
        assert_eq!(live.n_services(), if believed { 0 } else { 40 });
        assert_eq!(live.n_lists(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn first_lists_after_a_cold_start_and_those_that_account_for_what_was_adopted_are_believed_at_once() {
    for (n, adopted) in [(0, 0), (3, 0), (40, 40), (40, 70)] {
        let start = Instant::now();
        let adopted = Adopted { service_ports: adopted, backends: adopted };
        let mut live = Live::adopting(&[&Server::new(&cluster(n))], adopted);
        live.until_synced().await;
        assert_eq!((live.n_services(), live.last_error()), (n, ""));
        assert_eq!(start.elapsed(), Duration::ZERO);
    }
}

#[tokio::test(start_paused = true)]
async fn a_list_that_lacks_most_of_the_cluster_is_believed_only_when_it_is_repeated() {
    for (empty_lists, believed) in [(1, false), (2, true)] {
        let store = cluster(40);
        let server = Server::new(&store);
        let mut live = Live::start(&[&server]);
        live.until_synced().await;
        server.set(|faults| faults.down = true);
        live.until("out of sync", |live| !live.is_synced()).await;
        store.compact();
        // The slices are listed anew as well, hence twice.
        server.set(|faults| *faults = Faults { empty_lists: 2 * empty_lists, ..Faults::default() });
        live.until("the doubt", |live| live.last_error().contains("lacks 40 of 40 objects")).await;
        assert_eq!(live.n_services(), 40);
        let lists = |live: &Live| live.events.iter().filter(|e| matches!(e, Event::ServicesReset(_))).count();
        live.until("a list that is believed", |live| lists(live) == 2).await;
        assert_eq!(live.n_services(), if believed { 0 } else { 40 });
    }
}

#[tokio::test(start_paused = true)]
async fn a_doubted_list_is_confirmed_by_another_server() {
    let store = cluster(40);
    let (first, second) = (Server::new(&store), Server::new(&store));
    let mut live = Live::start(&[&first, &second]);
    live.until_synced().await;
    second.set(|faults| faults.down = true);
    first.set(|faults| faults.down = true);
    live.until("out of sync", |live| !live.is_synced()).await;
    store.compact();
    // The first has lost everything for good; the second has it all.
    first.set(|faults| *faults = Faults { empty_lists: usize::MAX, ..Faults::default() });
    live.until("the doubt", |live| live.last_error().contains("not believed until a second list says the same")).await;
    second.set(|faults| faults.down = false);
    live.until_synced().await;
    assert_eq!(live.n_services(), 40);
    assert_eq!(live.backends("s1"), ["10.0.0.2"]);
}

#[tokio::test(start_paused = true)]
async fn a_slice_that_loses_its_label_is_gone() {
    let store = cluster(3);
    let mut live = Live::start(&[&Server::new(&store)]);
    live.until_synced().await;
    let mut unlabelled = slice("s1-x", "s1", &["10.0.0.2"]);
    unlabelled["metadata"]["labels"] = json!({});
    store.put(SLICES, unlabelled);
    live.until("no backend", |live| live.backends("s1").is_empty()).await;
}

#[tokio::test(start_paused = true)]
async fn an_api_server_behind_a_service_of_this_agent_is_warned_about() {
    let store = cluster(3);
    let mut live = Live::start(&[&Server::new(&store)]);
    live.until_synced().await;
    assert!(
        live.has_problem("API server https://10.96.0.1 is the address of Service default/s0, which this agent itself")
    );
    store.put(SERVICES, service("s0", "10.96.0.70"));
    live.until("it is over", |live| !live.has_problem("default/s0")).await;
}

#[tokio::test(start_paused = true)]
async fn a_slow_receiver_gets_everything() {
    let store = cluster(3);
    let mut live = Live::start(&[&Server::new(&store)]);
    for i in 0..200 {
        store.put(SLICES, slice("s1-x", "s1", &[&format!("10.0.1.{}", i % 250)]));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    live.until("the last change", |live| live.backends("s1") == ["10.0.1.199"]).await;
}

async fn open_error(kubeconfig: &str) -> String {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("kubeconfig");
    std::fs::write(&path, kubeconfig).unwrap();
    let options = Options {
        kubeconfig: Some(path.clone()),
        api_servers: vec!["https://192.0.2.1:6443".to_owned()],
        node_name: "n1".into(),
        pods: false,
    };
    let error = Source::open(&options).await.map(|_| ()).map_err(|error| error.to_string());
    error.err().unwrap_or_default().replace(&path.display().to_string(), "FILE")
}

#[tokio::test]
async fn a_kubeconfig_that_cannot_be_used_is_an_error_that_names_it() {
    let good = "apiVersion: v1\nkind: Config\ncurrent-context: c\ncontexts: [{name: c, context: {cluster: k, user: u}}]\n\
                clusters: [{name: k, cluster: {server: 'https://127.0.0.1:6443'}}]\nusers: [{name: u, user: {token: t}}]\n";
    assert_eq!(open_error(good).await, "");
    let error = open_error("apiVersion: [").await;
    assert!(error.starts_with("kubeconfig FILE: failed to parse kubeconfig YAML: "), "{error}");
    let error = open_error(&good.replace("current-context: c", "current-context: other")).await;
    assert!(error.starts_with("kubeconfig FILE: failed to load current context: other"), "{error}");
    let error = open_error(&good.replace("{token: t}", "{client-certificate-data: eA==, client-key-data: eA==}")).await;
    assert!(error.starts_with("credentials of kubeconfig FILE for API server https://192.0.2.1:6443: "), "{error}");
    let missing = Options {
        kubeconfig: Some("/nonexistent/kubeconfig".into()),
        api_servers: Vec::new(),
        node_name: "n1".into(),
        pods: false,
    };
    let error = Source::open(&missing).await.map(|_| ()).unwrap_err().to_string();
    assert!(error.contains("/nonexistent/kubeconfig") && error.contains("No such file"), "{error}");
}

#[tokio::test]
async fn a_follower_that_panics_ends_the_whole_source() {
    let (out, reports) = mpsc::channel(1);
    let mut followers = JoinSet::new();
    followers.spawn(async { panic!("no such slice") });
    followers.spawn(async move {
        std::future::pending::<()>().await;
        drop(out);
    });
    let (tx, _messages) = mpsc::channel(4);
    let tracker = Tracker::new(&["services", "endpointslices"], &[], &[]);
    let source = tokio::spawn(pass_on(followers, reports, tracker, tx));
    let ended = timeout(Duration::from_secs(10), source).await.expect("the other follower does not keep it");
    assert!(ended.unwrap_err().to_string().contains("no such slice"));
}
