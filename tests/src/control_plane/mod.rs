//! A Kubernetes control plane for real: etcd, kube-apiserver and kube-controller-manager, on a machine of its own that
//! is linked to a node.
//!
//! There is no kubelet and no scheduler: [`Kubelet`] does, when a test asks it, what they would do to the objects. What
//! is started can be killed and started again with the same data and addresses. etcd does not fsync, since what it
//! holds need not survive a power cut; that brings the start down to a few seconds.

mod admin;
mod etcd;
mod kubeconfig;
mod kubelet;
mod pki;
mod programs;

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::PathBuf,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use k8s_openapi::api::{
    authentication::v1::{TokenRequest, TokenRequestSpec},
    core::v1::{Namespace, ServiceAccount},
};
use kube::{
    Api,
    api::{ListParams, PostParams},
};
use serde_json::json;

pub use self::{
    admin::{Admin, Change},
    kubelet::Kubelet,
};
use self::{
    kubeconfig::Credentials,
    pki::{Authority, Identity, TokenKeys},
    programs::ApiServerSpec,
};
use crate::{node::Node, pod::Pod, poll::eventually, process::Process, run};

/// Where Services get their addresses from: what kubeadm takes, and the same in IPv6.
pub const SERVICE_CIDRS: &str = "10.96.0.0/16,fd00:10:96::/112";

/// The address of the Service `default/kubernetes`, the first of the range.
pub const KUBERNETES_SERVICE: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 1);

/// The machine's addresses on its link to the node.
const ADDRESS: Ipv4Addr = Ipv4Addr::new(172, 19, 0, 2);
const ADDRESS6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x172, 0x19, 0, 0, 0, 0, 2);

/// The port of API server 0; each further one has the next.
const FIRST_PORT: u16 = 6443;

/// The interface number of a node's link to here: no other's, as `FAR_INDEX` of pods, which a node's own `eth0` may have.
const LINK_INDEX: u32 = 10_001;

/// kube-apiserver is ready some seconds after its start, on a busy machine much later.
const START: Duration = Duration::from_secs(90);

/// A control plane. Dropped, its processes are killed and its data goes.
pub struct ControlPlane {
    machine: Pod,
    directory: PathBuf,
    authority: Authority,
    server_identity: Identity,
    admin_identity: Identity,
    token_keys: TokenKeys,
    _etcd: Process,
    api_servers: Vec<ApiServer>,
    controllers: Option<Process>,
}

struct ApiServer {
    process: Process,
    admin: Admin,
}

impl ControlPlane {
    /// Starts etcd, API server 0 and the controllers, on a new machine with a link to `node`, and waits until they can
    /// be worked with.
    pub fn start(node: &Node) -> Result<Self> {
        let mut control_plane = Self::start_without_controllers(node)?;
        let kubeconfig = control_plane.admin_kubeconfig(0)?;
        control_plane.controllers = Some(programs::start_controllers(&control_plane.machine, &kubeconfig)?);
        Ok(control_plane)
    }

    /// Starts etcd and API server 0 only: objects stay as they are written.
    pub fn start_without_controllers(node: &Node) -> Result<Self> {
        let machine = node.external("control-plane", ADDRESS, ADDRESS6)?;
        let directory = run::current().directory("control-plane")?;
        let authority = Authority::new(&directory)?;
        let addresses: [IpAddr; 3] = [ADDRESS.into(), Ipv4Addr::LOCALHOST.into(), KUBERNETES_SERVICE.into()];
        let mut control_plane = Self {
            server_identity: authority.server("kube-apiserver", &addresses, &["kubernetes.default.svc"])?,
            // The group may do everything, without RBAC.
            admin_identity: authority.client("admin", Some("system:masters"))?,
            token_keys: authority.token_keys()?,
            _etcd: programs::start_etcd(&machine, &directory)?,
            api_servers: Vec::new(),
            controllers: None,
            machine,
            directory,
            authority,
        };
        control_plane.add_api_server()?;
        Ok(control_plane)
    }

    /// Starts one more API server on the same data, and waits until it is ready. Its number is the count of those
    /// before it.
    pub fn add_api_server(&mut self) -> Result<u8> {
        let number = u8::try_from(self.api_servers.len()).context("too many API servers")?;
        let process = self.start_api_server(number)?;
        let admin = Admin::new(self.machine.netns(), &self.admin_kubeconfig(number)?)?;
        self.api_servers.push(ApiServer { process, admin });
        self.wait_ready(number)?;
        Ok(number)
    }

    /// Kills an API server as `kill -9` does.
    pub fn kill_api_server(&mut self, number: u8) -> Result<()> {
        self.api_servers[usize::from(number)].process.kill()
    }

    /// Starts one that was killed, at its old address, and waits until it is ready.
    pub fn restart_api_server(&mut self, number: u8) -> Result<()> {
        self.api_servers[usize::from(number)].process = self.start_api_server(number)?;
        self.wait_ready(number)
    }

    /// The URL of an API server for who is not on its machine.
    pub fn url(&self, number: u8) -> String {
        format!("https://{ADDRESS}:{}", port(number))
    }

    /// Gives a node a way here: by a link to `hub`, the node that this was started with. The link has addresses of its own on
    /// both ends, since those of the nodes may be the same; `number` tells such links apart.
    pub fn link(&self, hub: &Node, node: &Node, number: u8) -> Result<()> {
        let far = format!("hub{}", run::current().number());
        node.netns().ip([
            format!("link add hub index {LINK_INDEX} type veth peer name {far} netns {}", hub.netns().path().display()),
            "link set hub up".to_owned(),
            format!("addr add 100.64.{number}.2/24 dev hub"),
        ])?;
        hub.netns().ip([format!("link set {far} up"), format!("addr add 100.64.{number}.1/24 dev {far}")])?;
        node.netns().wait_up(&["hub"])?;
        hub.netns().wait_up(&[&far])?;
        node.netns().ip([format!("route add {ADDRESS} via 100.64.{number}.1")])
    }

    /// The machine that all this runs on.
    pub fn machine(&self) -> &Pod {
        &self.machine
    }

    /// The administrator, who talks to API server 0.
    pub fn admin(&self) -> &Admin {
        self.admin_of(0)
    }

    /// The administrator, talking to another API server.
    pub fn admin_of(&self, number: u8) -> &Admin {
        &self.api_servers[usize::from(number)].admin
    }

    /// A kubeconfig for API server 0 with the rights that `deploy/rbac.yaml` gives the agent.
    pub fn agent_kubeconfig(&self) -> Result<PathBuf> {
        self.admin().apply_yaml(include_str!("../../../deploy/rbac.yaml"))?;
        self.service_account_kubeconfig("kube-system", "lb-agent", &self.url(0))
    }

    /// A kubeconfig for the API server at `url` with a token of a service account that exists.
    pub fn service_account_kubeconfig(&self, namespace: &str, name: &str, url: &str) -> Result<PathBuf> {
        let token = self.token(namespace, name)?;
        let file = self.directory.join(format!("{namespace}-{name}.kubeconfig"));
        kubeconfig::write(file, url, self.authority.certificate(), &Credentials::Token(&token))
    }

    /// A kubeconfig for API server 0 that gets the agent's token from an exec plugin. Made after
    /// [`Self::agent_kubeconfig`].
    pub fn plugin_kubeconfig(&self) -> Result<PathBuf> {
        let credential = json!({
            "apiVersion": "client.authentication.k8s.io/v1",
            "kind": "ExecCredential",
            "status": {"token": self.token("kube-system", "lb-agent")?},
        });
        let answer = self.directory.join("exec-credential.json");
        fs::write(&answer, credential.to_string()).with_context(|| format!("cannot write {}", answer.display()))?;
        let command = ["cat", answer.to_str().context("a temporary directory with an odd name")?];
        let file = self.directory.join("plugin.kubeconfig");
        kubeconfig::write(file, &self.url(0), self.authority.certificate(), &Credentials::Plugin(&command))
    }

    fn token(&self, namespace: &str, name: &str) -> Result<String> {
        let spec = TokenRequestSpec { expiration_seconds: Some(3600), ..Default::default() };
        let request = TokenRequest { spec: Some(spec), ..Default::default() };
        let answer = self.admin().call(|client| async move {
            let accounts: Api<ServiceAccount> = Api::namespaced(client, namespace);
            accounts.create_token_request(name, &PostParams::default(), &request).await
        });
        let answer = answer.with_context(|| format!("cannot get a token for {namespace}/{name}"))?;
        answer.status.and_then(|status| status.token).context("a TokenRequest without a token")
    }

    /// A kubeconfig for API server 0 with a certificate for this user.
    pub fn user_kubeconfig(&self, user: &str) -> Result<PathBuf> {
        let identity = self.authority.client(user, None)?;
        let file = self.directory.join(format!("{}.kubeconfig", user.replace(':', "-")));
        kubeconfig::write(file, &self.url(0), self.authority.certificate(), &Credentials::Certificate(&identity))
    }

    /// Makes etcd forget its history up to now: who was not watching cannot be told of it any more.
    pub fn compact(&self) -> Result<()> {
        self.machine.netns().run(|| etcd::compact(programs::ETCD))?
    }

    fn admin_kubeconfig(&self, number: u8) -> Result<PathBuf> {
        let file = self.directory.join(format!("admin-{number}.kubeconfig"));
        let url = format!("https://{}:{}", Ipv4Addr::LOCALHOST, port(number));
        let credentials = Credentials::Certificate(&self.admin_identity);
        kubeconfig::write(file, &url, self.authority.certificate(), &credentials)
    }

    fn start_api_server(&self, number: u8) -> Result<Process> {
        let spec = ApiServerSpec {
            number,
            port: port(number),
            address: ADDRESS.into(),
            authority: self.authority.certificate(),
            identity: &self.server_identity,
            token_keys: &self.token_keys,
        };
        programs::start_api_server(&self.machine, &spec)
    }

    /// Waits until an API server says that it is ready, and has made what it makes by itself.
    fn wait_ready(&mut self, number: u8) -> Result<()> {
        let ApiServer { process, admin } = &mut self.api_servers[usize::from(number)];
        eventually(&format!("kube-apiserver {number} to be ready"), START, || {
            if let Some(status) = process.exit_status()? {
                bail!("kube-apiserver ended with {status}; log: {}", process.log_path().display());
            }
            // Until it listens and its start is over, all this fails.
            Ok(is_ready(admin).ok().filter(|ready| *ready).map(|_| ()))
        })
    }
}

fn is_ready(admin: &Admin) -> Result<bool> {
    let request = http::Request::get("/readyz").body(Vec::new())?;
    let readyz = admin.call(|client| async move { client.request_text(request).await })?;
    // It makes them a moment after it says that it is ready.
    let namespaces = admin
        .call(|client| async move { Api::<Namespace>::all(client).list_metadata(&ListParams::default()).await })?;
    let has = |name: &str| namespaces.items.iter().any(|namespace| namespace.metadata.name.as_deref() == Some(name));
    Ok(readyz == "ok" && has("default") && has("kube-system"))
}

fn port(number: u8) -> u16 {
    FIRST_PORT + u16::from(number)
}
