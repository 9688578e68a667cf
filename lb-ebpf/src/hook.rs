//! What the programs on hooks have in common, whatever the hook: clock, randomness, counters, network namespace, errno. Each
//! function is a helper call.

use core::ptr;

use aya_ebpf::{EbpfContext, Global, helpers};
use aya_log_ebpf::error;
use lb_common::abi::Counter;

use crate::{kernel::Context, maps::STATS};

/// Set by the agent where the kernel has `bpf_set_retval` at these hooks. The verifier sees the loaded value as a
/// constant and drops the branch that is not taken, so that older kernels never see the helper.
#[unsafe(no_mangle)]
static LB_SET_RETVAL: Global<u32> = Global::new(0);

/// The cookie of the network namespace that the agent runs in. Where the kernel does not tell user space such cookies
/// (before 5.14) it is 0, which stands for the machine's first network namespace.
#[unsafe(no_mangle)]
static LB_NODE_NETNS: Global<u64> = Global::new(0);

/// Set by the agent where workloads may be excluded from the socket layer. Where not, no program holds any of that, for the
/// same reason.
#[unsafe(no_mangle)]
static LB_EXCLUDE: Global<u32> = Global::new(0);

const ECONNREFUSED: i32 = 111;
const EADDRINUSE: i32 = 98;

/// One run of a program on a hook.
pub struct Call<'a, C>(pub &'a C);

impl<C> Clone for Call<'_, C> {
    #[inline(always)]
    fn clone(&self) -> Self {
        *self
    }
}

impl<C> Copy for Call<'_, C> {}

impl<C: EbpfContext> Context for Call<'_, C> {
    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "wraps after 136 years; only differences are used")]
    fn now_s(self) -> u32 {
        // SAFETY: takes nothing, returns a number.
        let now_ns = unsafe { helpers::bpf_ktime_get_ns() };
        (now_ns / 1_000_000_000) as u32
    }

    #[inline(always)]
    fn random(self) -> u32 {
        // SAFETY: takes nothing, returns a number.
        unsafe { helpers::bpf_get_prandom_u32() }
    }

    #[inline(always)]
    fn count(self, counter: Counter) {
        if let Some(count) = STATS.get_ptr_mut(counter as u32) {
            // SAFETY: this processor's own element. A program that interrupts another one on the same processor between
            // the read and the write may lose it a count, which statistics can bear.
            unsafe { *count += 1 };
        }
    }

    #[inline(always)]
    fn netns(self) -> u64 {
        // SAFETY: the program's own context.
        unsafe { helpers::bpf_get_netns_cookie(self.0.as_ptr()) }
    }

    #[inline(always)]
    fn may_exclude(self) -> bool {
        LB_EXCLUDE.load() != 0
    }

    #[inline(always)]
    fn cgroup_at(self, level: u32) -> u64 {
        // SAFETY: takes and returns a number. At these hooks since Linux 5.7 (kernel commit 5a52ae4e32a6).
        unsafe { helpers::bpf_get_current_ancestor_cgroup_id(level.cast_signed()) }
    }

    #[inline(always)]
    fn node_netns(self) -> u64 {
        match LB_NODE_NETNS.load() {
            // SAFETY: without a context the helper speaks of the first network namespace.
            0 => unsafe { helpers::bpf_get_netns_cookie(ptr::null_mut()) },
            cookie => cookie,
        }
    }
}

/// Says in the agent's log that the maps are damaged. Called at the end of a run: from within, the verifier would go
/// through it from each place that may find damage. Not inlined, so that none of it is in the way of those who never need
/// it.
#[inline(never)]
pub fn report_damage(ctx: &impl EbpfContext) {
    error!(
        ctx,
        "the maps are damaged (a frontend without a valid checksum or slot): stop the agent, run `lb-agent cleanup`, start it"
    );
}

/// Denies with ECONNREFUSED instead of EPERM; `false` where the kernel cannot.
#[inline(always)]
pub fn set_refused() -> bool {
    set_errno(ECONNREFUSED)
}

/// Denies with EADDRINUSE instead of EPERM; `false` where the kernel cannot.
#[inline(always)]
pub fn set_in_use() -> bool {
    set_errno(EADDRINUSE)
}

#[inline(always)]
fn set_errno(errno: i32) -> bool {
    if LB_SET_RETVAL.load() == 0 {
        return false;
    }
    // SAFETY: takes and returns a number. Fails only for a number that is no errno.
    unsafe { helpers::bpf_set_retval(-errno) };
    true
}
