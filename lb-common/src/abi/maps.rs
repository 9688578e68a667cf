//! Names and default capacities of the maps. The kernel cuts names at 15 bytes.

/// `u32` array of one: [`super::ABI_VERSION`] of the installation. Its own layout never changes.
pub const ABI: &str = "lb_abi";
/// Array of one [`super::AgentStatus`].
pub const AGENT: &str = "lb_agent";
/// Hash, [`super::FrontendKey`] to [`super::Frontend`].
pub const FRONTENDS4: &str = "lb_frontends4";
/// As [`FRONTENDS4`], IPv6.
pub const FRONTENDS6: &str = "lb_frontends6";
/// Array of [`super::FrontendCopy`]. Not pinned: each installation of the programs has its own.
pub const COPIES4: &str = "lb_copies4";
/// As [`COPIES4`], IPv6.
pub const COPIES6: &str = "lb_copies6";
/// Memory-mapped array of [`super::Slot`].
pub const SLOTS4: &str = "lb_slots4";
/// As [`SLOTS4`], IPv6.
pub const SLOTS6: &str = "lb_slots6";
/// Hash, backend id to [`super::Backend`].
pub const BACKENDS4: &str = "lb_backends4";
/// As [`BACKENDS4`], IPv6.
pub const BACKENDS6: &str = "lb_backends6";
/// Hash, [`super::AffinityKey`] to [`super::Affinity`].
pub const AFFINITY: &str = "lb_affinity";
/// Array of one [`super::ClusterIps`].
pub const CLUSTERIPS4: &str = "lb_clusterips4";
/// As [`CLUSTERIPS4`], IPv6.
pub const CLUSTERIPS6: &str = "lb_clusterips6";
/// Hash, network namespace cookie to [`super::ClientAddr`].
pub const CLIENTS4: &str = "lb_clients4";
/// As [`CLIENTS4`], IPv6.
pub const CLIENTS6: &str = "lb_clients6";
/// LPM trie, [`super::SourceKey`] to `u32`.
pub const SOURCES4: &str = "lb_sources4";
/// As [`SOURCES4`], IPv6.
pub const SOURCES6: &str = "lb_sources6";
/// Hash, [`super::NameKey`] to [`super::Name`].
pub const NAMES: &str = "lb_names";
/// Socket storage, [`super::SockDst`].
pub const SOCK4: &str = "lb_sock4";
/// As [`SOCK4`], IPv6.
pub const SOCK6: &str = "lb_sock6";
/// Socket storage, [`super::UdpPeers`].
pub const SOCKUDP4: &str = "lb_sockudp4";
/// As [`SOCKUDP4`], IPv6.
pub const SOCKUDP6: &str = "lb_sockudp6";
/// Array of one [`super::Exclusion`].
pub const EXCLUSION: &str = "lb_exclusion";
/// Hash, cgroup id to [`super::excluded_by`].
pub const EXCLUDED: &str = "lb_excluded";
/// Hash, [`super::FlowKey`] to [`super::Flow`].
pub const CONNS4: &str = "lb_conns4";
/// As [`CONNS4`], IPv6.
pub const CONNS6: &str = "lb_conns6";
/// LRU hash, [`super::FragmentKey`] to [`super::Fragment`].
pub const FRAGS4: &str = "lb_frags4";
/// As [`FRAGS4`], IPv6.
pub const FRAGS6: &str = "lb_frags6";
/// Hash, place to [`super::Piece`]. Not pinned: a new installation of the programs has its own.
pub const PIECES: &str = "lb_pieces";
/// Array of [`super::Absent`], for the addresses and ports of frontends. Written by the agent.
pub const NOFRONT4: &str = "lb_nofront4";
/// As [`NOFRONT4`], IPv6.
pub const NOFRONT6: &str = "lb_nofront6";
/// Array of [`super::Absent`], for those of the flows' backends. Written by the programs.
pub const NOBACK4: &str = "lb_noback4";
/// As [`NOBACK4`], IPv6.
pub const NOBACK6: &str = "lb_noback6";
/// Hash, interface index to [`super::Device`].
pub const DEVICES: &str = "lb_devices";
/// Array of one [`super::NodeConfig`].
pub const NODE: &str = "lb_node";
/// Per-CPU array of one [`super::Answers`].
pub const ANSWERS: &str = "lb_answers";
/// Per-CPU array of `u64`, indexed by [`super::Counter`].
pub const STATS: &str = "lb_stats";

/// Default capacity of `lb_frontends4/6`. Entries are allocated when used, so this costs 16 bytes each while empty.
pub const N_FRONTENDS: u32 = 65_536;
/// Default capacity of `lb_backends4/6`; as above.
pub const N_BACKENDS: u32 = 262_144;
/// Default capacity of `lb_slots4/6`: twice the backends, because a Service's new range is written before its old one
/// is given back. Allocated at once: 16 bytes (IPv4) or 24 bytes (IPv6) each.
pub const N_SLOTS: u32 = 2 * N_BACKENDS;
/// Default capacity of `lb_names`: a name for each Service port and each node.
pub const N_NAMES: u32 = N_FRONTENDS + 16_384;
/// Default capacity of `lb_affinity`: a client of a Service with session affinity. When full, new clients go without.
pub const N_AFFINITIES: u32 = 65_536;
/// Default capacity of `lb_clients4/6`: network namespaces on a node.
pub const N_CLIENTS: u32 = 4_096;
/// Capacity of `lb_excluded`: a cgroup for each pod of the node that is excluded, and for each match of a pattern.
pub const N_EXCLUDED: u32 = 4_096;
/// Default capacity of `lb_sources4/6`: ranges of all Services with `loadBalancerSourceRanges`.
pub const N_SOURCES: u32 = 16_384;
/// Default capacity of `lb_conns4/6`: two entries for each flow, so as many flows as conntrack has at least under
/// kube-proxy (`--conntrack-min`, 131,072). Empty it costs 4 MiB of buckets for each family, full about 32 MiB (IPv4) and
/// 48 MiB (IPv6).
pub const N_CONNS: u32 = 262_144;
/// Default capacity of `lb_frags4/6`: datagrams whose fragments are under way at the same time. When full, the oldest goes.
pub const N_FRAGS: u32 = 8_192;
/// Capacity of `lb_devices`: with `--pod-devices`, one for each pod of the node.
pub const N_DEVICES: u32 = 4_096;
