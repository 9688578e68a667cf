//! The whole chain: a Deployment, its pods, a Service with a selector, the EndpointSlice controller, the agent, a client.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Result, ensure};
use lb_tests::{
    Guest, Kubelet, eventually,
    guest::{Target, Traffic, errno},
    poll::PATIENCE,
};
use serde_json::json;

use crate::{
    Cluster,
    objects::{deployment, service},
    wait_for_answers_from,
};

#[test]
fn service_of_a_deployment_leads_to_all_its_pods_at_every_scale() -> Result<()> {
    let cluster = Cluster::start()?;
    let admin = cluster.control_plane.admin();
    let mut kubelet = Kubelet::register(&cluster.node, admin)?;
    let web = Web::new()?;
    admin.apply(&deployment(3))?;
    admin.apply(&service([web.v4, web.v6]))?;
    kubelet.sync_until_running(3)?;
    let _agent = cluster.start_agent()?;
    let pod = cluster.node.pod("client")?;
    let client = pod.guest()?;
    web.wait_for_answers_from(&kubelet.pod_names(), &client)?;

    admin.apply(&deployment(1))?;
    kubelet.sync_until_running(1)?;
    web.wait_for_answers_from(&kubelet.pod_names(), &client)?;

    admin.apply(&deployment(0))?;
    kubelet.sync_until_running(0)?;
    web.wait_for_refusal(&client)?;

    admin.apply(&deployment(3))?;
    kubelet.sync_until_running(3)?;
    web.wait_for_answers_from(&kubelet.pod_names(), &client)
}

#[test]
fn the_kubelet_takes_it_calmly_that_a_pod_is_gone_before_it_could_start() -> Result<()> {
    let cluster = Cluster::start()?;
    let admin = cluster.control_plane.admin();
    let mut kubelet = Kubelet::register(&cluster.node, admin)?;
    admin.apply(&deployment(1))?;
    let listed = eventually("a pod", PATIENCE, || Ok(Some(kubelet.list()?).filter(|pods| !pods.is_empty())))?;
    admin.apply(&deployment(0))?;
    eventually("no pod", PATIENCE, || Ok(kubelet.list()?.is_empty().then_some(())))?;

    kubelet.follow(&listed)?;

    ensure!(kubelet.pod_names().is_empty(), "these run: {:?}", kubelet.pod_names());
    Ok(())
}

#[test]
fn the_kubelet_takes_it_calmly_that_a_pod_is_being_deleted_before_it_could_start() -> Result<()> {
    let cluster = Cluster::start()?;
    let admin = cluster.control_plane.admin();
    let mut kubelet = Kubelet::register(&cluster.node, admin)?;
    admin.apply(&deployment(1))?;
    let listed = eventually("a pod", PATIENCE, || Ok(Some(kubelet.list()?).filter(|pods| !pods.is_empty())))?;
    let name = listed[0].metadata.name.as_deref().unwrap_or_default();
    // Held, so that it stays in that state.
    admin.apply(&json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": "default", "finalizers": ["lb-tests.example/hold"]},
    }))?;
    kubelet.delete_pod("default", name, 0)?;

    kubelet.follow(&listed)?;

    ensure!(kubelet.pod_names().is_empty(), "these run: {:?}", kubelet.pod_names());
    Ok(())
}

/// The Service `web`, as clients reach it.
struct Web {
    v4: IpAddr,
    v6: IpAddr,
}

impl Web {
    fn new() -> Result<Self> {
        Ok(Self { v4: "10.96.0.100".parse()?, v6: "fd00:10:96::100".parse()? })
    }

    fn ways(&self) -> [(Traffic, Target); 4] {
        let (tcp4, udp4) = (SocketAddr::new(self.v4, 80), SocketAddr::new(self.v4, 90));
        [
            (Traffic::Tcp, tcp4.into()),
            (Traffic::Tcp, Target::v4_in_v6(tcp4)),
            (Traffic::Tcp, SocketAddr::new(self.v6, 80).into()),
            (Traffic::UdpUnconnected, udp4.into()),
        ]
    }

    fn wait_for_answers_from(&self, pods: &[String], client: &Guest) -> Result<()> {
        self.ways().into_iter().try_for_each(|(traffic, target)| wait_for_answers_from(pods, client, traffic, target))
    }

    fn wait_for_refusal(&self, client: &Guest) -> Result<()> {
        for (traffic, target) in self.ways() {
            eventually(&format!("ECONNREFUSED at {target:?}"), PATIENCE, || {
                let answer = client.ask(traffic, target);
                Ok(answer.is_err_and(|error| errno(&error) == "ECONNREFUSED").then_some(()))
            })?;
        }
        Ok(())
    }
}
