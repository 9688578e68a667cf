//! A glance at a packet: what its first bytes say where they look as they do nearly always. As [`super::headers`] has it, but
//! cheaper, and with "unclear" for an answer.

use super::{
    Packet,
    headers::{Ip, is_extension},
};
use crate::abi::{Endpoint, Family, Proto, V4, V6};

const TCP: u8 = Proto::Tcp.number();
const UDP: u8 = Proto::Udp.number();

/// What a glance shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Glance<F: Family> {
    /// A TCP segment or UDP datagram, whole.
    Ends {
        /// Where it comes from.
        src: Endpoint<F>,
        /// Where it goes.
        dst: Endpoint<F>,
    },
    /// Neither that nor a fragment nor an ICMP error: nothing that is ever translated.
    Other {
        /// Where it goes.
        dst: F::Addr,
    },
    /// Anything: options, fragments, errors, a packet in pieces.
    Unclear,
}

/// A family whose packets can be glanced at.
pub trait Glanced: Ip {
    /// Glances.
    fn glance<P: Packet>(packet: &P) -> Glance<Self>;
}

/// From the protocol that follows a header without options, the addresses, and the first word after the header.
#[inline(always)]
fn beyond<F: Ip>(proto: u8, src: F::Addr, dst: F::Addr, word: u32) -> Glance<F> {
    let [a, b, c, d] = word.to_ne_bytes();
    match proto {
        TCP | UDP => Glance::Ends {
            src: Endpoint { addr: src, port: u16::from_be_bytes([a, b]) },
            dst: Endpoint { addr: dst, port: u16::from_be_bytes([c, d]) },
        },
        icmp if icmp == F::ICMP && F::is_icmp_error(a) => Glance::Unclear,
        _ => Glance::Other { dst },
    }
}

impl Glanced for V4 {
    #[inline(always)]
    fn glance<P: Packet>(packet: &P) -> Glance<V4> {
        /// Version 4, five words: no options.
        const PLAIN: u8 = 0x45;
        /// "More fragments", and the offset.
        const FRAGMENT: u32 = u32::from_ne_bytes([0, 0, 0x3f, 0xff]);
        let Some([first, fragment, third, src, dst, beyond_header]) = packet.peek() else {
            return Glance::Unclear;
        };
        let [version, ..] = first.to_ne_bytes();
        if version != PLAIN || fragment & FRAGMENT != 0 {
            return Glance::Unclear;
        }
        let [_, proto, ..] = third.to_ne_bytes();
        beyond(proto, V4::from_words([src]), V4::from_words([dst]), beyond_header)
    }
}

impl Glanced for V6 {
    #[inline(always)]
    fn glance<P: Packet>(packet: &P) -> Glance<V6> {
        let Some([first, second, a, b, c, d, e, f, g, h, beyond_header]) = packet.peek() else {
            return Glance::Unclear;
        };
        let ([version, ..], [_, _, next, _]) = (first.to_ne_bytes(), second.to_ne_bytes());
        if version >> 4 != 6 || is_extension(next) {
            return Glance::Unclear;
        }
        beyond(next, V6::from_words([a, b, c, d]), V6::from_words([e, f, g, h]), beyond_header)
    }
}
