//! The libFuzzer target of [`lb_fuzz::histories`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| lb_fuzz::histories::run(data));
