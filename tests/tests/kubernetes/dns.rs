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
    Guest, Kubelet, Pod, Process,
    components::{self, Component},
    control_plane::KUBERNETES_SERVICE,
    eventually,
    guest::Traffic,
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
fn start_dns(cluster: &Cluster, kubelet: &Kubelet<'_>, files: &Path) -> Result<(Pod, Process)> {
    let admin = cluster.control_plane.admin();
    admin.apply_yaml(include_str!("coredns.yaml"))?;
    let url = format!("https://{KUBERNETES_SERVICE}");
    let kubeconfig = cluster.control_plane.service_account_kubeconfig("kube-system", "coredns", &url)?;
    let corefile = files.join("Corefile");
    fs::write(&corefile, corefile_text(&kubeconfig))?;
    let object = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "coredns", "namespace": "kube-system", "labels": {"k8s-app": "kube-dns"}},
        "spec": {"containers": [{"name": "coredns", "image": "coredns"}]},
    });
    kubelet.run_pod(&object, |pod| {
        let mut command = Command::new(components::ensure(Component::CoreDns)?);
        command.arg("-conf").arg(&corefile);
        pod.netns().enter(&mut command);
        pod.cgroup().enter(&mut command)?;
        Process::spawn("coredns", command)
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
        let search = "default.svc.cluster.local svc.cluster.local cluster.local";
        fs::write(&resolv_conf, format!("nameserver {DNS}\nsearch {search}\noptions {options}\n"))?;
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
