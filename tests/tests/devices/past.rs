//! Past which devices of pods packets go, straight into the pod's namespace. That they do is tested with the packets
//! themselves (`outside`).

use anyhow::{Context as _, Result};
use aya::programs::TcAttachType;
use lb_tests::{AgentSpec, Pod, eventually, kernel_objects::agent_object, poll::PATIENCE};

use crate::{
    Rig,
    filters::{attach_a_program, pin_a_program},
};

const PAST: &str = "pod, gone past";
const OUT: &str = "pod";

fn rig(hint: &str, flags: &[&str]) -> Result<Rig> {
    let args = ["--pod-devices", "veth*"].iter().chain(flags).map(Into::into).collect();
    Rig::start_with(hint, |spec| AgentSpec { args, ..spec.on_devices("auto") })
}

impl Rig {
    fn pods(&self, n: usize) -> Result<Vec<Pod>> {
        (0..n).map(|number| self.node.pod(&format!("pod{number}"))).collect()
    }

    fn role(&self, device: &str) -> Result<Option<String>> {
        Ok(self.devices()?.get(device).and_then(|device| device.role.clone()))
    }

    fn wait_for_role(&self, pod: &Pod, role: &str) -> Result<()> {
        eventually(&format!("the device of {} to be served as {role:?}", pod.name()), PATIENCE, || {
            Ok((self.role(pod.device())?.as_deref() == Some(role)).then_some(()))
        })
    }

    fn tc(&self, args: &[&str]) -> Result<()> {
        self.node.netns().output("tc", args).map(drop)
    }
}

#[test]
fn packets_go_past_a_pods_device_until_something_is_attached_on_the_way_out_of_it() -> Result<()> {
    let rig = rig("past", &[])?;
    // These come before the pods, and would be gone past before those are.
    let far = rig.outside.path().display();
    rig.node.netns().ip([
        "link add vethhere type veth peer name here".to_owned(),
        "link set vethhere up".to_owned(),
        "link set here up".to_owned(),
        format!("link add vethdown type veth peer name down netns {far}"),
        // One that was never up has a queueing discipline, too (noop).
        "link set vethdown up".to_owned(),
        "link set vethdown down".to_owned(),
    ])?;
    let pods = rig.pods(4)?;
    let [program, filter, queue, bare] = &pods[..] else { unreachable!("four pods") };
    rig.agent.wait_gone_past(&pods.iter().map(Pod::device).collect::<Vec<_>>())?;
    assert_eq!(rig.role("vethhere")?.as_deref(), Some(OUT), "its peer is on the node");
    assert_eq!(rig.role("vethdown")?.as_deref(), Some(OUT), "nothing leaves by it");

    let device = program.device();
    let _foreign = rig.node.netns().run(|| attach_a_program(device, TcAttachType::Egress))??;
    rig.tc(&["qdisc", "add", "dev", filter.device(), "clsact"])?;
    let pin = rig.node.bpffs().path().join("foreign");
    let pin = pin.to_str().context("not a text")?;
    pin_a_program(&agent_object(), pin)?;
    rig.tc(&["filter", "add", "dev", filter.device(), "egress", "bpf", "da", "pinned", pin])?;
    rig.tc(&["qdisc", "add", "dev", queue.device(), "root", "tbf", "rate", "1gbit", "burst", "1mb", "latency", "9ms"])?;
    for pod in [program, filter, queue] {
        rig.wait_for_role(pod, OUT)?;
    }
    assert_eq!(rig.role(bare.device())?.as_deref(), Some(PAST), "nothing came to its device");

    rig.tc(&["qdisc", "del", "dev", queue.device(), "root"])?;
    rig.wait_for_role(queue, PAST)?;

    let table = "add table netdev other; add chain netdev other out";
    let chain = format!("{table} {{ type filter hook egress device {} priority 0; }}", bare.device());
    rig.node.netns().output("nft", &[&chain])?;
    rig.wait_for_role(bare, OUT)
}

#[test]
fn packets_leave_by_the_devices_of_pods_where_the_flag_says_so() -> Result<()> {
    let rig = rig("device", &["--pod-delivery", "device"])?;
    let pods = rig.pods(1)?;
    rig.wait_for_role(&pods[0], OUT)
}
