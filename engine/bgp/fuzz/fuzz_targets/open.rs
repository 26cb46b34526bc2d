#![no_main]
//! See `fairway_bgp_fuzz::open`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| fairway_bgp_fuzz::open(data));
