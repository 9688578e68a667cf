//! Netfilter is out of the path: with rules and connection tracking on the node, nothing of a Service address is seen.

use anyhow::{Context as _, Result};
use lb_tests::{
    guest::Traffic,
    netfilter::{conntrack, packets},
};

use crate::cluster::{Cluster, EVERY_TRAFFIC, POD_PORT, WEB4, WEB6, at};

/// Counts packets with Service addresses and with pod addresses at every hook, and makes conntrack look at all packets.
const RULES: &str = "
table inet watch {
    counter to_services {}
    counter to_pods {}
    chain count {
        ct state invalid accept
        ip daddr 10.96.0.0/16 counter name to_services
        ip saddr 10.96.0.0/16 counter name to_services
        ip6 daddr fd00:10:96::/64 counter name to_services
        ip6 saddr fd00:10:96::/64 counter name to_services
        ip daddr 10.244.0.0/16 counter name to_pods
        ip6 daddr fd00:10:244::/48 counter name to_pods
    }
    chain prerouting { type filter hook prerouting priority filter; jump count; }
    chain input { type filter hook input priority filter; jump count; }
    chain forward { type filter hook forward priority filter; jump count; }
    chain output { type filter hook output priority filter; jump count; }
    chain postrouting { type filter hook postrouting priority filter; jump count; }
}
";

#[test]
fn a_service_connection_moves_no_rule_counter_and_leaves_no_conntrack_entry() -> Result<()> {
    let cluster = Cluster::serving(&["a", "b", "c"])?;
    let rules = cluster.manifests.path().join("rules.nft");
    std::fs::write(&rules, RULES)?;
    let rules = rules.to_str().context("not a text")?;
    let host = cluster.node.host_process("kubelet")?;
    let watched = [cluster.node.netns(), cluster.client_pod.netns()];
    for netns in watched {
        netns.output("nft", &["-f", rules])?;
    }
    for client in [&cluster.client, &host] {
        for traffic in EVERY_TRAFFIC {
            for address in [at(WEB4), at(WEB6)] {
                client.ask(traffic, address)?;
            }
        }
    }
    for netns in watched {
        assert_eq!(packets(netns, "to_services")?, 0);
        assert!(packets(netns, "to_pods")? > 0, "the rules see nothing at all");
        let tracked = conntrack(netns)?;
        assert!(tracked.contains(&format!("dport={POD_PORT}")), "connection tracking sees nothing at all: {tracked}");
        assert!(!tracked.contains(&WEB4.to_string()) && !tracked.contains(&WEB6.to_string()), "{tracked}");
    }
    Ok(())
}

#[test]
fn the_rules_do_see_a_service_address_that_is_not_translated() -> Result<()> {
    let cluster = Cluster::serving(&["a"])?;
    let rules = cluster.manifests.path().join("rules.nft");
    std::fs::write(&rules, RULES)?;
    cluster.node.netns().output("nft", &["-f", rules.to_str().context("not a text")?])?;
    let nobody = std::net::SocketAddr::from(([10, 96, 0, 99], 80));
    assert!(cluster.client.ask(Traffic::Tcp, nobody).is_err());
    assert!(packets(cluster.node.netns(), "to_services")? > 0);
    Ok(())
}
