#![no_main]
//! See `fairway_bgp_fuzz::attributes`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| fairway_bgp_fuzz::attributes(data));
