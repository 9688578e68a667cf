//! Netfilter is out of the path where the pods' devices have programs, too: with rules and connection tracking on the node,
//! nothing of a Service is seen there.

use anyhow::{Context as _, Result};
use lb_tests::{
    Layout, NetNs,
    guest::Traffic,
    netfilter::{conntrack, packets},
};

use crate::world::{Offload, World};

/// Counts packets of the Service, translated or not, at every hook, and makes conntrack look at all packets.
const RULES: &str = "
table inet watch {
    counter of_web {}
    counter of_others {}
    chain count {
        ct state invalid accept
        th dport { 30080, 8080 } counter name of_web return
        th sport { 30080, 8080 } counter name of_web return
        ip daddr { 10.96.0.10, 198.51.100.10, 198.51.100.80 } counter name of_web return
        ip6 daddr { fd00:10:96::10, 2001:db8:e::10, 2001:db8:e::80 } counter name of_web return
        counter name of_others
    }
    chain prerouting { type filter hook prerouting priority filter; meta l4proto { tcp, udp } jump count; }
    chain input { type filter hook input priority filter; meta l4proto { tcp, udp } jump count; }
    chain forward { type filter hook forward priority filter; meta l4proto { tcp, udp } jump count; }
    chain output { type filter hook output priority filter; meta l4proto { tcp, udp } jump count; }
    chain postrouting { type filter hook postrouting priority filter; meta l4proto { tcp, udp } jump count; }
}
";

#[test]
fn service_traffic_moves_no_rule_counter_and_leaves_no_conntrack_entry() -> Result<()> {
    for layout in [Layout::PointToPoint, Layout::Bridge] {
        let world = World::new(layout, Offload::On)?;
        let node = world.nodes[0].netns();
        bridges_filter_nothing(node)?;
        // Neighbours are known from here on: to find one is the stack's business.
        use_web(&world)?;
        let rules = tempfile::NamedTempFile::new()?;
        std::fs::write(rules.path(), RULES)?;
        node.output("nft", &["-f", rules.path().to_str().context("not a text")?])?;
        use_web(&world)?;
        assert_eq!(packets(node, "of_web")?, 0, "{layout:?}");
        let tracked = conntrack(node)?;
        assert!(!tracked.contains("port=30080") && !tracked.contains("port=8080"), "{layout:?}: {tracked}");
        // The overlay's own packets are the node's.
        assert!(packets(node, "of_others")? > 0, "the rules see nothing at all");
    }
    Ok(())
}

/// Where the module br_netfilter is loaded, a bridge hands frames to netfilter before any program of it sees them.
fn bridges_filter_nothing(netns: &NetNs) -> Result<()> {
    if std::path::Path::new("/proc/sys/net/bridge").exists() {
        netns.sysctl("net/bridge/bridge-nf-call-iptables", "0")?;
        netns.sysctl("net/bridge/bridge-nf-call-ip6tables", "0")?;
    }
    Ok(())
}

fn use_web(world: &World) -> Result<()> {
    for to in world.frontends() {
        for traffic in [Traffic::Tcp, Traffic::UdpConnected] {
            for _ in 0..20 {
                world.client.ask(traffic, to)?;
            }
        }
    }
    Ok(())
}
