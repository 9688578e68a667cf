//! `spec.healthCheckNodePort`: tells load balancers, for each Service with `externalTrafficPolicy: Local`, whether this
//! node has endpoints of it. Answers as kube-proxy 1.36 does (`pkg/proxy/healthcheck/service_health.go`).
//!
//! What is to be served arrives as data ([`Checks`]); nothing here decides which endpoints count.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use axum::{
    Router,
    http::{HeaderValue, StatusCode},
    response::{IntoResponse, Response},
};
use serde_json::json;
use tokio::{sync::watch, task::AbortHandle};

use super::{Observer, health, http};
use crate::{event::ObjectName, model::HealthCheck, reconcile::Checks};

/// How much traffic this node should get, in endpoints; some load balancers weigh nodes by it.
const WEIGHT: &str = "X-Load-Balancing-Endpoint-Weight";

fn listeners(checks: &Checks) -> BTreeSet<Listener> {
    let services = checks.services.iter();
    let of = |(service, check): (&ObjectName, &HealthCheck)| {
        let listener = |ip: &IpAddr| (service.clone(), SocketAddr::new(*ip, check.port));
        let served = checks.addresses.iter().filter(|ip| check.local_endpoints(**ip).is_some());
        served.map(listener).collect::<Vec<_>>()
    };
    services.flat_map(of).collect()
}

/// A Service and where its check is answered.
type Listener = (ObjectName, SocketAddr);

/// Serves what `checks` says, until its sender is gone. `report` is called with each reason why a port cannot be
/// listened on; that port is tried again, the others are not affected.
pub async fn serve(
    mut checks: watch::Receiver<Checks>,
    observer: Observer,
    report: impl Fn(&anyhow::Error) + Clone + Send + Sync + 'static,
) {
    let counts = Counts::default();
    let mut running: BTreeMap<Listener, AbortHandle> = BTreeMap::new();
    loop {
        let wanted = checks.borrow_and_update().clone();
        let listeners = listeners(&wanted);
        counts.set(wanted.services);
        running.retain(|listener, task| {
            let stays = listeners.contains(listener);
            if !stays {
                task.abort();
            }
            stays
        });
        for listener in listeners {
            running.entry(listener).or_insert_with_key(|(service, address)| {
                let advice = format!(
                    "Service {service}: spec.healthCheckNodePort: load balancers cannot see its endpoints on this \
                     node; free that port"
                );
                let routes = routes(service.clone(), address.ip(), counts.clone(), observer.clone());
                tokio::spawn(http::serve(advice, *address, routes, report.clone())).abort_handle()
            });
        }
        if checks.changed().await.is_err() {
            return;
        }
    }
}

/// What the servers answer with; one for all, since most changes are of counts only.
#[derive(Clone, Debug, Default)]
struct Counts(Arc<Mutex<BTreeMap<ObjectName, HealthCheck>>>);

impl Counts {
    fn set(&self, counts: BTreeMap<ObjectName, HealthCheck>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = counts;
    }

    fn of(&self, service: &ObjectName, at: IpAddr) -> Option<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(service)?.local_endpoints(at)
    }
}

fn routes(service: ObjectName, at: IpAddr, counts: Counts, observer: Observer) -> Router {
    // kube-proxy answers on every path.
    Router::new().fallback(async move || match counts.of(&service, at) {
        Some(n) => answer(&service, n, health::problem(&observer.state(), Instant::now()).is_none()),
        // A connection that was kept open while the Service went.
        None => StatusCode::NOT_FOUND.into_response(),
    })
}

fn answer(service: &ObjectName, local_endpoints: usize, is_proxy_healthy: bool) -> Response {
    let body = json!({
        "service": { "namespace": &*service.namespace, "name": &*service.name },
        "localEndpoints": local_endpoints,
        "serviceProxyHealthy": is_proxy_healthy,
    });
    let mut response = http::json(local_endpoints > 0 && is_proxy_healthy, &body);
    response.headers_mut().insert(WEIGHT, HeaderValue::from(local_endpoints));
    response
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpStream,
        sync::mpsc,
        time::{sleep, timeout},
    };

    use super::*;
    use crate::observe::SelfTest;

    fn healthy() -> Observer {
        let observer = Observer::default();
        observer.update(|state| {
            state.self_test = SelfTest::Passed;
            state.report.synced = Some(SystemTime::now());
        });
        observer
    }

    fn checks(port: u16, local_endpoints: usize) -> Checks {
        let service = ObjectName::new("default", "web");
        Checks {
            addresses: [IpAddr::from([127, 0, 0, 1])].into(),
            services: [(service, HealthCheck { port, local_v4: Some(local_endpoints), local_v6: None })].into(),
        }
    }

    /// A port that was free a moment ago.
    fn free_port() -> u16 {
        std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
    }

    /// Head and body of the answer, `None` if nobody listens.
    async fn get(port: u16) -> Option<(String, serde_json::Value)> {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await.ok()?;
        stream.write_all(b"GET /anything HTTP/1.0\r\n\r\n").await.ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.ok()?;
        let (head, body) = answer.split_once("\r\n\r\n")?;
        Some((head.to_lowercase(), serde_json::from_str(body).unwrap_or_default()))
    }

    async fn until(what: &str, port: u16, condition: impl Fn(&Option<(String, serde_json::Value)>) -> bool) {
        let wait = async {
            while !condition(&get(port).await) {
                sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(Duration::from_secs(10), wait).await.expect(what);
    }

    #[tokio::test]
    async fn a_load_balancer_is_told_how_many_endpoints_this_node_has() {
        let port = free_port();
        let (sender, receiver) = watch::channel(checks(port, 2));
        let observer = healthy();
        tokio::spawn(serve(receiver, observer.clone(), |error| panic!("{error:#}")));
        until("200", port, |answer| answer.as_ref().is_some_and(|(head, _)| head.starts_with("http/1.0 200"))).await;
        let (head, body) = get(port).await.unwrap();
        for line in ["x-load-balancing-endpoint-weight: 2", "content-type: application/json", "nosniff"] {
            assert!(head.contains(line), "{head}");
        }
        let expected = json!({
            "service": {"namespace": "default", "name": "web"}, "localEndpoints": 2, "serviceProxyHealthy": true
        });
        assert_eq!(body, expected);
        sender.send(checks(port, 0)).unwrap();
        until("503 without endpoints", port, |answer| {
            answer.as_ref().is_some_and(|(head, body)| head.starts_with("http/1.0 503") && body["localEndpoints"] == 0)
        })
        .await;
        sender.send(checks(port, 1)).unwrap();
        observer.update(|state| state.self_test = SelfTest::Failed("x".to_owned()));
        until("503 of an unhealthy agent", port, |answer| {
            let unhealthy =
                |body: &serde_json::Value| body["serviceProxyHealthy"] == false && body["localEndpoints"] == 1;
            answer.as_ref().is_some_and(|(head, body)| head.starts_with("http/1.0 503") && unhealthy(body))
        })
        .await;
    }

    #[test]
    fn a_family_that_the_service_lacks_is_not_listened_on() {
        let node = [IpAddr::from([192, 0, 2, 1]), IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1])];
        let both = Checks { addresses: node.into(), ..checks(30_000, 0) };
        let addresses: Vec<IpAddr> = listeners(&both).into_iter().map(|(_, address)| address.ip()).collect();
        assert_eq!(addresses, node[..1]);
    }

    #[tokio::test]
    async fn a_service_that_goes_gives_its_port_back_and_a_taken_port_is_reported_with_the_service() {
        let (port, taken) = (free_port(), std::net::TcpListener::bind("127.0.0.1:0").unwrap());
        let (sender, receiver) = watch::channel(checks(port, 1));
        let (said, mut heard) = mpsc::unbounded_channel();
        let report = move |error: &anyhow::Error| said.send(format!("{error:#}")).expect("somebody hears");
        tokio::spawn(serve(receiver, healthy(), report));
        until("an answer", port, Option::is_some).await;
        sender.send(checks(taken.local_addr().unwrap().port(), 1)).unwrap();
        let text = heard.recv().await.unwrap();
        assert!(text.contains("Service default/web: spec.healthCheckNodePort"), "{text}");
        until("nobody on the old port", port, Option::is_none).await;
    }
}
