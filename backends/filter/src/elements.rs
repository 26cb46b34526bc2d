//! Keys of set elements as bytes, and prefixes as the ends of intervals.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use fairway_desired::filter::{Datum, Element, FieldType, Set};
use fairway_desired::{Family, Protocol};
use ipnet::IpNet;

use crate::uapi::datatype;

/// Bytes of a field alone.
pub(crate) fn length(field: FieldType) -> usize {
    match field {
        FieldType::Addr(Family::V4) => 4,
        FieldType::Addr(Family::V6) => 16,
        FieldType::Protocol => 1,
        FieldType::Port => 2,
    }
}

/// Bytes of a key: fields of a concatenation begin at multiples of four.
pub(crate) fn key_length(fields: &[FieldType]) -> usize {
    match fields {
        [field] => length(*field),
        fields => fields.iter().map(|field| length(*field).next_multiple_of(4)).sum(),
    }
}

/// The type of the key for `nft`'s listing.
pub(crate) fn key_type(fields: &[FieldType]) -> u32 {
    fields.iter().fold(0, |so_far, field| {
        so_far << datatype::BITS
            | match field {
                FieldType::Addr(Family::V4) => datatype::IPV4_ADDR,
                FieldType::Addr(Family::V6) => datatype::IPV6_ADDR,
                FieldType::Protocol => datatype::INET_PROTO,
                FieldType::Port => datatype::INET_SERVICE,
            }
    })
}

/// The reverse of [`key_type`].
pub(crate) fn fields(mut key_type: u32) -> Option<Vec<FieldType>> {
    let mut fields = vec![];
    while key_type > 0 {
        fields.push(match key_type & ((1 << datatype::BITS) - 1) {
            datatype::IPV4_ADDR => FieldType::Addr(Family::V4),
            datatype::IPV6_ADDR => FieldType::Addr(Family::V6),
            datatype::INET_PROTO => FieldType::Protocol,
            datatype::INET_SERVICE => FieldType::Port,
            _ => return None,
        });
        key_type >>= datatype::BITS;
    }
    fields.reverse();
    Some(fields)
}

pub(crate) fn protocol_number(protocol: Protocol) -> u8 {
    match protocol {
        Protocol::Tcp => 6,
        Protocol::Udp => 17,
        Protocol::Sctp => 132,
    }
}

pub(crate) fn protocol(number: u8) -> Option<Protocol> {
    [Protocol::Tcp, Protocol::Udp, Protocol::Sctp].into_iter().find(|protocol| protocol_number(*protocol) == number)
}

fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

/// A key of the kernel's: its bytes, and whether it ends an interval.
pub(crate) type RawKey = (Vec<u8>, bool);

/// The keys of an element; two for a prefix, its first address and the one after its last, if there is one. `None` if
/// the element does not fit the set.
pub(crate) fn encode(set: &Set, element: &Element) -> Option<Vec<RawKey>> {
    if element.len() != set.fields.len() {
        return None;
    }
    if set.interval {
        let ([FieldType::Addr(family)], [Datum::Net(net)]) = (set.fields.as_slice(), element.as_slice()) else {
            return None;
        };
        if Family::of(net.addr()) != *family || *net != net.trunc() {
            return None;
        }
        let after = match net.broadcast() {
            IpAddr::V4(ip) => u32::from(ip).checked_add(1).map(|ip| Ipv4Addr::from(ip).into()),
            IpAddr::V6(ip) => u128::from(ip).checked_add(1).map(|ip| Ipv6Addr::from(ip).into()),
        };
        let first = (octets(net.network()), false);
        return Some([first].into_iter().chain(after.map(|ip| (octets(ip), true))).collect());
    }
    let mut key = vec![];
    for (field, datum) in set.fields.iter().zip(element) {
        match (field, datum) {
            (FieldType::Addr(family), Datum::Addr(ip)) if Family::of(*ip) == *family => key.extend(octets(*ip)),
            (FieldType::Protocol, Datum::Protocol(protocol)) => key.push(protocol_number(*protocol)),
            (FieldType::Port, Datum::Port(port)) => key.extend(port.to_be_bytes()),
            _ => return None,
        }
        if set.fields.len() > 1 {
            key.resize(key.len().next_multiple_of(4), 0);
        }
    }
    Some(vec![(key, false)])
}

/// The element of a key of a set without intervals.
pub(crate) fn decode(fields: &[FieldType], key: &[u8]) -> Option<Element> {
    let mut rest = key;
    let mut element = vec![];
    for field in fields {
        let bytes = rest.get(..length(*field))?;
        element.push(match field {
            FieldType::Addr(_) => Datum::Addr(address(bytes)?),
            FieldType::Protocol => Datum::Protocol(protocol(*bytes.first()?)?),
            FieldType::Port => Datum::Port(u16::from_be_bytes(bytes.try_into().ok()?)),
        });
        rest = rest.get(length(*field).next_multiple_of(4)..).unwrap_or_default();
    }
    Some(element)
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    <[u8; 4]>::try_from(bytes).map(IpAddr::from).or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from)).ok()
}

fn number(bytes: &[u8]) -> Option<u128> {
    match address(bytes)? {
        IpAddr::V4(ip) => Some(u32::from(ip).into()),
        IpAddr::V6(ip) => Some(ip.into()),
    }
}

/// The prefixes of the intervals whose ends these are, in any order. An interval that is no prefix is left out, which
/// makes the set differ from any that we wrote.
pub(crate) fn prefixes(family: Family, mut ends: Vec<RawKey>) -> Vec<IpNet> {
    let bits: u32 = if family == Family::V4 { 32 } else { 128 };
    // Where one interval ends and the next begins, the end comes first.
    ends.sort_by(|(a, a_ends), (b, b_ends)| (a, !a_ends).cmp(&(b, !b_ends)));
    let mut found = vec![];
    let mut start: Option<&Vec<u8>> = None;
    let net = |start: &[u8], after: Option<u128>| -> Option<IpNet> {
        let first = number(start)?;
        // The size of the whole space does not fit, hence the size less one.
        let last = after.map_or(if bits == 32 { u32::MAX.into() } else { u128::MAX }, |after| after.wrapping_sub(1));
        let less_one = last.checked_sub(first)?;
        let host_bits = 128 - less_one.leading_zeros();
        let size_is_power = less_one.checked_add(1).is_none_or(u128::is_power_of_two);
        let aligned = first & less_one == 0;
        let length = u8::try_from(bits.checked_sub(host_bits)?).ok()?;
        (size_is_power && aligned).then(|| IpNet::new(address(start)?, length).ok())?
    };
    for (key, ends) in &ends {
        match (start, ends) {
            (Some(first), true) => {
                found.extend(number(key).and_then(|after| net(first, Some(after))));
                start = None;
            }
            (None, false) => start = Some(key),
            // A start inside an interval cannot be; an end alone closes what was never open.
            (Some(_), false) | (None, true) => {}
        }
    }
    found.extend(start.and_then(|first| net(first, None)));
    found
}
