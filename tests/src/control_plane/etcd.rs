//! The little that tests ask of etcd itself, by its JSON gateway, so that no etcdctl has to be installed.

use anyhow::{Context as _, Result};
use kube::{Client, Config};
use serde_json::{Value, json};
use tokio::runtime::Builder;

/// Forgets the history of all keys up to now.
pub(super) fn compact(url: &str) -> Result<()> {
    let runtime = Builder::new_current_thread().enable_all().build().context("cannot make a tokio runtime")?;
    runtime.block_on(async {
        // kube's client speaks plain HTTP with JSON as well, which is all that is wanted here.
        let client = Client::try_from(Config::new(url.parse()?))?;
        let post = |path: &str, body: Value| http::Request::post(path).body(body.to_string().into_bytes());
        // "AA==" is the key of one zero byte; whatever the range holds, the answer's header has the current revision.
        let answer: Value = client.request(post("/v3/kv/range", json!({"key": "AA=="}))?).await?;
        let revision = answer["header"]["revision"].as_str().context("etcd tells no revision")?;
        let compaction = json!({"revision": revision, "physical": true});
        client.request::<Value>(post("/v3/kv/compaction", compaction)?).await?;
        Ok(())
    })
}
