//! Random source addresses from a block, one per connection.

use std::net::IpAddr;

use ipnet::IpNet;
use oorandom::Rand64;

/// Draws addresses from one block. The same seed gives the same addresses (not those of the original, whose generator
/// is Go's).
#[derive(Debug)]
pub(crate) struct SourceAddresses {
    block: IpNet,
    random: Rand64,
}

impl SourceAddresses {
    /// Addresses of `block`; host bits set in it are ignored.
    pub(crate) fn new(block: IpNet, seed: u64) -> Self {
        Self { block, random: Rand64::new(u128::from(seed)) }
    }

    /// The next address. All of the block are drawn, the first and the last of an IPv4 block too, as the original does.
    pub(crate) fn next(&mut self) -> IpAddr {
        match self.block {
            IpNet::V4(block) => {
                let (network, mask) = (block.network().to_bits(), block.hostmask().to_bits());
                let random = (self.random.rand_u64() >> 32) as u32;
                IpAddr::V4((network | random & mask).into())
            }
            IpNet::V6(block) => {
                let (network, mask) = (block.network().to_bits(), block.hostmask().to_bits());
                let random = u128::from(self.random.rand_u64()) << 64 | u128::from(self.random.rand_u64());
                IpAddr::V6((network | random & mask).into())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn draw(block: &str, seed: u64, count: usize) -> Vec<IpAddr> {
        let mut addresses = SourceAddresses::new(block.parse().unwrap(), seed);
        (0..count).map(|_| addresses.next()).collect()
    }

    #[test]
    fn a_small_block_is_used_up_and_a_seed_repeats() {
        let addresses = draw("10.0.0.129/30", 1, 100);
        let distinct: BTreeSet<_> = addresses.iter().map(ToString::to_string).collect();
        assert_eq!(distinct, ["10.0.0.128", "10.0.0.129", "10.0.0.130", "10.0.0.131"].map(String::from).into());
        assert_eq!(addresses, draw("10.0.0.129/30", 1, 100));
        assert_ne!(addresses, draw("10.0.0.129/30", 2, 100));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]

        #[test]
        fn every_address_is_of_the_block(v4: [u8; 4], v6: [u8; 16], v4_len in 0u8..=32, v6_len in 0u8..=128, seed: u64) {
            for block in [IpNet::new(v4.into(), v4_len).unwrap(), IpNet::new(v6.into(), v6_len).unwrap()] {
                let mut addresses = SourceAddresses::new(block, seed);
                for _ in 0..4 {
                    prop_assert!(block.contains(&addresses.next()));
                }
            }
        }
    }
}
