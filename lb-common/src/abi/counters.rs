//! `lb_stats`: one per-CPU `u64` for each reason.

macro_rules! counters {
    ($($(#[doc = $doc:literal])+ $variant:ident = $label:literal,)+) => {
        /// What the kernel programs count; the index into `lb_stats`. New ones come last, so that those of earlier
        /// builds keep their places.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u32)]
        pub enum Counter { $($(#[doc = $doc])+ $variant,)+ }

        impl Counter {
            /// All of them, in index order.
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// The name in metrics and tools.
            pub const fn label(self) -> &'static str {
                match self { $(Self::$variant => $label),+ }
            }
        }
    };
}

counters! {
    /// TCP connects translated to a backend.
    TcpConnect = "tcp_connect",
    /// UDP connects translated to a backend.
    UdpConnect = "udp_connect",
    /// Datagrams of unconnected sockets that were given a backend anew.
    UdpSelect = "udp_select",
    /// Connects and datagrams refused because the Service has no usable endpoint.
    NoBackend = "no_backend",
    /// The maps are damaged: a frontend names a slot outside the array, or its checksum is wrong each time. Refused.
    DamagedMaps = "damaged_maps",
    /// A frontend was replaced while it was read; it was looked up again.
    FrontendReread = "frontend_reread",
    /// The kernel had no memory for socket storage: translated, but the reverse direction is not known.
    NoStorage = "no_storage",
    /// An unconnected UDP socket talks to more Services than are remembered; the oldest pair was dropped.
    PeerEvicted = "peer_evicted",
    /// Connects and datagrams refused because the ClusterIP has no such port.
    UnknownPort = "unknown_port",
    /// Connects and datagrams refused because the client is not in the Service's `loadBalancerSourceRanges`.
    SourceRefused = "source_refused",
    /// No room for another client in `lb_affinity`: it was given a backend, but will not be given the same again.
    AffinityFull = "affinity_full",
    /// A process on the node was refused a port that a NodePort has.
    BindRefused = "bind_refused",
    /// TCP connections that the packet layer began to translate.
    FlowTcp = "flow_tcp",
    /// UDP flows that the packet layer began to translate.
    FlowUdp = "flow_udp",
    /// Packets of new flows dropped because `lb_conns4/6` is full; those that are there live on.
    ConnsFull = "conns_full",
    /// Packets of new flows dropped because no port of the node's was free, or the node has no address for them.
    SnatExhausted = "snat_exhausted",
    /// New flows that got another source port because their own leads the backend's answers to another flow.
    SnatCollision = "snat_collision",
    /// Packets dropped whose source is this node's, a Service's, or nobody's.
    Martian = "martian",
    /// TCP segments for a Service that belong to no connection, answered with RST.
    NoFlow = "no_flow",
    /// Packets dropped because the Service's traffic policy leaves no endpoint on this node.
    PolicyDrop = "policy_drop",
    /// Later fragments whose first one was not seen, or not translated. Most of them are not ours.
    FragmentUnknown = "fragment_unknown",
    /// Later fragments for a ClusterIP that belong to no flow, dropped: nobody else has that address. Their first one was
    /// refused, or it comes after them and they could not be kept.
    FragmentDropped = "fragment_dropped",
    /// ICMP errors about translated packets that were translated back.
    IcmpError = "icmp_error",
    /// RSTs and ICMP errors that the packet layer sent.
    AnswerSent = "answer_sent",
    /// RSTs and ICMP errors that it did not send because of its rate limit.
    AnswerLimited = "answer_limited",
    /// Packets dropped because they could not be changed: the kernel had no memory, or they end too early.
    Unwritable = "unwritable",
    /// TCP connections that were given the port of the node's that one had which is over, because no free one was found.
    SnatTakenOver = "snat_taken_over",
    /// Later fragments that came before their first one, at an address of a Service or from one of a backend, and of which a
    /// copy was kept.
    FragmentKept = "fragment_kept",
    /// Such copies that were sent on after the fragment before them.
    FragmentReleased = "fragment_released",
    /// Later fragments of which no copy could be kept: too long, or their place was taken.
    FragmentNotKept = "fragment_not_kept",
}

/// Number of elements of `lb_stats`.
#[expect(clippy::cast_possible_truncation, reason = "a handful")]
pub const N_COUNTERS: u32 = Counter::ALL.len() as u32;
