//! Real CoreDNS behind the Service 10.96.0.10, asked by glibc's resolver in a pod. CoreDNS itself reaches the API server
//! through the Service `kubernetes`.

use std::{
    collections::BTreeSet,
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};
use lb_tests::{
    Agent, Guest, Kubelet, Pod, Process,
    components::{self, Component},
    control_plane::KUBERNETES_SERVICE,
    eventually,
    guest::{Traffic, UdpSocket, errno},
    poll::PATIENCE,
};
use serde_json::{Value, json};

use crate::{
    Cluster,
    objects::{TARGET_PORT, deployment, service},
    wait_for_answers_from,
};

const DNS: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);

#[test]
fn names_resolve_through_the_dns_service_and_lead_to_the_pods() -> Result<()> {
    let cluster = Cluster::start()?;
    let admin = cluster.control_plane.admin();
    let mut kubelet = Kubelet::register(&cluster.node, admin)?;
    let web: [IpAddr; 2] = ["10.96.0.100".parse()?, "fd00:10:96::100".parse()?];
    admin.apply(&deployment(3))?;
    admin.apply(&service(web))?;
    admin.apply(&headless_service())?;
    kubelet.sync_until_running(3)?;
    let _agent = cluster.start_agent()?;
    let files = tempfile::tempdir()?;
    let _dns = start_dns(&cluster, &kubelet, files.path())?;
    let pod = cluster.node.pod("client")?;
    let client = pod.guest()?;

    for protocol in [Protocol::Udp, Protocol::Tcp] {
        let resolver = Resolver::new(&pod, protocol, files.path())?;
        for name in ["web.default.svc.cluster.local", "web"] {
            resolver.wait_for(name, &web.into())?;
        }
        let pods: BTreeSet<IpAddr> = kubelet.pods().flat_map(|pod| [pod.v4().into(), pod.v6().into()]).collect();
        resolver.wait_for("web-pods.default.svc.cluster.local", &pods)?;
    }
    for address in web {
        wait_for_answers_from(&kubelet.pod_names(), &client, Traffic::Tcp, SocketAddr::new(address, 80))?;
    }
    every_pod_answers_directly(&kubelet, &client)
}

/// As NGINX and many runtimes do it: one connected socket for all questions, another only when that one fails.
struct LastingResolver<'c> {
    client: &'c Guest,
    socket: Option<UdpSocket<'c>>,
    opened: u32,
}

impl<'c> LastingResolver<'c> {
    fn new(client: &'c Guest) -> Self {
        Self { client, socket: None, opened: 0 }
    }

    /// Asks for the API server's address; on a new socket if the old one fails.
    fn ask(&mut self) -> Result<Ipv4Addr> {
        if let Some(socket) = &self.socket {
            match query(socket) {
                // Silence is what applications suffer from: nothing tells them to open another socket.
                Err(error) if errno(&error) != "EAGAIN" => {}
                other => return other,
            }
        }
        let server = SocketAddr::new(DNS.into(), 53);
        let socket = self.client.udp(server)?;
        socket.connect(server)?;
        self.opened += 1;
        query(self.socket.insert(socket))
    }

    fn has_peer(&self) -> Result<bool> {
        let socket = self.socket.as_ref().context("no socket")?;
        Ok(socket.names()?.peer.is_some())
    }
}

/// A question for an A record by RFC 1035, and the address at the end of the answer.
fn query(socket: &UdpSocket<'_>) -> Result<Ipv4Addr> {
    // Id 7, recursion desired, one question.
    let mut question = vec![0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in ["kubernetes", "default", "svc", "cluster", "local"] {
        question.push(u8::try_from(label.len())?);
        question.extend(label.bytes());
    }
    // The root, type A, class IN.
    question.extend([0, 0, 1, 0, 1]);
    let answer = socket.exchange(&question)?;
    let n_answers = answer.get(6..8).map(|bytes| [bytes[0], bytes[1]]);
    anyhow::ensure!(n_answers == Some([0, 1]), "not one answer: {answer:?}");
    let address: [u8; 4] = answer.last_chunk().copied().context("a short answer")?;
    Ok(address.into())
}

#[test]
fn a_dns_client_with_one_lasting_socket_survives_a_rollout_of_coredns() -> Result<()> {
    let cluster = Cluster::start()?;
    let kubelet = Kubelet::register(&cluster.node, cluster.control_plane.admin())?;
    let agent = cluster.start_agent()?;
    let files = tempfile::tempdir()?;
    let old = start_dns(&cluster, &kubelet, files.path())?;
    let pod = cluster.node.pod("client")?;
    let client = pod.guest()?;
    let mut resolver = LastingResolver::new(&client);
    let kubernetes: Ipv4Addr = "10.96.0.1".parse()?;
    eventually("the first answer", PATIENCE, || Ok(resolver.ask().ok().filter(|address| *address == kubernetes)))?;
    let opened = resolver.opened;

    let new = run_dns(&cluster, &kubelet, files.path(), "coredns-new")?;
    wait_for_backend(&agent, &new.0, "ready")?;
    wait_until_it_answers(&client, &new.0)?;
    kubelet.delete_pod("kube-system", "coredns", 30)?;
    wait_for_backend(&agent, &old.0, "terminating")?;
    assert_eq!((resolver.ask()?, resolver.opened), (kubernetes, opened), "it still serves, and keeps its clients");

    kubelet.delete_pod("kube-system", "coredns", 0)?;
    // Its process still runs: nothing but the agent tells the client to go elsewhere.
    eventually("the socket to be ended", PATIENCE, || Ok((!resolver.has_peer()?).then_some(())))?;
    assert_eq!((resolver.ask()?, resolver.opened), (kubernetes, opened + 1));
    drop(old);
    assert_eq!((resolver.ask()?, resolver.opened), (kubernetes, opened + 1));
    Ok(())
}

fn wait_for_backend(agent: &Agent, pod: &Pod, state: &str) -> Result<()> {
    let address = pod.at4(53).to_string();
    eventually(&format!("{address} to be {state}"), PATIENCE, || {
        let (_, backends, _) = agent.cli(&["backends", "kube-system/kube-dns"])?;
        Ok(backends.lines().any(|line| line.contains(&address) && line.contains(state)).then_some(()))
    })
}

/// CoreDNS is ready here before it has read the cluster.
fn wait_until_it_answers(client: &Guest, pod: &Pod) -> Result<()> {
    eventually("the new CoreDNS to answer", PATIENCE, || {
        let socket = client.udp(pod.at4(53))?;
        socket.connect(pod.at4(53))?;
        Ok(query(&socket).ok().map(drop))
    })
}

fn every_pod_answers_directly(kubelet: &Kubelet<'_>, client: &Guest) -> Result<()> {
    for pod in kubelet.pods() {
        assert_eq!(client.ask(Traffic::Tcp, pod.at4(TARGET_PORT))?, pod.name());
    }
    Ok(())
}

fn headless_service() -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "web-pods", "namespace": "default"},
        "spec": {
            "clusterIP": "None",
            "ipFamilyPolicy": "RequireDualStack",
            "selector": {"app": "web"},
            "ports": [{"name": "http", "port": TARGET_PORT}],
        },
    })
}

/// CoreDNS in a pod with a ready status, and its Service.
pub(crate) fn start_dns(cluster: &Cluster, kubelet: &Kubelet<'_>, files: &Path) -> Result<(Pod, Process)> {
    cluster.control_plane.admin().apply_yaml(include_str!("coredns.yaml"))?;
    run_dns(cluster, kubelet, files, "coredns")
}

/// CoreDNS in a pod of that name with a ready status.
fn run_dns(cluster: &Cluster, kubelet: &Kubelet<'_>, files: &Path, name: &str) -> Result<(Pod, Process)> {
    let url = format!("https://{KUBERNETES_SERVICE}");
    let kubeconfig = cluster.control_plane.service_account_kubeconfig("kube-system", "coredns", &url)?;
    let corefile = files.join("Corefile");
    fs::write(&corefile, corefile_text(&kubeconfig))?;
    let object = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "kube-system", "labels": {"k8s-app": "kube-dns"}},
        "spec": {"containers": [{"name": "coredns", "image": "coredns"}]},
    });
    kubelet.run_pod(&object, |pod| {
        let mut command = Command::new(components::ensure(Component::CoreDns)?);
        command.arg("-conf").arg(&corefile);
        pod.netns().enter(&mut command);
        pod.cgroup().enter(&mut command)?;
        Process::spawn(name, command)
    })
}

fn corefile_text(kubeconfig: &Path) -> String {
    format!(
        ".:53 {{
    errors
    kubernetes cluster.local in-addr.arpa ip6.arpa {{
        kubeconfig {}
    }}
    loadbalance
}}
",
        kubeconfig.display()
    )
}

#[derive(Clone, Copy, Debug)]
enum Protocol {
    Udp,
    Tcp,
}

/// What a kubelet writes for a pod of the namespace `default`.
pub(crate) fn resolv_conf_text(options: &str) -> String {
    let search = "default.svc.cluster.local svc.cluster.local cluster.local";
    format!("nameserver {DNS}\nsearch {search}\noptions {options}\n")
}

/// glibc's resolver in a pod, with a resolv.conf as a kubelet writes it.
struct Resolver<'a> {
    pod: &'a Pod,
    protocol: Protocol,
    resolv_conf: PathBuf,
}

impl<'a> Resolver<'a> {
    fn new(pod: &'a Pod, protocol: Protocol, files: &Path) -> Result<Self> {
        let options = match protocol {
            Protocol::Udp => "ndots:5",
            // resolv.conf(5): "use-vc" makes queries go by TCP.
            Protocol::Tcp => "ndots:5 use-vc",
        };
        let resolv_conf = files.join(format!("resolv-{protocol:?}.conf"));
        fs::write(&resolv_conf, resolv_conf_text(options))?;
        Ok(Self { pod, protocol, resolv_conf })
    }

    fn wait_for(&self, name: &str, expected: &BTreeSet<IpAddr>) -> Result<()> {
        let mut last = String::new();
        let result = eventually(&format!("{name} to be {expected:?} by {:?}", self.protocol), PATIENCE, || {
            let (found, complaints) = self.resolve(name)?;
            last = format!("{found:?} {complaints}");
            Ok((found == *expected).then_some(()))
        });
        result.with_context(|| format!("{name} resolved to {last} in the end"))
    }

    /// What getaddrinfo gives for both families, nothing where it fails; and what was said on stderr.
    fn resolve(&self, name: &str) -> Result<(BTreeSet<IpAddr>, String)> {
        let script = "mount --bind \"$1\" /etc/resolv.conf && { getent ahostsv4 \"$2\"; getent ahostsv6 \"$2\"; }";
        let mut command = Command::new("unshare");
        // The pod has its own resolv.conf by a mount namespace, as in a container.
        command.args(["--mount", "--propagation", "private", "sh", "-c", script, "sh"]);
        command.arg(&self.resolv_conf).arg(name);
        self.pod.netns().enter(&mut command);
        self.pod.cgroup().enter(&mut command)?;
        let output = command.output().context("cannot run unshare (of util-linux)")?;
        let text = String::from_utf8(output.stdout)?;
        // `getent ahostsv6` gives IPv4 addresses as ::ffff:a.b.c.d where there are no others.
        let addresses = text.lines().filter_map(|line| line.split_whitespace().next()?.parse::<IpAddr>().ok());
        let addresses = addresses.map(|address| address.to_canonical()).collect();
        Ok((addresses, String::from_utf8_lossy(&output.stderr).into_owned()))
    }
}
