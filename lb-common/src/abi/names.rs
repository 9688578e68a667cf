//! `lb_names`: names for the ids, so that the tools can speak of Services, nodes and devices from the maps alone, also when no
//! agent runs. The kernel programs never read it.

/// Values of [`NameKey::kind`].
pub mod name_kind {
    /// A Service port: `namespace/name` or `namespace/name:port-name`.
    pub const SERVICE: u32 = 1;
    /// A node.
    pub const NODE: u32 = 2;
    /// A network device that has programs of ours; the id is its number. The text is its name, a blank, and why it was
    /// chosen.
    pub const DEVICE: u32 = 3;
}

/// Key of `lb_names`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct NameKey {
    /// See [`name_kind`].
    pub kind: u32,
    /// Service-port id, node id or interface index.
    pub id: u32,
}

/// Bytes of a name. The longest are a node's (a DNS subdomain, 253 characters) and a Service port's
/// (63 + 1 + 63 + 1 + 63 = 191, three DNS labels of RFC 1123 and two separators).
pub const NAME_LEN: usize = 256;

/// Value of `lb_names`: UTF-8, filled up with NUL.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct Name {
    /// See above.
    pub text: [u8; NAME_LEN],
}
