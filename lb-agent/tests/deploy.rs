//! The manifests of `deploy/` against what the agent accepts and needs. No cluster: they are read as the API's types.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::{
    api::{
        apps::v1::DaemonSet,
        core::v1::{Container, PodSpec, ServiceAccount},
        rbac::v1::{ClusterRole, ClusterRoleBinding},
    },
    apimachinery::pkg::util::intstr::IntOrString,
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

fn deploy() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy")
}

fn documents(file: &Path) -> Result<Vec<Value>> {
    let text = fs::read_to_string(file).with_context(|| file.display().to_string())?;
    text.split("\n---\n").map(|text| Ok(serde_saphyr::from_str(text)?)).collect()
}

/// The objects of every file that a kustomization names, by kind.
fn objects(directory: &Path) -> Result<BTreeMap<String, Value>> {
    let mut objects = BTreeMap::new();
    for kustomization in documents(&directory.join("kustomization.yaml"))? {
        for file in kustomization["resources"].as_array().context("resources")? {
            for object in documents(&directory.join(file.as_str().context("a file name")?))? {
                objects.insert(object["kind"].as_str().context("a kind")?.to_owned(), object);
            }
        }
    }
    Ok(objects)
}

/// One object as Kubernetes decodes it when it is strict: fields that the type does not have are an error.
fn object<T: DeserializeOwned + Serialize>(directory: &Path, kind: &str) -> Result<T> {
    let written = objects(directory)?.remove(kind).with_context(|| format!("no {kind}"))?;
    let typed: T = serde_json::from_value(written.clone()).context(kind.to_owned())?;
    let understood = serde_json::to_value(&typed)?;
    ensure!(understood == written, "of {kind}\n{written:#}\nKubernetes knows only\n{understood:#}");
    Ok(typed)
}

fn pod(daemonset: &DaemonSet) -> Result<&PodSpec> {
    daemonset.spec.as_ref().and_then(|spec| spec.template.spec.as_ref()).context("a pod template")
}

fn agent(daemonset: &DaemonSet) -> Result<&Container> {
    pod(daemonset)?.containers.first().context("a container")
}

fn args(container: &Container) -> Vec<&str> {
    container.args.iter().flatten().map(String::as_str).collect()
}

fn mounts(container: &Container) -> BTreeSet<&str> {
    container.volume_mounts.iter().flatten().map(|mount| mount.mount_path.as_str()).collect()
}

/// Help of a command of the agent, which names every flag with its default and its environment variable.
fn help(args: &[&str]) -> Result<String> {
    let output = Command::new(env!("CARGO_BIN_EXE_lb-agent")).args(args).arg("--help").output()?;
    ensure!(output.status.success(), "lb-agent {args:?} --help: {output:?}");
    Ok(String::from_utf8(output.stdout)?)
}

#[test]
fn the_daemonset_sets_only_variables_and_commands_that_the_agent_knows() -> Result<()> {
    let daemonset: DaemonSet = object(&deploy(), "DaemonSet")?;
    let container = agent(&daemonset)?;
    let help = help(&args(container))?;
    let set = container.env.iter().flatten().map(|variable| variable.name.as_str());
    // The last is what the manifest's comment and docs/getting-started.md tell to put into the ConfigMap.
    for name in set.chain(["LB_API_SERVERS"]) {
        assert!(help.contains(&format!("[env: {name}=")), "{name}: {help}");
    }
    Ok(())
}

#[test]
fn probes_ask_where_the_agent_serves_health_by_default() -> Result<()> {
    let daemonset: DaemonSet = object(&deploy(), "DaemonSet")?;
    let container = agent(&daemonset)?;
    let ports = container.ports.iter().flatten();
    let port = ports.filter(|port| port.name.as_deref() == Some("healthz")).map(|port| port.container_port).next();
    let port = port.context("a port for the probes")?;
    assert!(help(&["run"])?.contains(&format!("[default: 0.0.0.0:{port}]")));
    for (probe, path) in [(&container.readiness_probe, "/healthz"), (&container.liveness_probe, "/livez")] {
        let get = probe.as_ref().and_then(|probe| probe.http_get.as_ref()).context("a probe by HTTP")?;
        assert_eq!((get.path.as_deref(), &get.port), (Some(path), &IntOrString::String("healthz".to_owned())));
    }
    Ok(())
}

#[test]
fn the_agent_sees_the_nodes_cgroups_and_pins_and_not_its_own_containers() -> Result<()> {
    let daemonset: DaemonSet = object(&deploy(), "DaemonSet")?;
    let container = agent(&daemonset)?;
    let root = container.env.iter().flatten().find(|variable| variable.name == "LB_CGROUP_ROOT");
    let root = root.and_then(|variable| variable.value.as_deref()).context("a cgroup root")?;
    assert_eq!(mounts(container), BTreeSet::from([root, "/sys/fs/bpf"]));
    assert_ne!(root, "/sys/fs/cgroup", "a container's own cgroup is there");
    // The self-test makes a cgroup below the root, and pins are made in the other.
    for mount in container.volume_mounts.iter().flatten() {
        assert_ne!(mount.read_only, Some(true), "{}", mount.name);
    }
    assert_eq!(pod(&daemonset)?.host_network, Some(true));
    // What it looks for below that root are the network namespaces of the processes there.
    assert_eq!(pod(&daemonset)?.host_pid, Some(true));
    assert!(help(&["run"])?.contains("[default: /sys/fs/bpf]"));
    Ok(())
}

#[test]
fn the_agent_may_read_what_it_watches_and_do_nothing_else() -> Result<()> {
    let daemonset: DaemonSet = object(&deploy(), "DaemonSet")?;
    let binding: ClusterRoleBinding = object(&deploy(), "ClusterRoleBinding")?;
    let role: ClusterRole = object(&deploy(), "ClusterRole")?;
    assert_eq!(Some(&binding.role_ref.name), role.metadata.name.as_ref());
    let subject = binding.subjects.iter().flatten().next().context("a subject")?;
    assert_eq!(Some(&subject.name), pod(&daemonset)?.service_account_name.as_ref());
    assert_eq!(subject.namespace, daemonset.metadata.namespace);
    let account: ServiceAccount = object(&deploy(), "ServiceAccount")?;
    assert_eq!(
        (account.metadata.name.as_ref(), account.metadata.namespace),
        (Some(&subject.name), subject.namespace.clone())
    );
    let rules: Vec<Value> = role.rules.iter().flatten().map(serde_json::to_value).collect::<Result<_, _>>()?;
    let read = |group: &str, resources: &[&str]| serde_json::json!({"apiGroups": [group], "resources": resources, "verbs": ["list", "watch"]});
    assert_eq!(rules, [read("", &["services", "nodes", "pods"]), read("discovery.k8s.io", &["endpointslices"])]);
    Ok(())
}

#[test]
fn both_daemonsets_run_the_image_of_this_version() -> Result<()> {
    let image = concat!("localhost/lb-agent:", env!("CARGO_PKG_VERSION"));
    let daemonset: DaemonSet = object(&deploy(), "DaemonSet")?;
    assert_eq!(agent(&daemonset)?.image.as_deref(), Some(image));
    let cleanup: DaemonSet = object(&deploy().join("cleanup"), "DaemonSet")?;
    let container = pod(&cleanup)?.init_containers.iter().flatten().next().context("an init container")?;
    assert_eq!(container.image.as_deref(), Some(image));
    assert_eq!(mounts(container), BTreeSet::from(["/sys/fs/bpf"]));
    help(&args(container)).map(|_| ())
}
