//! Whether nftables has chains at the egress of devices, asked by nfnetlink (linux/netfilter/nfnetlink.h). Decides nothing.

use std::io;

use netlink_packet_core::{NLM_F_DUMP, NetlinkDeserializable, NetlinkHeader, NetlinkPayload, NetlinkSerializable};
use netlink_sys::protocols::NETLINK_NETFILTER;
use rustix::io::Errno;

use super::delivery::Chains;
use crate::netlink::{
    Conversation, attribute,
    chains::{NFPROTO_NETDEV, NFT_MSG_NEWCHAIN, NFTABLES},
};

/// See linux/netfilter/nf_tables.h.
const NFT_MSG_GETCHAIN: u16 = NFTABLES | 4;
/// Where a chain is attached: an attribute with attributes, of which one is the hook's number, in network byte order.
const NFTA_CHAIN_HOOK: u16 = 4;
const NFTA_HOOK_HOOKNUM: u16 = 1;
const NF_NETDEV_EGRESS: u32 = 1;
/// Of `struct nfgenmsg`: family, version, two bytes more.
const HEADER: [u8; 4] = [NFPROTO_NETDEV, 0, 0, 0];

/// A message of nftables, as bytes.
struct Message {
    kind: u16,
    bytes: Vec<u8>,
}

impl NetlinkSerializable for Message {
    fn message_type(&self) -> u16 {
        self.kind
    }

    fn buffer_len(&self) -> usize {
        self.bytes.len()
    }

    fn serialize(&self, buffer: &mut [u8]) {
        buffer.copy_from_slice(&self.bytes);
    }
}

impl From<Message> for NetlinkPayload<Message> {
    fn from(message: Message) -> Self {
        Self::InnerMessage(message)
    }
}

impl NetlinkDeserializable for Message {
    type Error = std::convert::Infallible;

    fn deserialize(header: &NetlinkHeader, payload: &[u8]) -> Result<Self, Self::Error> {
        Ok(Self { kind: header.message_type, bytes: payload.to_vec() })
    }
}

/// Of any device of the calling thread's network namespace.
pub fn egress_chains() -> Chains {
    match has_egress_chains() {
        Ok(true) => Chains::Some,
        Ok(false) => Chains::None,
        Err(error) => Chains::Unknown(error.to_string()),
    }
}

fn has_egress_chains() -> io::Result<bool> {
    let mut kernel = match Conversation::open(NETLINK_NETFILTER) {
        Err(error) if error.raw_os_error() == Some(Errno::PROTONOSUPPORT.raw_os_error()) => return Ok(false),
        opened => opened?,
    };
    kernel.send(Message { kind: NFT_MSG_GETCHAIN, bytes: HEADER.to_vec() }, NLM_F_DUMP)?;
    let mut found = false;
    let told = kernel.replies(|message: io::Result<Message>| {
        found |= message.is_ok_and(|message| message.kind == NFT_MSG_NEWCHAIN && is_at_egress(&message.bytes));
        Ok(())
    });
    match told {
        // There is no such part of nfnetlink (`nfnetlink_rcv_msg`), so there are no chains.
        Err(error) if error.raw_os_error() == Some(Errno::INVAL.raw_os_error()) => Ok(false),
        told => told.map(|()| found),
    }
}

/// Whether a chain is attached at egress. One whose place cannot be read may be.
fn is_at_egress(message: &[u8]) -> bool {
    let chain = message.get(HEADER.len()..).unwrap_or_default();
    let Some(hook) = attribute(chain, NFTA_CHAIN_HOOK) else {
        return false;
    };
    let number = attribute(hook, NFTA_HOOK_HOOKNUM).and_then(|number| number.try_into().ok());
    number.is_none_or(|number| u32::from_be_bytes(number) == NF_NETDEV_EGRESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attribute_of(kind: u16, value: &[u8]) -> Vec<u8> {
        let length = u16::try_from(4 + value.len()).unwrap();
        [&length.to_ne_bytes()[..], &kind.to_ne_bytes()[..], value].concat()
    }

    /// A chain whose hook has these attributes.
    fn at_hook(attributes: &[u8]) -> Vec<u8> {
        const NESTED: u16 = 0x8000;
        [&HEADER[..], &attribute_of(3, b"name"), &attribute_of(NFTA_CHAIN_HOOK | NESTED, attributes)].concat()
    }

    #[test]
    fn a_chain_is_at_egress_by_its_hooks_number_and_none_without_a_hook() {
        let hook = |number: u32| at_hook(&attribute_of(NFTA_HOOK_HOOKNUM, &number.to_be_bytes()));
        assert!(is_at_egress(&hook(NF_NETDEV_EGRESS)));
        assert!(!is_at_egress(&hook(0)), "ingress");
        assert!(!is_at_egress(&[&HEADER[..], &attribute_of(3, b"name")].concat()), "a chain to jump to");
        assert!(is_at_egress(&at_hook(&[])), "a hook that is not understood");
    }
}
