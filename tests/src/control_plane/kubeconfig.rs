//! Kubeconfig files: for the administrator, the controllers, the agent and CoreDNS.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use super::pki::Identity;

/// How a client proves who it is.
pub(super) enum Credentials<'a> {
    Certificate(&'a Identity),
    Token(&'a str),
    /// An exec plugin, as clouds have them: a program that prints an `ExecCredential`.
    Plugin(&'a [&'a str]),
}

/// Writes a kubeconfig for the server at `url`, as JSON, which every reader of YAML takes.
pub(super) fn write(path: PathBuf, url: &str, authority: &Path, credentials: &Credentials<'_>) -> Result<PathBuf> {
    let user: Value = match credentials {
        Credentials::Certificate(identity) => {
            json!({"client-certificate": identity.certificate, "client-key": identity.key})
        }
        Credentials::Token(token) => json!({"token": token}),
        Credentials::Plugin(command) => json!({"exec": {
            "apiVersion": "client.authentication.k8s.io/v1",
            "command": command.first(),
            "args": command.get(1..),
            "interactiveMode": "Never",
        }}),
    };
    let config = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "test", "cluster": {"server": url, "certificate-authority": authority}}],
        "users": [{"name": "test", "user": user}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
        "current-context": "test",
    });
    fs::write(&path, config.to_string()).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path)
}
