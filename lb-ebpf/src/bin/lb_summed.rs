//! Not installed anywhere: tells a test of the packet layer whether the sums that packets arrive with are right (`tests/tests/outside/summed.rs`). What it looks at it leaves as it is.
#![no_std]
#![no_main]
#![expect(
    missing_docs,
    unreachable_pub,
    reason = "the attribute macro makes public functions and drops their comments"
)]

use aya_ebpf::{
    bindings::{__sk_buff, TC_ACT_UNSPEC},
    btf_maps::Array,
    helpers::generated as helpers,
    macros::{btf_map, classifier},
    programs::TcContext,
};
use lb_common::probe::{N_SUMMED, Summed};

/// What is before the IP header: not part of the sum.
const ETHERNET: u32 = 14;

/// Words of the longest packet that is looked at: 320 bytes, since the verifier goes through each of them.
const MAX_WORDS: u32 = 80;

/// Packets by [`Summed`].
#[btf_map(name = "lb_sums")]
static SUMS: Array<u64, { N_SUMMED as usize }> = Array::new();

#[classifier]
pub fn lb_summed(ctx: TcContext) -> i32 {
    let skb = ctx.skb.skb;
    if let Some(count) = SUMS.get_ptr_mut(look(skb) as u32) {
        // SAFETY: an element of the map. Counts of packets that leave at the same time may be lost, but not all of them.
        unsafe { *count += 1 };
    }
    TC_ACT_UNSPEC
}

/// `skb->csum` holds the sum where, and only where, adding to it succeeds (net/core/filter.c, `bpf_csum_update`).
#[inline(always)]
#[expect(clippy::cast_sign_loss, clippy::cast_possible_truncation, reason = "32 bits, as the helper gives them")]
fn look(skb: *mut __sk_buff) -> Summed {
    // SAFETY: takes a number, and adds nothing.
    let sum = unsafe { helpers::bpf_csum_update(skb, 0) };
    if sum < 0 {
        return Summed::Not;
    }
    match words(skb) {
        None => Summed::Long,
        Some(words) if folded(words) == folded(u64::from(sum as u32)) => Summed::Right,
        Some(_) => Summed::Wrong,
    }
}

/// The sum of everything from the IP header on, in the byte order of the machine, as the kernel has it.
#[inline(always)]
fn words(skb: *mut __sk_buff) -> Option<u64> {
    // SAFETY: a field of the context.
    let len = unsafe { (*skb).len };
    let mut sum = 0;
    for number in 0..=MAX_WORDS {
        let offset = ETHERNET + 4 * number;
        if offset >= len {
            return Some(sum);
        }
        // Between 1 and 4, in words that the verifier understands.
        let rest = len - offset;
        let size = if rest >= 4 { 4 } else { ((rest - 1) & 3) + 1 };
        let (mut word, from) = (0_u32, skb.cast_const().cast());
        // SAFETY: `word` has four bytes. The helper checks where they come from.
        let result = unsafe { helpers::bpf_skb_load_bytes(from, offset, (&raw mut word).cast(), size) };
        if result != 0 {
            return None;
        }
        sum += u64::from(word);
    }
    None
}

/// In 16 bits, of which two values stand for zero.
#[inline(always)]
fn folded(sum: u64) -> u64 {
    let mut sum = (sum & 0xffff_ffff) + (sum >> 32);
    for _ in 0..3 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    if sum == 0xffff { 0 } else { sum }
}

/// See `main.rs`.
#[unsafe(no_mangle)]
#[unsafe(link_section = "license")]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
