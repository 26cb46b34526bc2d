#![no_main]
//! See `fairway_bgp_fuzz::notification`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| fairway_bgp_fuzz::notification(data));
