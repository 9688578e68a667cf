//! An Ethernet frame for test runs: IPv4 with a TCP segment without data, an acknowledgement. Its TCP checksum is not
//! right: programs update checksums and never verify them.

use std::net::SocketAddrV4;

/// Of those that RFC 3692 leaves for experiments.
pub(super) const UNKNOWN_PROTOCOL: u8 = 253;

/// What the frame says.
#[derive(Clone, Copy, Debug)]
pub(super) struct Frame {
    /// The device that it is for.
    pub(super) to: [u8; 6],
    pub(super) src: SocketAddrV4,
    pub(super) dst: SocketAddrV4,
    /// What the IPv4 header says.
    pub(super) protocol: u8,
}

impl Frame {
    pub(super) fn bytes(&self) -> Vec<u8> {
        let from = [2, 0, 0, 0, 0, 0xfe];
        let ethertype_ipv4 = [8, 0];
        [&self.to[..], &from, &ethertype_ipv4, &self.ipv4_header(), &self.tcp_header()].concat()
    }

    /// RFC 791.
    fn ipv4_header(&self) -> [u8; 20] {
        let dont_fragment = 0x40;
        let mut header = [0x45, 0, 0, 40, 0, 1, dont_fragment, 0, 64, self.protocol, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        header[12..16].copy_from_slice(&self.src.ip().octets());
        header[16..].copy_from_slice(&self.dst.ip().octets());
        let sum: u32 = header.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum();
        let fold = |sum: u32| (sum & 0xffff) + (sum >> 16);
        let [.., high, low] = (!fold(fold(sum))).to_be_bytes();
        header[10..12].copy_from_slice(&[high, low]);
        header
    }

    /// RFC 9293.
    fn tcp_header(&self) -> [u8; 20] {
        let (offset, ack) = (5 << 4, 16);
        let mut header = [0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, offset, ack, 0xff, 0xff, 0, 0, 0, 0];
        header[..2].copy_from_slice(&self.src.port().to_be_bytes());
        header[2..4].copy_from_slice(&self.dst.port().to_be_bytes());
        header
    }
}
