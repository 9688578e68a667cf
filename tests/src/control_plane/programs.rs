//! The command lines of etcd, kube-apiserver and kube-controller-manager.

use std::{
    net::IpAddr,
    path::{Path, PathBuf},
};

use anyhow::Result;

use super::{
    SERVICE_CIDRS,
    pki::{Identity, TokenKeys},
};
use crate::{
    components::{self, Component},
    pod::Pod,
    process::Process,
};

/// Those that make pods, and EndpointSlices of pods and of Endpoints that are written by hand.
const CONTROLLERS: &str = "deployment-controller,replicaset-controller,statefulset-controller,endpointslice-controller,\
                           endpointslice-mirroring-controller";

/// etcd's client URL, on the control plane's machine.
pub(super) const ETCD: &str = "http://127.0.0.1:2379";

pub(super) fn start_etcd(machine: &Pod, directory: &Path) -> Result<Process> {
    let data = directory.join("etcd").display().to_string();
    let flags = [
        ("data-dir", data.as_str()),
        ("listen-client-urls", ETCD),
        ("advertise-client-urls", ETCD),
        ("listen-peer-urls", "http://127.0.0.1:2380"),
        ("unsafe-no-fsync", "true"),
        ("log-level", "warn"),
    ];
    start(machine, Component::Etcd, "etcd", &flags)
}

/// What an API server needs to know.
pub(super) struct ApiServerSpec<'a> {
    pub(super) number: u8,
    pub(super) port: u16,
    pub(super) address: IpAddr,
    pub(super) authority: &'a Path,
    pub(super) identity: &'a Identity,
    pub(super) token_keys: &'a TokenKeys,
}

pub(super) fn start_api_server(machine: &Pod, spec: &ApiServerSpec<'_>) -> Result<Process> {
    let path = |path: &Path| path.display().to_string();
    let authority = path(spec.authority);
    let (token_key, token_signing_key) = (path(&spec.token_keys.public), path(&spec.token_keys.private));
    let (certificate, key) = (path(&spec.identity.certificate), path(&spec.identity.key));
    let (address, port) = (spec.address.to_string(), spec.port.to_string());
    // All servers have one address here, so only the first one may say which port the Service `kubernetes` leads to.
    let reconciler = if spec.number == 0 { "lease" } else { "none" };
    let flags = [
        ("etcd-servers", ETCD),
        ("bind-address", "0.0.0.0"),
        ("secure-port", &port),
        ("advertise-address", &address),
        ("endpoint-reconciler-type", reconciler),
        ("service-cluster-ip-range", SERVICE_CIDRS),
        ("tls-cert-file", &certificate),
        ("tls-private-key-file", &key),
        ("client-ca-file", &authority),
        ("authorization-mode", "RBAC"),
        ("service-account-issuer", "https://kubernetes.default.svc"),
        ("service-account-key-file", &token_key),
        ("service-account-signing-key-file", &token_signing_key),
        // Nobody makes the service account `default` of each namespace, which this plugin wants pods to have.
        ("disable-admission-plugins", "ServiceAccount"),
    ];
    start(machine, Component::ApiServer, &format!("kube-apiserver-{}", spec.number), &flags)
}

pub(super) fn start_controllers(machine: &Pod, kubeconfig: &Path) -> Result<Process> {
    let kubeconfig = kubeconfig.display().to_string();
    let flags = [
        ("kubeconfig", kubeconfig.as_str()),
        ("leader-elect", "false"),
        ("controllers", CONTROLLERS),
        ("bind-address", "127.0.0.1"),
    ];
    start(machine, Component::ControllerManager, "kube-controller-manager", &flags)
}

fn start(machine: &Pod, component: Component, name: &str, flags: &[(&str, &str)]) -> Result<Process> {
    let binary: PathBuf = components::ensure(component)?;
    let mut command = std::process::Command::new(binary);
    command.args(flags.iter().map(|(flag, value)| format!("--{flag}={value}")));
    machine.netns().enter(&mut command);
    machine.cgroup().enter(&mut command)?;
    Process::spawn(name, command)
}
