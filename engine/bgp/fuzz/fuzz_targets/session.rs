#![no_main]
//! See `fairway_bgp_fuzz::session`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| fairway_bgp_fuzz::session(data));
