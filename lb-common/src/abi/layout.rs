//! Compile-time proof that no layout has padding: a key with padding passes the verifier and then misses at random.

use super::{
    Absent, Affinity, AffinityKey, AgentStatus, Answers, Backend, ClientAddr, ClusterIps, Device, ERROR_LEN, Ends,
    Exclusion, FIRST_LEN, Family, Flow, FlowKey, Fragment, FragmentKey, Frontend, FrontendCopy, FrontendKey,
    N_UDP_PEERS, NAME_LEN, Name, NameKey, NodeConfig, OwnerCall, PIECE_BYTES, Piece, SOURCE_LEN, Slot, SockDst,
    SourceKey, UdpPeer, UdpPeers, V4, V6, VERSION_LEN,
};

const fn check<F: Family>() {
    let addr = size_of::<F::Addr>();
    assert!(size_of::<FrontendKey<F>>() == addr + 2 + 1 + 1);
    assert!(size_of::<FrontendCopy<F>>() == size_of::<FrontendKey<F>>() + size_of::<Frontend>());
    assert!(size_of::<Slot<F>>() == addr + 4 + 2 + 2);
    assert!(size_of::<Backend<F>>() == addr + 2 + 1 + 1 + 4 + 4 + 4);
    assert!(size_of::<SockDst<F>>() == 2 * addr + 2 + 2 + 4 + 4);
    assert!(size_of::<UdpPeer<F>>() == 2 * addr + 2 + 2 + 4 + 4 + 4);
    assert!(size_of::<ClusterIps<F>>() == 2 * addr);
    assert!(size_of::<ClientAddr<F>>() == addr);
    assert!(size_of::<SourceKey<F>>() == 4 + addr);
    assert!(size_of::<Ends<F>>() == 2 * addr + 2 + 2);
    assert!(size_of::<OwnerCall<F>>() == 14 + 1 + 1 + size_of::<Ends<F>>() + size_of::<SockDst<F>>());
    assert!(size_of::<FlowKey<F>>() == 2 * addr + 2 + 2 + 1 + 3);
    assert!(size_of::<Flow<F>>() == 2 * addr + 2 + 2 + 4 * 4 + 2 + 2 + 4);
    assert!(size_of::<FragmentKey<F>>() == 2 * addr + 4 + 1 + 3);
    assert!(size_of::<UdpPeers<F>>() == N_UDP_PEERS * size_of::<UdpPeer<F>>());
}

const _: () = {
    check::<V4>();
    check::<V6>();
    assert!(size_of::<Frontend>() == 6 * 4);
    assert!(size_of::<Absent>() == 64);
    assert!(size_of::<AffinityKey>() == 4 + 2 + 2 + 16);
    assert!(size_of::<Affinity>() == 4 + 4);
    assert!(size_of::<Fragment>() == 2 + 2 + 4 + 1 + 3);
    assert!(size_of::<Piece>() == 2 * 16 + 4 + 2 + 1 + 1 + 4 + 4 + PIECE_BYTES);
    assert!(size_of::<Device>() == 4 + 16 + 4);
    assert!(size_of::<NodeConfig>() == 4 + 16 + 2 + 2 + 4 + 4);
    assert!(size_of::<Answers>() == 4 + 4);
    assert!(size_of::<Exclusion>() == 4);
    assert!(size_of::<NameKey>() == 2 * 4);
    assert!(size_of::<Name>() == NAME_LEN);
    assert!(size_of::<AgentStatus>() == 5 * 8 + 10 * 4 + VERSION_LEN + SOURCE_LEN + ERROR_LEN + 5 * FIRST_LEN);
};
