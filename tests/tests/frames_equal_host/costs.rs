//! What the programs on devices cost: prints times, which are evidence and no test. LB_COMPARE_WITH may name another object, an
//! earlier build as a rule: both then run in turns, block by block, as the machine is never quiet for long.
//!
//!     cargo test -p lb-tests --test frames_equal_host costs -- --nocapture

use std::{env, net::SocketAddr, path::PathBuf, time::Duration};

use lb_common::sim::{SimPacket, frames::Frame};
use lb_tests::kernel_objects;

use super::{Hook, Kernel, NODE_PORT, PASS, REDIRECT, SNAT_PORT, Who, network, node};

/// Blocks of each object.
const BLOCKS: usize = 31;
/// Runs of a block on a packet that none of them changes; the kernel tells their mean.
const REPEATED: u32 = 20_000;
/// Single runs of a block on a packet that they change; their median counts.
const SINGLE: usize = 500;

/// Something whose cost is asked for.
struct Case {
    name: String,
    hook: Hook,
    frame: Vec<u8>,
    verdict: i32,
}

impl Case {
    fn new(name: String, hook: Hook, packet: &SimPacket, verdict: i32) -> Self {
        Self { name, hook, frame: hook.frame(packet), verdict }
    }

    /// One run, or the mean of several.
    fn run(&self, kernel: &mut Kernel, repeat: u32) -> Duration {
        let (program, index, _) = self.hook.device();
        let (verdict, _, time) = kernel.timed(program, index, &self.frame, repeat);
        assert_eq!(verdict, self.verdict, "{program}: {}", self.name);
        time
    }

    fn block(&self, kernel: &mut Kernel, is_changed: bool) -> Duration {
        if !is_changed {
            return self.run(kernel, REPEATED);
        }
        median((0..SINGLE).map(|_| self.run(kernel, 1)).collect())
    }

    /// Prints the medians of the blocks of each object.
    fn tell(&self, kernels: &mut [Kernel], is_changed: bool) {
        let mut blocks = vec![Vec::new(); kernels.len()];
        for _ in 0..BLOCKS {
            for (kernel, blocks) in kernels.iter_mut().zip(&mut blocks) {
                blocks.push(self.block(kernel, is_changed));
            }
        }
        let times: Vec<String> = blocks.into_iter().map(|blocks| format!("{:>8?}", median(blocks))).collect();
        println!("{:<60} {:<8} {}", self.name, format!("{:?}", self.hook), times.join(" "));
    }
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

#[test]
fn what_a_packet_costs_is_told_for_packets_of_no_concern_and_for_those_of_a_flow() {
    network().run(costs).unwrap();
}

fn costs() {
    let other = env::var_os("LB_COMPARE_WITH").map(PathBuf::from);
    let mut kernels: Vec<Kernel> =
        [kernel_objects::agent_object()].iter().chain(&other).map(|object| Kernel::load(&node(), object)).collect();
    println!("median of {BLOCKS} blocks; this object{}", if other.is_some() { ", the other one" } else { "" });
    for v6 in [false, true] {
        let family = if v6 { "IPv6" } else { "IPv4" };
        foreign(&mut kernels, family, v6);
        flows(&mut kernels, family, v6);
    }
}

/// Packets of no concern.
fn foreign(kernels: &mut [Kernel], family: &str, v6: bool) {
    let at = |who: Who, port| SocketAddr::new(who.ip(v6), port);
    let foreign = Frame::tcp(at(Who::Client(1), 40_000), at(Who::Client(2), 443), 16).packet(false);
    let mut other = foreign.clone();
    other.bytes[if v6 { 6 } else { 9 }] = 99;
    for hook in [Hook::Uplink, Hook::Pod, Hook::Egress] {
        let mut nothing =
            Case::new(format!("{family}: a frame that is no IP, nearly an empty program"), hook, &other, PASS);
        nothing.frame[12..14].copy_from_slice(&[0x88, 0xb5]);
        nothing.tell(kernels, false);
        Case::new(format!("{family}: a transport protocol that is none of ours"), hook, &other, PASS)
            .tell(kernels, false);
        Case::new(format!("{family}: not ours"), hook, &foreign, PASS).tell(kernels, false);
    }
}

/// Packets of a flow.
fn flows(kernels: &mut [Kernel], family: &str, v6: bool) {
    let at = |who: Who, port| SocketAddr::new(who.ip(v6), port);
    for (service, pod, place) in [(1, Who::LocalPod(1), "local"), (2, Who::RemotePod(1), "remote")] {
        let (client, service) = (at(Who::Client(1), 40_000), at(Who::Node, NODE_PORT + service));
        let request = |flags| Frame::tcp(client, service, flags).packet(false);
        for kernel in &mut *kernels {
            assert_eq!(Hook::Uplink.in_the_kernel(kernel, &request(2)).0, REDIRECT);
        }
        let is_local = place == "local";
        let sees = if is_local { client } else { at(Who::Preferred, SNAT_PORT) };
        let answer = Frame::tcp(at(pod, 8080), sees, 16).packet(false);
        let hook = if is_local { Hook::Pod } else { Hook::Uplink };
        let name = |what| format!("{family}: {what}, {place} backend");
        Case::new(name("request"), Hook::Uplink, &request(16), REDIRECT).tell(kernels, true);
        Case::new(name("reply"), hook, &answer, REDIRECT).tell(kernels, true);
        Case::new(name("reply by the stack"), Hook::Egress, &answer, PASS).tell(kernels, true);
        // Only the look-ups tell that it is none of ours.
        let other = Frame::tcp(at(pod, 8080), at(Who::Client(2), 443), 16).packet(false);
        for hook in [hook, Hook::Egress] {
            Case::new(name("to somebody else"), hook, &other, PASS).tell(kernels, false);
        }
    }
}
