//! `lb_exclusion`, `lb_excluded`: which processes the socket layer leaves to the packet layer, by their control group.

/// The one element of `lb_exclusion`. All zero, as in a new map, nobody is excluded, and nothing is looked up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Exclusion {
    /// Bit n: a cgroup at level n is in `lb_excluded`, where the root of cgroup2 is at level 0. May have bits too many at
    /// any time: that is slower and as correct.
    pub levels: u32,
}

/// Values of `lb_excluded`, keyed by a cgroup's id (`u64`, its inode number on cgroup2): bits that say why. That there is
/// an entry is all that the programs ask for.
pub mod excluded_by {
    /// A pattern of `--socket-lb-exclude` matches its path.
    pub const PATTERN: u32 = 1;
    /// It is that of a Pod with the annotation.
    pub const ANNOTATION: u32 = 2;
}
