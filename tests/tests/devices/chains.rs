//! The kernel's news of chains of nftables at devices.

use anyhow::{Context as _, Result};
use lb_agent::netlink::changes::{Changes, Of};
use lb_tests::{NetNs, poll::PATIENCE};
use tokio::{runtime::Builder, time::timeout};

#[test]
fn a_chain_at_a_device_is_told_of_when_it_comes_and_when_it_goes() -> Result<()> {
    let netns = NetNs::new("chains")?;
    let changes = netns.run(|| Changes::open(Of::DevicesAndChains))??;
    let chain = "add chain netdev other out { type filter hook egress device lo priority 0; }";
    let rule = "add rule netdev other out counter";
    let come = format!("add table netdev other; {chain}; {rule}");
    Builder::new_current_thread().enable_all().build()?.block_on(async {
        let changes = changes.listen()?;
        for command in [come.as_str(), "delete table netdev other"] {
            netns.output("nft", &[command])?;
            timeout(PATIENCE, changes.changed()).await.with_context(|| format!("not told of {command:?}"))??;
        }
        Ok(())
    })
}
