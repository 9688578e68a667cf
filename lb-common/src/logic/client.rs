//! Who asks for a backend: at the socket a network namespace, for there is no source address yet; in the packet layer an
//! address. That is the whole difference between the two for the choice of a backend.

use super::seam::{Caller, Maps};
use crate::abi::{Family, client_kind};

/// The one that a choice is made for.
pub trait Client<F: Family, K>: Copy {
    /// See [`client_kind`].
    const KIND: u16;
    /// As [`crate::abi::AffinityKey::client`] has it.
    fn id(self, kernel: &K) -> [u8; 16];
    /// Its address, if that is known.
    fn addr(self, kernel: &K) -> Option<F::Addr>;
}

/// The network namespace of the process that made the system call: a pod, or the node.
#[derive(Clone, Copy, Debug)]
pub struct Namespace;

impl<F: Family, K: Maps<F> + Caller> Client<F, K> for Namespace {
    const KIND: u16 = client_kind::NETNS;

    #[inline(always)]
    fn id(self, kernel: &K) -> [u8; 16] {
        let [a, b, c, d, e, f, g, h] = kernel.netns().to_ne_bytes();
        [a, b, c, d, e, f, g, h, 0, 0, 0, 0, 0, 0, 0, 0]
    }

    #[inline(always)]
    fn addr(self, kernel: &K) -> Option<F::Addr> {
        kernel.client(kernel.netns()).map(|client| client.addr)
    }
}

/// The source of a packet.
#[derive(Clone, Copy, Debug)]
pub struct Address<F: Family>(pub F::Addr);

impl<F: Family, K> Client<F, K> for Address<F> {
    const KIND: u16 = client_kind::ADDRESS;

    #[inline(always)]
    fn id(self, _: &K) -> [u8; 16] {
        F::padded(self.0)
    }

    #[inline(always)]
    fn addr(self, _: &K) -> Option<F::Addr> {
        Some(self.0)
    }
}
