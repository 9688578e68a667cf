//! A process in a pod that uses its sockets as a test asks it to (the binary `lb-guest`), and the test's side of that.

mod client;
mod protocol;

pub use client::{Guest, Hold, Load, TcpConnection, UdpSocket, errno};
pub use protocol::*;
