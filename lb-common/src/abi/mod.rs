//! The types in the BPF maps, shared by the kernel programs, the agent and its tools.
//!
//! Rules that hold for every type here:
//! * `repr(C)`, no implicit padding (`size_of` equals the sum of the fields, asserted in [`layout`] for each family),
//!   no `bool`, `enum`, `Option` or pointer: the bytes are what `bpftool map dump` shows and what hash lookups compare.
//! * Addresses are bytes as on the wire. Ports are numbers in **host** byte order, so that `bpftool` prints 80 and not
//!   20480; the programs convert once at the hook.
//! * Id 0 is never given out: a zeroed entry means "none".
//!
//! Changing a layout bumps [`ABI_VERSION`]: the agent refuses pinned maps of another version instead of misreading them.

mod absent;
mod affinity;
mod agent;
mod backend;
mod clients;
mod copy;
mod counters;
mod device;
mod exclusion;
mod family;
mod flow;
mod frontend;
mod hash;
mod layout;
pub mod maps;
mod names;
mod net;
mod owner;
mod piece;
#[expect(unsafe_code, reason = "Pod marks; the only unsafe of this crate")]
#[cfg(feature = "user")]
mod pod;
mod slot;
mod sock;
mod test_run;

pub use absent::{Absent, N_ABSENT, Place};
pub use affinity::{Affinity, AffinityKey, client_kind};
pub use agent::{AgentStatus, ERROR_LEN, FIRST_LEN, SOURCE_LEN, VERSION_LEN, self_test, source_kind};
pub use backend::{Backend, backend_state, endpoint_sets};
pub use clients::{ClientAddr, ClusterIps, SourceKey};
pub use copy::{FrontendCopy, N_COPIES};
pub use counters::{Counter, N_COUNTERS};
pub use device::{ANSWERS_PER_S, Answers, Device, NodeConfig, SNAT_FIRST, SNAT_LAST, device_flags};
pub use exclusion::{Exclusion, excluded_by};
pub use family::{Family, V4, V6, map_v4, mapped_v4};
pub use flow::{Flow, FlowKey, Fragment, FragmentKey, flow_flags, flow_seen};
pub use frontend::{Frontend, FrontendKey, frontend_flags, scope};
pub use names::{NAME_LEN, Name, NameKey, name_kind};
pub use net::{Endpoint, Proto};
pub use owner::{Ends, OwnerCall, owner_answer};
pub use piece::{N_PIECES, PIECE_BYTES, Piece, PieceKey, piece_key};
pub use slot::Slot;
pub use sock::{N_UDP_PEERS, SockDst, UdpPeer, UdpPeers};
pub use test_run::context_at;

/// Version of every layout in this module, recorded in the map `lb_abi` of a running installation.
pub const ABI_VERSION: u32 = 6;
