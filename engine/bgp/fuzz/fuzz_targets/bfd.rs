#![no_main]
//! BFD control packets (RFC 5880 section 4.1): what can be read is said again in the same words.

use fairway_bfd::Packet;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    if let Ok(packet) = Packet::decode(data) {
        assert_eq!(Packet::decode(&packet.encode()), Ok(packet));
    }
});
