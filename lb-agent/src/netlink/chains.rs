//! The news that nftables has another chain at a device, or one less (linux/netfilter/nf_tables.h). As in [`super::changes`], it
//! is a hint to look.

use std::{io, os::fd::OwnedFd};

use netlink_packet_core::NetlinkBuffer;
use rustix::{
    io::Errno,
    net::{Protocol, netlink},
};

use super::changes::listener;

const NETLINK_NETFILTER: Protocol = netlink::NETFILTER;
/// `NFNLGRP_NFTABLES`, the seventh group, in a set of groups (linux/netfilter/nfnetlink.h).
const GROUP: u32 = 1 << (7 - 1);
/// `NFNL_SUBSYS_NFTABLES`, in the upper half of a message's type.
pub(crate) const NFTABLES: u16 = 10 << 8;
pub(crate) const NFT_MSG_NEWCHAIN: u16 = NFTABLES | 3;
const NFT_MSG_DELCHAIN: u16 = NFTABLES | 5;
/// Since Linux 6.3.
const NFT_MSG_DESTROYCHAIN: u16 = NFTABLES | 27;
/// The family of chains at devices (linux/netfilter.h).
pub(crate) const NFPROTO_NETDEV: u8 = 5;
/// A transaction is told of in datagrams of up to so many bytes (`NLMSG_GOODSIZE`, `nft_commit_notify` in
/// net/netfilter/nf_tables_api.c), and a larger message by itself.
pub(super) const DATAGRAM: usize = 8 * 1024;

/// A socket that the kernel tells of all changes of nftables, in the calling thread's network namespace; none where the kernel has
/// no nfnetlink.
///
/// # Errors
/// The kernel gives no socket: there is no permission (CAP_NET_ADMIN).
pub(super) fn open() -> io::Result<Option<OwnedFd>> {
    match listener(Some(NETLINK_NETFILTER), GROUP) {
        Err(error) if error.raw_os_error() == Some(Errno::PROTONOSUPPORT.raw_os_error()) => Ok(None),
        opened => opened.map(Some),
    }
}

/// Whether a datagram says that a chain at a device came or went. Rules and elements of sets may change all the time.
pub(super) fn is_of_a_devices_chain(datagram: &[u8]) -> bool {
    let mut rest = datagram;
    while !rest.is_empty() {
        // What is cut off may be of such a chain.
        let Ok(message) = NetlinkBuffer::new_checked(rest) else { return true };
        let is_of_chain = matches!(message.message_type(), NFT_MSG_NEWCHAIN | NFT_MSG_DELCHAIN | NFT_MSG_DESTROYCHAIN);
        // `struct nfgenmsg` begins with the family.
        if is_of_chain && message.payload().first() == Some(&NFPROTO_NETDEV) {
            return true;
        }
        // NLMSG_ALIGN of netlink(7).
        let next = usize::try_from(message.length()).map_or(rest.len(), |length| length.next_multiple_of(4));
        rest = rest.get(next..).unwrap_or_default();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    const IPV4: u8 = 2;
    const NFT_MSG_NEWRULE: u16 = NFTABLES | 6;

    /// A message with some attributes.
    fn message(kind: u16, family: u8) -> Vec<u8> {
        let mut message = vec![0; 44];
        message[..4].copy_from_slice(&44_u32.to_ne_bytes());
        message[4..6].copy_from_slice(&kind.to_ne_bytes());
        message[16] = family;
        message
    }

    #[test]
    fn chains_at_devices_matter_wherever_they_are_in_a_transaction_and_nothing_else_does() {
        let others = [message(NFT_MSG_NEWCHAIN, IPV4), message(NFT_MSG_NEWRULE, NFPROTO_NETDEV)].concat();
        assert!(!is_of_a_devices_chain(&others));
        for kind in [NFT_MSG_NEWCHAIN, NFT_MSG_DELCHAIN, NFT_MSG_DESTROYCHAIN] {
            let datagram = [&others[..], &message(kind, NFPROTO_NETDEV), &others].concat();
            assert!(is_of_a_devices_chain(&datagram), "{kind:#x}");
        }
    }

    #[test]
    fn what_is_cut_off_may_matter() {
        let rule = message(NFT_MSG_NEWRULE, NFPROTO_NETDEV);
        assert!(is_of_a_devices_chain(&rule[..40]));
        assert!(is_of_a_devices_chain(&rule[..10]));
    }
}
