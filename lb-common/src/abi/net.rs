//! Transport protocol and address-with-port: the vocabulary of the other layouts. Not a map layout itself.

use super::Family;

/// A transport protocol, as its IP protocol number (IANA).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Proto {
    /// TCP, 6.
    Tcp = 6,
    /// UDP, 17.
    Udp = 17,
}

impl Proto {
    /// From an IP protocol number; `None` for what no hook of ours translates.
    #[inline(always)]
    pub fn from_number(n: u8) -> Option<Self> {
        match n {
            6 => Some(Self::Tcp),
            17 => Some(Self::Udp),
            _ => None,
        }
    }

    /// The IP protocol number.
    #[inline(always)]
    pub const fn number(self) -> u8 {
        self as u8
    }
}

/// An address and a port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Endpoint<F: Family> {
    /// Wire order.
    pub addr: F::Addr,
    /// Host byte order.
    pub port: u16,
}
