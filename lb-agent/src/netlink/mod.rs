//! netlink(7): requests to the kernel and their answers ([`Conversation`]), and the news that something changed
//! ([`changes`]). Knows the frame of the messages only; what is in them is the caller's.

pub(crate) mod chains;
pub mod changes;

use std::{io, time::Duration};

use netlink_packet_core::{
    NLA_HEADER_SIZE, NLM_F_REQUEST, NetlinkBuffer, NetlinkDeserializable, NetlinkHeader, NetlinkMessage,
    NetlinkPayload, NetlinkSerializable, NlasIterator,
};
use netlink_sys::Socket;
use rustix::net::sockopt::{Timeout, set_socket_timeout};

/// The kernel answers a request while it is made, so that this is never waited for.
const PATIENCE: Duration = Duration::from_secs(5);
/// The kernel fills replies of up to 32 KiB (`netlink_recvmsg` in net/netlink/af_netlink.c remembers the largest buffer it
/// was offered).
const REPLY_LEN: usize = 32 * 1024;

/// The value of the first attribute of that kind, of those up to the first that is cut off.
pub(crate) fn attribute(attributes: &[u8], kind: u16) -> Option<&[u8]> {
    let mut all = NlasIterator::new(attributes).map_while(Result::ok);
    let found = all.find(|attribute| attribute.kind() == kind)?;
    found.into_inner().get(NLA_HEADER_SIZE..usize::from(found.length()))
}

/// A socket for requests, each answered before the next. After an error it is of no use: there may be more of the last
/// answer in it.
pub struct Conversation {
    socket: Socket,
    reply: Vec<u8>,
}

impl Conversation {
    /// With the part of the kernel that has this number (linux/netlink.h), in the calling thread's network namespace.
    ///
    /// # Errors
    /// The kernel has no such part, or gives no socket.
    pub fn open(protocol: isize) -> io::Result<Self> {
        let socket = Socket::new(protocol)?;
        set_socket_timeout(&socket, Timeout::Recv, Some(PATIENCE))?;
        Ok(Self { socket, reply: Vec::with_capacity(REPLY_LEN) })
    }

    /// Asks. `flags` are added to NLM_F_REQUEST; with NLM_F_ACK or NLM_F_DUMP there is an end to the answer.
    ///
    /// # Errors
    /// The kernel does not take it.
    pub fn send<M: NetlinkSerializable>(&self, message: M, flags: u16) -> io::Result<()> {
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        let mut message = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(message));
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        self.socket.send(&bytes, 0).map(drop)
    }

    /// Hands out the messages of the answer up to its end, also those that cannot be read, as errors.
    ///
    /// # Errors
    /// The kernel's, and the first of `each`.
    pub fn replies<M: NetlinkDeserializable>(
        &mut self,
        mut each: impl FnMut(io::Result<M>) -> io::Result<()>,
    ) -> io::Result<()> {
        loop {
            self.reply.clear();
            self.socket.recv(&mut self.reply, 0)?;
            let mut rest = self.reply.as_slice();
            while !rest.is_empty() {
                let length = NetlinkBuffer::new_checked(rest).map_err(io::Error::other)?.length();
                let length = usize::try_from(length).map_err(io::Error::other)?;
                match NetlinkMessage::<M>::deserialize(rest).map(|message| message.payload) {
                    Ok(NetlinkPayload::InnerMessage(message)) => each(Ok(message))?,
                    Ok(NetlinkPayload::Done(_)) => return Ok(()),
                    Ok(NetlinkPayload::Error(error)) if error.code.is_none() => return Ok(()),
                    Ok(NetlinkPayload::Error(error)) => return Err(error.to_io()),
                    Ok(_) => {}
                    Err(error) => each(Err(io::Error::other(error)))?,
                }
                // NLMSG_ALIGN of netlink(7).
                rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
            }
        }
    }
}
