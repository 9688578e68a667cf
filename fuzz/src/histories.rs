//! Sequences through the connection table, beside the naive one of `lb-common/tests/packet/history.rs`. Five bytes are a step.

use crate::packet::{
    WORLDS,
    history::{Naive, Packet, Step},
};

/// The first byte chooses the family and the offload of checksums.
pub fn run(data: &[u8]) {
    let Some((first, rest)) = data.split_first() else { return };
    let mut naive = Naive::new(WORLDS[usize::from(*first) % WORLDS.len()]);
    for bytes in rest.as_chunks().0.iter().take(MAX_STEPS) {
        naive.take(step(*bytes)).unwrap_or_else(|what| panic!("{what}"));
    }
}

/// Of the seconds of all of them together there may be no more than a `u32` has.
const MAX_STEPS: usize = 4_000;

/// FIN 1, SYN 2, RST 4, ACK 16.
const FLAGS: [Option<u8>; 8] = [None, Some(2), Some(18), Some(16), Some(17), Some(4), Some(20), None];

fn step([kind, a, b, c, d]: [u8; 5]) -> Step {
    let (a, b, flag) = (usize::from(a), usize::from(b), d & 1 != 0);
    let packet = Packet { tcp: FLAGS[usize::from(c) % FLAGS.len()], egress: d & 2 != 0, pod_side: d & 4 != 0 };
    match kind % 16 {
        0..2 => Step::Packet { src: a, dst: b, packet },
        2..6 => Step::Ask { client: a, service: b, packet },
        6..11 => Step::Known { flow: a, of_backend: flag, packet },
        11 => Step::Error { flow: a, to_backend: flag },
        12 => Step::Serve { service: a, pods: [b, c.into()].into_iter().take(usize::from(d % 3)).collect() },
        13 => Step::Wait { seconds: u32::from(c) },
        14 => Step::Wait { seconds: [90, 130, 3_700, 90_000][usize::from(d % 4)] },
        _ if flag => Step::Ports { one: d & 2 != 0 },
        _ => Step::Age,
    }
}
