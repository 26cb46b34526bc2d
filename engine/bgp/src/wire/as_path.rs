//! AS_PATH (RFC 4271 section 4.3 b), in four octets inside, in two or four on the wire (RFC 6793).

use alloc::vec::Vec;

use super::open::AS_TRANS;
use super::reader::Reader;

/// AS_PATH.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AsPath {
    /// Segments, the nearest AS first.
    pub segments: Vec<Segment>,
}

/// One segment, never empty.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Segment {
    /// An unordered AS_SET instead of an AS_SEQUENCE.
    pub set: bool,
    /// AS numbers.
    pub asns: Vec<u32>,
}

const AS_SET: u8 = 1;
const AS_SEQUENCE: u8 = 2;

impl AsPath {
    /// A path of one sequence; empty without numbers.
    pub fn sequence(asns: &[u32]) -> Self {
        let mut path = AsPath::default();
        if !asns.is_empty() {
            path.segments.push(Segment { set: false, asns: asns.to_vec() });
        }
        path
    }

    /// Length for the decision process: a set counts as one (RFC 4271 section 9.1.2.2 a).
    pub fn len(&self) -> usize {
        self.segments.iter().map(|s| if s.set { 1 } else { s.asns.len() }).sum()
    }

    /// Whether the path has no AS: it began inside our own.
    pub fn is_empty(&self) -> bool {
        self.segments.is_empty()
    }

    /// Whether an AS occurs.
    pub fn contains(&self, asn: u32) -> bool {
        self.segments.iter().any(|s| s.asns.contains(&asn))
    }

    /// How often an AS occurs.
    pub fn count(&self, asn: u32) -> usize {
        self.segments.iter().flat_map(|s| &s.asns).filter(|a| **a == asn).count()
    }

    /// All numbers in order.
    pub fn flatten(&self) -> Vec<u32> {
        self.segments.iter().flat_map(|s| s.asns.iter().copied()).collect()
    }

    /// The AS the route came from, for comparing MEDs: the first of a leading sequence.
    pub fn neighbor(&self) -> Option<u32> {
        self.segments.first().filter(|s| !s.set).and_then(|s| s.asns.first().copied())
    }

    /// Puts an AS in front, so many times.
    pub fn prepend(&mut self, asn: u32, times: u8) {
        for _ in 0..times {
            match self.segments.first_mut() {
                Some(s) if !s.set && s.asns.len() < 255 => s.asns.insert(0, asn),
                _ => self.segments.insert(0, Segment { set: false, asns: alloc::vec![asn] }),
            }
        }
    }

    /// Whether two octets per number lose nothing.
    pub fn fits_two_octets(&self) -> bool {
        self.segments.iter().all(|s| s.asns.iter().all(|a| *a <= 0xffff))
    }

    pub(crate) fn encode(&self, four_octet: bool, out: &mut Vec<u8>) {
        for segment in &self.segments {
            for chunk in segment.asns.chunks(255) {
                out.extend([if segment.set { AS_SET } else { AS_SEQUENCE }, chunk.len() as u8]);
                for asn in chunk {
                    if four_octet {
                        out.extend(asn.to_be_bytes());
                    } else {
                        out.extend(u16::try_from(*asn).unwrap_or(AS_TRANS).to_be_bytes());
                    }
                }
            }
        }
    }

    /// `None`: malformed. Confederation segments are, too: we are in none (RFC 5065 section 5), and so is AS 0
    /// (RFC 7607).
    pub(crate) fn decode(four_octet: bool, bytes: &[u8]) -> Option<Self> {
        let mut r = Reader::new(bytes);
        let mut path = AsPath::default();
        while !r.is_empty() {
            let set = match r.u8()? {
                AS_SET => true,
                AS_SEQUENCE => false,
                _ => return None,
            };
            let count = usize::from(r.u8()?);
            let mut values = Reader::new(r.take(count * if four_octet { 4 } else { 2 })?);
            let mut asns = Vec::with_capacity(count);
            while !values.is_empty() {
                asns.push(if four_octet { values.u32()? } else { u32::from(values.u16()?) });
            }
            if asns.is_empty() || asns.contains(&0) {
                return None;
            }
            path.segments.push(Segment { set, asns });
        }
        Some(path)
    }

    /// The path as it was before old speakers squeezed it: their leading part, then AS4_PATH (RFC 6793 section 4.2.3).
    pub(crate) fn merge(self, as4: AsPath) -> Self {
        let Some(mut surplus) = self.len().checked_sub(as4.len()) else { return self };
        let mut merged = AsPath::default();
        for mut segment in self.segments {
            if surplus == 0 {
                break;
            }
            if segment.set {
                surplus -= 1;
            } else {
                segment.asns.truncate(surplus);
                surplus -= segment.asns.len();
            }
            merged.segments.push(segment);
        }
        // Two sequences that meet are one, as long as one segment can hold them.
        let mut rest = as4.segments.into_iter();
        if let Some(first) = rest.next() {
            match merged.segments.last_mut() {
                Some(last) if !last.set && !first.set && last.asns.len() + first.asns.len() <= 255 => {
                    last.asns.extend(first.asns);
                }
                _ => merged.segments.push(first),
            }
        }
        merged.segments.extend(rest);
        merged
    }
}
