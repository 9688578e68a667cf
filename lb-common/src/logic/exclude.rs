//! Whether the calling process is left alone: a workload that must keep a Service's address until the packet leaves it (the
//! sidecar of a service mesh, a virtual machine's process) is excluded with its cgroup and all below that. The packet layer
//! serves it.

use super::seam::Cgroups;

/// Cgroups deeper than this cannot be excluded, other than by one above them.
pub const N_LEVELS: u32 = u32::BITS;

/// Whether the calling process is in an excluded cgroup. One read of an array where nobody is.
#[inline(always)]
pub fn is_excluded<K: Cgroups>(kernel: &K) -> bool {
    let levels = kernel.excluded_levels();
    levels != 0 && find(kernel, levels)
}

/// Not inlined: few nodes need it, and each program that asks would hold it once more.
#[inline(never)]
fn find<K: Cgroups>(kernel: &K, levels: u32) -> bool {
    let mut rest = levels;
    for level in 0..N_LEVELS {
        if rest == 0 {
            return false;
        }
        if rest & 1 != 0 {
            let cgroup = kernel.cgroup_at(level);
            if cgroup == 0 {
                // The process is not as deep.
                return false;
            }
            if kernel.is_excluded_cgroup(cgroup) {
                return true;
            }
        }
        rest >>= 1;
    }
    false
}
