//! The watch on this node's addresses, with a real kernel.

use std::{collections::BTreeSet, net::IpAddr, time::Duration};

use anyhow::{Context as _, Result};
use lb_agent::{
    event::Event,
    watch::{Message, addresses::Addresses},
};
use lb_tests::netns::NetNs;
use tokio::{sync::mpsc, time::timeout};

/// For the kernel to tell of a change.
const DEADLINE: Duration = Duration::from_secs(10);

/// The next state that is told.
async fn told(messages: &mut mpsc::Receiver<Message>) -> Result<BTreeSet<IpAddr>> {
    match timeout(DEADLINE, messages.recv()).await?.context("the watch ended")? {
        Message::Event(Event::AddressesChanged(addresses)) => Ok(addresses),
        other => anyhow::bail!("{other:?}"),
    }
}

/// Follows the addresses of `netns` while commands change them.
async fn follow(netns: &NetNs) -> Result<()> {
    let (tx, mut messages) = mpsc::channel(1);
    let watch = tokio::spawn(Addresses::open()?.run(tx));
    let loopback: BTreeSet<IpAddr> = ["127.0.0.1".parse()?, "::1".parse()?].into();
    assert_eq!(told(&mut messages).await?, loopback);

    netns.ip([
        "link add d0 type veth peer name d1",
        "link set d0 up",
        "link set d1 up",
        "address add 192.0.2.1/24 dev d0",
    ])?;
    let mut expected = loopback.clone();
    expected.insert("192.0.2.1".parse()?);
    // The link-local address that the interface got as well is nobody's.
    assert_eq!(told(&mut messages).await?, expected);
    netns.ip(["address add 2001:db8::1/64 dev d0 nodad"])?;
    expected.insert("2001:db8::1".parse()?);
    assert_eq!(told(&mut messages).await?, expected);

    // More at once than a reader who waits is told of one by one: the last state counts.
    let many = (1..=200).flat_map(|i| {
        [format!("address add 198.51.100.{i}/24 dev d0"), format!("address del 198.51.100.{i}/24 dev d0")]
    });
    netns.ip(many.chain(["link del d0".to_owned()]))?;
    while told(&mut messages).await? != loopback {}

    drop(messages);
    timeout(DEADLINE, watch).await???;
    Ok(())
}

#[test]
fn every_change_of_an_interfaces_addresses_is_told_and_the_last_state_counts() -> Result<()> {
    let netns = NetNs::new("addresses")?;
    netns.run(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(follow(&netns))
    })?
}
