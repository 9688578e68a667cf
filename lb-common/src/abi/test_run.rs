//! What the kernel is told beside a packet where it runs a program for packets on request (`BPF_PROG_TEST_RUN`). Not a map layout.

/// Where `ifindex` stands in `struct __sk_buff` (include/uapi/linux/bpf.h).
const IFINDEX_OFFSET: usize = 40;

/// The context of a packet at the device with this index, 0 for none. What is not in it is zero.
pub fn context_at(device: u32) -> [u8; IFINDEX_OFFSET + 4] {
    let mut context = [0; IFINDEX_OFFSET + 4];
    context[IFINDEX_OFFSET..].copy_from_slice(&device.to_ne_bytes());
    context
}
