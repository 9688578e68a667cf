//! The programs that people reach for first: iperf3, dig and ping, from outside, to pods near and far.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    process::Command,
};

use anyhow::{Context as _, Result, bail};
use lb_tests::{
    NetNs, Pod, Process,
    components::{self, Component},
    eventually,
    guest::Proto,
    manifests::Service,
    poll::PATIENCE,
};
use serde_json::{Value, json};

use crate::world::{CLUSTER, EXTERNAL, VARIANTS, World};

/// iperf3's own.
const IPERF: u16 = 5201;
const DNS: u16 = 53;
/// Of the Service `tools`.
const TOOLS: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(10, 96, 0, 11)), IpAddr::V6(Ipv6Addr::new(0xfd00, 0x10, 0x96, 0, 0, 0, 0, 0x11))];
/// How many addresses the name `many.test` has: an answer of more than one packet.
const MANY: usize = 120;

/// The servers of one pod; they end with this.
struct Servers {
    _processes: [Process; 2],
    _corefile: tempfile::NamedTempFile,
}

fn serve(pod: &Pod) -> Result<Servers> {
    let addresses = (1..=MANY).map(|n| format!("  192.0.2.{n} many.test\n"));
    let corefile = tempfile::NamedTempFile::new()?;
    let text = format!(".:{DNS} {{\n hosts {{\n{} }}\n}}\n", addresses.collect::<String>());
    std::fs::write(corefile.path(), text)?;
    let mut dns = Command::new(components::ensure(Component::CoreDns)?);
    dns.arg("-conf").arg(corefile.path());
    let mut iperf = Command::new("iperf3");
    iperf.args(["--server", "--port", &IPERF.to_string()]);
    for command in [&mut dns, &mut iperf] {
        pod.netns().enter(command);
    }
    let processes = [Process::spawn("coredns-outside", dns)?, Process::spawn("iperf3", iperf)?];
    Ok(Servers { _processes: processes, _corefile: corefile })
}

/// `tools`, by its own addresses and by those that `web` has other ports of.
fn tools(pod: &Pod) -> Service {
    Service::new("tools", &TOOLS)
        .port("iperf", Proto::Tcp, IPERF, IPERF)
        .port("iperf-datagrams", Proto::Udp, IPERF, IPERF)
        .port("dns", Proto::Udp, DNS, DNS)
        .port("dns-tcp", Proto::Tcp, DNS, DNS)
        .with(&json!({"externalIPs": EXTERNAL}))
        .to(&[pod])
}

/// What iperf3 sums up at the receiver's end.
fn iperf(machine: &NetNs, to: IpAddr, more: &[&str]) -> Result<Value> {
    let (to, port) = (to.to_string(), IPERF.to_string());
    let args = ["--client", &to, "--port", &port, "--json"];
    let text = machine.output("iperf3", &[&args, more].concat())?;
    let end = &serde_json::from_str::<Value>(&text).context("iperf3's JSON")?["end"];
    let sum = if more.contains(&"--udp") { &end["sum"] } else { &end["sum_received"] };
    Ok(sum.clone())
}

fn dig(machine: &NetNs, to: IpAddr, more: &[&str]) -> Result<usize> {
    let at = format!("@{to}");
    let args = [&at, "many.test", "A", "+short", "+tries=1", "+time=5", "+bufsize=4096", "+ignore"];
    let text = machine.output("dig", &[&args, more].concat())?;
    Ok(text.lines().filter(|line| line.starts_with("192.0.2.")).count())
}

fn try_all(world: &World, to: IpAddr) -> Result<()> {
    let machine = world.outside.machine();
    eventually(&format!("dig to be answered by {to}"), PATIENCE, || Ok(dig(machine, to, &[]).ok()))?;
    // In one datagram, which is cut on the way, and by TCP.
    for more in ["+notcp", "+tcp"] {
        assert_eq!(dig(machine, to, &[more])?, MANY, "{to} {more}");
    }
    for direction in [&[][..], &["--reverse"]] {
        let stream = iperf(machine, to, &[&["--parallel", "2", "--bytes", "20M"], direction].concat())?;
        let bytes = stream["bytes"].as_u64().with_context(|| format!("no bytes in {stream}"))?;
        // What is on its way when the sender has sent all is not counted.
        assert!(bytes > 1_000_000, "{to} {direction:?}: {stream}");
        let datagrams = ["--udp", "--bytes", "1M", "--bitrate", "20M", "--length", "1200"];
        let datagrams = iperf(machine, to, &[&datagrams, direction].concat())?;
        let number = |field: &str| datagrams[field].as_u64().with_context(|| format!("no {field} in {datagrams}"));
        let (sent, lost) = (number("packets")?, number("lost_packets")?);
        assert!(sent > 100 && lost * 10 < sent, "{to} {direction:?}: {datagrams}");
    }
    Ok(())
}

#[test]
fn iperf3_and_dig_work_through_a_service_to_local_and_remote_pods() -> Result<()> {
    for (layout, offload) in VARIANTS {
        let world = World::new(layout, offload)?;
        for ip in TOOLS {
            world.outside.announce(ip, &world.nodes[0])?;
        }
        for backend in [0, 2] {
            let pod = &world.pods[backend];
            let _servers = serve(pod)?;
            world.manifests.write("tools", &[&tools(pod)])?;
            for to in TOOLS.into_iter().chain(EXTERNAL) {
                try_all(&world, to).with_context(|| format!("{layout:?}, offload {offload:?}, pod {backend}, {to}"))?;
            }
        }
    }
    Ok(())
}

/// How many of three echoes come back, and what ping says.
fn ping(machine: &NetNs, to: IpAddr) -> Result<(usize, String)> {
    let output = machine.command("ping").args(["-n", "-c", "3", "-i", "0.2", "-W", "5", &to.to_string()]).output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if text.is_empty() {
        bail!("ping {to}: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok((text.lines().filter(|line| line.contains("bytes from")).count(), text))
}

#[test]
fn ping_is_answered_by_the_node_and_told_at_once_that_a_clusterip_is_no_machine() -> Result<()> {
    for (layout, offload) in VARIANTS {
        let world = World::new(layout, offload)?;
        let machine = world.outside.machine();
        for to in world.node_port().map(|at: SocketAddr| at.ip()) {
            let (answers, text) = ping(machine, to)?;
            assert_eq!(answers, 3, "{layout:?}, {offload:?}: {text}");
        }
        for to in CLUSTER {
            let (answers, text) = ping(machine, to)?;
            assert_eq!(answers, 0, "{layout:?}, {offload:?}: {text}");
            assert!(text.to_lowercase().contains("port unreachable"), "{layout:?}, {offload:?}: {text}");
        }
    }
    Ok(())
}
