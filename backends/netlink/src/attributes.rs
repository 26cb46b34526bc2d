//! Reading attributes. Nothing the kernel says can make it panic: what does not fit ends the iteration.

/// The attributes of a message or of a nested attribute.
#[derive(Clone, Copy, Debug)]
pub struct Attributes<'a> {
    rest: &'a [u8],
}

impl<'a> Attributes<'a> {
    /// Attributes in these bytes.
    pub const fn new(bytes: &'a [u8]) -> Self {
        Attributes { rest: bytes }
    }

    /// The first attribute of this type.
    pub fn get(self, kind: u16) -> Option<Attribute<'a>> {
        self.into_iter().find(|attribute| attribute.kind == kind)
    }
}

impl<'a> Iterator for Attributes<'a> {
    type Item = Attribute<'a>;

    fn next(&mut self) -> Option<Attribute<'a>> {
        let [l0, l1, k0, k1, after @ ..] = self.rest else { return None };
        let length = usize::from(u16::from_ne_bytes([*l0, *l1]));
        let payload = after.get(..length.checked_sub(4)?)?;
        self.rest = self.rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        // The two highest bits are flags: nested, and network byte order.
        Some(Attribute { kind: u16::from_ne_bytes([*k0, *k1]) & 0x3fff, payload })
    }
}

/// One attribute. The readers give `None` if the payload is shorter than asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attribute<'a> {
    /// Its type, without flags.
    pub kind: u16,
    /// Its bytes.
    pub payload: &'a [u8],
}

impl<'a> Attribute<'a> {
    fn array<const N: usize>(self) -> Option<[u8; N]> {
        self.payload.get(..N)?.try_into().ok()
    }

    /// 8 bits.
    pub fn u8(self) -> Option<u8> {
        self.array().map(|[byte]| byte)
    }

    /// 16 bits in host byte order.
    pub fn u16(self) -> Option<u16> {
        self.array().map(u16::from_ne_bytes)
    }

    /// 32 bits in host byte order.
    pub fn u32(self) -> Option<u32> {
        self.array().map(u32::from_ne_bytes)
    }

    /// 64 bits in host byte order.
    pub fn u64(self) -> Option<u64> {
        self.array().map(u64::from_ne_bytes)
    }

    /// 16 bits in network byte order.
    pub fn be16(self) -> Option<u16> {
        self.array().map(u16::from_be_bytes)
    }

    /// 32 bits in network byte order.
    pub fn be32(self) -> Option<u32> {
        self.array().map(u32::from_be_bytes)
    }

    /// 64 bits in network byte order.
    pub fn be64(self) -> Option<u64> {
        self.array().map(u64::from_be_bytes)
    }

    /// Text up to the first zero byte.
    pub fn text(self) -> Option<&'a str> {
        let end = self.payload.iter().position(|byte| *byte == 0).unwrap_or(self.payload.len());
        std::str::from_utf8(&self.payload[..end]).ok()
    }

    /// The attributes inside.
    pub const fn nested(self) -> Attributes<'a> {
        Attributes::new(self.payload)
    }
}
