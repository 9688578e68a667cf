//! Ends the sockets whose backend is gone.
//!
//! The translation of a connected socket is done once, at connect. When its backend serves no more, a UDP application
//! hears nothing of it: its datagrams go to nobody, for hours where it keeps one socket, as resolvers do. So the sockets
//! are ended by SOCK_DESTROY (sock_diag(7)): the application's next call fails with ECONNABORTED, and its next connect is
//! balanced anew. TCP notices by itself, sooner or later, so that its connections are ended only where the operator
//! wants it.
//!
//! Nothing is noted at connect. Candidates come from inet_diag, in each network namespace of the processes below the
//! cgroup: connected sockets whose peer is the gone backend. Whether a candidate came there through a Service, and
//! whether it was given that very backend, is asked of its own socket storage, by a program that is run for the question
//! (`lb_owner4/6`). So a socket that dialled the pod directly, one that is not connected, and one whose endpoint still
//! serves are never touched.
//!
//! [`gone`](Suspects) and `pass` decide and are tested on the host; `diag` and `kernel` are the system;
//! `worker` is the thread. Nothing here writes to maps.

mod diag;
mod gone;
mod kernel;
mod pass;
mod worker;

pub use self::{
    diag::Connected,
    gone::{Holder, Suspect, Suspects, Translation, Verdict},
    kernel::NodeKernel,
    pass::{Found, Kernel, Outcome, Waiting, find_suspects, terminate},
    worker::{Terminator, describe},
};

use lb_common::abi::Proto;

/// `--terminate-tcp`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum TcpPolicy {
    /// TCP connections are left to their ends.
    #[default]
    Never,
    /// Those of backends that are deleted are reset. One that is only not ready keeps them.
    Gone,
}

impl TcpPolicy {
    /// Whether clients of this protocol are told when their backend is gone.
    pub fn covers(self, proto: Proto) -> bool {
        self.protos().contains(&proto)
    }

    fn protos(self) -> &'static [Proto] {
        match self {
            Self::Never => &[Proto::Udp],
            Self::Gone => &[Proto::Udp, Proto::Tcp],
        }
    }
}
