//! The packet on the wire.
#![allow(clippy::unwrap_used, reason = "a test may fail")]

use fairway_bfd::{Diagnostic, Malformed, Packet, Payload, State};
use proptest::prelude::*;

/// As RFC 5880 section 4.1 draws it.
const BYTES: [u8; 24] = [
    0x23, 0xc8, 3, 24, // version 1, diagnostic 3; Up, C; multiplier; length
    0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88, // discriminators
    0x00, 0x0f, 0x42, 0x40, // 1 s
    0x00, 0x01, 0x86, 0xa0, // 100 ms
    0x00, 0x00, 0x00, 0x01,
];

fn sample() -> Packet {
    Packet {
        diagnostic: Diagnostic::NEIGHBOR_DOWN,
        state: State::Up,
        poll: false,
        last: false,
        control_plane_independent: true,
        demand: false,
        multiplier: 3,
        my_discriminator: 0x1122_3344,
        your_discriminator: 0x5566_7788,
        desired_min_tx_us: 1_000_000,
        required_min_rx_us: 100_000,
        required_min_echo_rx_us: 1,
    }
}

#[test]
fn every_field_has_its_place() {
    assert_eq!(sample().encode(), BYTES);
    assert_eq!(Packet::decode(&BYTES), Ok(sample()));
    let bits = [
        (0x20, Packet { poll: true, ..sample() }),
        (0x10, Packet { last: true, ..sample() }),
        (0x02, Packet { demand: true, ..sample() }),
    ];
    for (bit, packet) in bits {
        let mut bytes = BYTES;
        bytes[1] |= bit;
        assert_eq!(packet.encode(), bytes);
    }
}

#[test]
fn what_is_no_packet_says_why() {
    let with = |changes: &[(usize, u8)]| {
        let mut bytes = BYTES.to_vec();
        for (at, value) in changes {
            bytes[*at] = *value;
        }
        bytes
    };
    let zero: Vec<(usize, u8)> = (4..8).map(|at| (at, 0)).collect();
    let mut signed = with(&[(1, 0xc4), (3, 33)]);
    signed.extend([1, 9, 1, 0, 0, 0, 0, 0, 0]);
    let mut cut = signed.clone();
    cut.truncate(30);
    let mut longer = BYTES.to_vec();
    longer.extend([0; 100]);
    let cases = [
        (BYTES[..23].to_vec(), Err(Malformed::Short)),
        (vec![], Err(Malformed::Short)),
        (with(&[(0, 0x03)]), Err(Malformed::Version(0))),
        (with(&[(0, 0x43)]), Err(Malformed::Version(2))),
        (with(&[(3, 23)]), Err(Malformed::Length(23))),
        (with(&[(3, 25)]), Err(Malformed::Length(25))),
        (with(&[(2, 0)]), Err(Malformed::Multiplier)),
        (with(&[(1, 0xc9)]), Err(Malformed::Multipoint)),
        (with(&zero), Err(Malformed::Discriminator)),
        // With authentication there are two octets more at least.
        (with(&[(1, 0xc4)]), Err(Malformed::Length(24))),
        (signed, Err(Malformed::Authenticated)),
        (cut, Err(Malformed::Length(33))),
        (longer, Ok(sample())),
    ];
    for (bytes, expected) in cases {
        assert_eq!(Packet::decode(&bytes), expected, "{bytes:x?}");
        assert_eq!(Payload::new(&bytes).packet(), expected, "{bytes:x?} cut to a payload");
    }
}

fn any_packet() -> impl Strategy<Value = Packet> {
    let states = prop_oneof![Just(State::AdminDown), Just(State::Down), Just(State::Init), Just(State::Up)];
    let bits = any::<[bool; 4]>();
    let words = any::<[u32; 4]>();
    (0u8..32, states, bits, 1u8.., 1u32.., words).prop_map(
        |(code, state, bits, multiplier, my_discriminator, words)| Packet {
            diagnostic: Diagnostic::new(code),
            state,
            poll: bits[0],
            last: bits[1],
            control_plane_independent: bits[2],
            demand: bits[3],
            multiplier,
            my_discriminator,
            your_discriminator: words[0],
            desired_min_tx_us: words[1],
            required_min_rx_us: words[2],
            required_min_echo_rx_us: words[3],
        },
    )
}

proptest! {
    #[test]
    fn what_is_written_is_read(packet in any_packet()) {
        prop_assert_eq!(Packet::decode(&packet.encode()), Ok(packet));
    }

    #[test]
    fn what_is_read_is_written(mut bytes in prop::collection::vec(any::<u8>(), 0..60), shape in any::<bool>()) {
        if let (true, [first, flags, _, length, ..]) = (shape, bytes.as_mut_slice()) {
            // Noise alone hardly ever gets past the first checks.
            *first = 0x20 | (*first & 31);
            *flags &= 0xfa;
            *length = 24;
        }
        if let Ok(packet) = Packet::decode(&bytes) {
            let written = packet.encode();
            prop_assert_eq!(written[..3].to_vec(), bytes[..3].to_vec());
            prop_assert_eq!(&written[4..], &bytes[4..24]);
        }
    }
}
