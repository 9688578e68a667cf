//! Host-side maps, clock, randomness and sockets, to run [`crate::logic`] without a kernel.
