//! The two HTTP servers: health on one address, metrics on the other, as kube-proxy has them.
//!
//! An address that is taken does not stop the agent: Services work without it, and the address may become free (the
//! kube-proxy that this agent replaces is still ending, say). It is tried again, and logged when the reason changes.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use anyhow::Context as _;
use axum::{
    Router,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use serde::Serialize;
use tokio::net::TcpListener;

use super::{
    Observer,
    health::{self, Answer},
    metrics::Metrics,
};

/// Between two tries to listen; kube-proxy's is the same (`serveHealthz`).
const RETRY: Duration = Duration::from_secs(5);

/// `/healthz` and `/livez`.
pub fn health_routes(observer: &Observer) -> Router {
    let (for_healthz, for_livez) = (observer.clone(), observer.clone());
    Router::new()
        .route(
            "/healthz",
            get(async move || reply(&health::healthz(&for_healthz.state(), Instant::now(), SystemTime::now()))),
        )
        .route(
            "/livez",
            get(async move || reply(&health::livez(&for_livez.state(), Instant::now(), SystemTime::now()))),
        )
}

fn reply(answer: &Answer) -> Response {
    json(answer.is_healthy(), answer)
}

/// 200 or 503 with a JSON body, and the headers that kube-proxy's answers have.
pub(super) fn json(is_healthy: bool, body: &impl Serialize) -> Response {
    let status = if is_healthy { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    match serde_json::to_string(body) {
        Ok(body) => {
            let headers = [(header::CONTENT_TYPE, "application/json"), (header::X_CONTENT_TYPE_OPTIONS, "nosniff")];
            (status, headers, body).into_response()
        }
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

/// `/metrics`.
pub fn metrics_routes(metrics: Arc<Metrics>) -> Router {
    Router::new().route(
        "/metrics",
        get(async move || match metrics.encode() {
            Ok(text) => {
                let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
                ([(header::CONTENT_TYPE, kind)], text).into_response()
            }
            Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
        }),
    )
}

/// Serves until the process ends. `advice` is what to do where the address is taken, `report` is called with each new
/// reason why it cannot be listened on.
pub async fn serve(advice: String, address: SocketAddr, routes: Router, report: impl Fn(&anyhow::Error)) {
    let mut last = String::new();
    loop {
        let Err(error) = listen_and_serve(&advice, address, routes.clone()).await;
        let reason = format!("{error:#}");
        if reason != last {
            report(&error);
            last = reason;
        }
        tokio::time::sleep(RETRY).await;
    }
}

async fn listen_and_serve(advice: &str, address: SocketAddr, routes: Router) -> Result<Infallible, anyhow::Error> {
    let listener = TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address}: {advice}"))?;
    tracing::debug!(%address, "listening");
    axum::serve(listener, routes).await.with_context(|| format!("serving on {address}"))?;
    anyhow::bail!("serving on {address} ended")
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpStream,
        sync::mpsc,
    };

    use super::*;
    use crate::observe::SelfTest;

    /// Head and body of the answer to a GET.
    async fn get(address: SocketAddr, path: &str) -> std::io::Result<(String, String)> {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
        Ok((head.to_lowercase(), body.to_owned()))
    }

    /// Serves on a port of the system's choice.
    async fn served(routes: Router) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async { axum::serve(listener, routes).await });
        address
    }

    #[tokio::test]
    async fn healthz_follows_the_state() {
        let observer = Observer::default();
        let address = served(health_routes(&observer)).await;
        let (head, body) = get(address, "/healthz").await.unwrap();
        assert!(head.starts_with("http/1.0 503") && head.contains("content-type: application/json"), "{head}");
        assert!(body.contains("starting"), "{body}");
        assert!(get(address, "/livez").await.unwrap().0.starts_with("http/1.0 200"));
        observer.update(|state| {
            state.self_test = SelfTest::Passed;
            state.report.synced = Some(SystemTime::now());
        });
        let (head, body) = get(address, "/healthz").await.unwrap();
        assert!(head.starts_with("http/1.0 200") && body.contains("\"nodeEligible\":true"), "{head}{body}");
    }

    #[tokio::test]
    async fn metrics_are_openmetrics_text() {
        let metrics = Metrics::new(&Observer::default(), "1.2.3", Box::new(|| Ok(vec![])));
        let address = served(metrics_routes(Arc::new(metrics))).await;
        let (head, body) = get(address, "/metrics").await.unwrap();
        assert!(head.contains("content-type: application/openmetrics-text; version=1.0.0"), "{head}");
        assert!(body.ends_with("# EOF\n"), "{body}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_taken_address_is_reported_once_with_its_flag_and_tried_again() {
        let other = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = other.local_addr().unwrap();
        let (said, mut heard) = mpsc::unbounded_channel();
        let report = move |error: &anyhow::Error| said.send(format!("{error:#}")).expect("somebody hears");
        let advice = "set another with --healthz-address".to_owned();
        tokio::spawn(serve(advice, address, health_routes(&Observer::default()), report));
        let text = heard.recv().await.unwrap();
        assert!(text.contains("--healthz-address") && text.contains(&address.to_string()), "{text}");
        tokio::time::sleep(10 * RETRY).await;
        assert!(heard.try_recv().is_err(), "the same reason was reported twice");
        drop(other);
        tokio::time::sleep(2 * RETRY).await;
        assert!(get(address, "/livez").await.unwrap().0.starts_with("http/1.0 200"));
    }
}
