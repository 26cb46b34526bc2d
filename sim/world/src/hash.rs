//! The trace hash: one number for everything that happened, to compare two runs.

use crate::Time;

/// FNV-1a, 64 bits, over every event in order.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TraceHash(u64);

impl TraceHash {
    pub(crate) fn new() -> Self {
        TraceHash(0xcbf2_9ce4_8422_2325)
    }

    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    /// One event: when, what kind, and two numbers that tell it from others of its kind.
    pub(crate) fn event(&mut self, now: Time, kind: u8, a: u64, b: u64) {
        self.bytes(&u64::try_from(now.as_nanos()).unwrap_or(u64::MAX).to_le_bytes());
        self.bytes(&[kind]);
        self.bytes(&a.to_le_bytes());
        self.bytes(&b.to_le_bytes());
    }

    pub(crate) fn value(self) -> u64 {
        self.0
    }
}
