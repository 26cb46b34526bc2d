//! Writing messages.

/// `NLM_F_*`
pub mod flags {
    /// It is a request.
    pub const REQUEST: u16 = 0x1;
    /// Answer also when it succeeded.
    pub const ACK: u16 = 0x4;
    /// Everything there is (`NLM_F_ROOT | NLM_F_MATCH`).
    pub const DUMP: u16 = 0x300;
    /// Replace what exists.
    pub const REPLACE: u16 = 0x100;
    /// Fail if it exists.
    pub const EXCL: u16 = 0x200;
    /// Make it if it does not exist.
    pub const CREATE: u16 = 0x400;
    /// Add to the end.
    pub const APPEND: u16 = 0x800;
}

/// `NLA_F_NESTED`
const NESTED: u16 = 0x8000;
/// Length of `struct nlmsghdr`.
pub(crate) const HEADER: usize = 16;
/// Length of `struct nlattr`.
const ATTRIBUTE: usize = 4;

/// One netlink message under construction, in host byte order as netlink wants it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    pub(crate) bytes: Vec<u8>,
    /// An attribute does not fit its 16-bit length: the message cannot be sent.
    pub(crate) too_long: bool,
}

impl Message {
    /// A message of this type. [`flags::REQUEST`] is added; sequence number and length are set on sending.
    pub fn new(kind: u16, flags: u16) -> Self {
        let mut bytes = Vec::with_capacity(256);
        bytes.extend_from_slice(&0u32.to_ne_bytes());
        bytes.extend_from_slice(&kind.to_ne_bytes());
        bytes.extend_from_slice(&(flags | flags::REQUEST).to_ne_bytes());
        bytes.extend_from_slice(&[0; 8]);
        Message { bytes, too_long: false }
    }

    /// A generic netlink message: `struct genlmsghdr` follows the header.
    pub fn generic(family: u16, flags: u16, command: u8, version: u8) -> Self {
        let mut message = Message::new(family, flags);
        message.raw(&[command, version, 0, 0]);
        message
    }

    /// Appends bytes that are no attribute (a family's own header), padded to four.
    pub fn raw(&mut self, bytes: &[u8]) -> &mut Self {
        self.bytes.extend_from_slice(bytes);
        self.pad();
        self
    }

    /// Appends an attribute.
    pub fn bytes(&mut self, kind: u16, payload: &[u8]) -> &mut Self {
        let length = u16::try_from(ATTRIBUTE + payload.len()).unwrap_or_else(|_| {
            self.too_long = true;
            0
        });
        self.bytes.extend_from_slice(&length.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.raw(payload)
    }

    /// An attribute without payload.
    pub fn flag(&mut self, kind: u16) -> &mut Self {
        self.bytes(kind, &[])
    }

    /// An 8-bit attribute.
    pub fn u8(&mut self, kind: u16, value: u8) -> &mut Self {
        self.bytes(kind, &[value])
    }

    /// A 16-bit attribute in host byte order.
    pub fn u16(&mut self, kind: u16, value: u16) -> &mut Self {
        self.bytes(kind, &value.to_ne_bytes())
    }

    /// A 32-bit attribute in host byte order.
    pub fn u32(&mut self, kind: u16, value: u32) -> &mut Self {
        self.bytes(kind, &value.to_ne_bytes())
    }

    /// A 16-bit attribute in network byte order.
    pub fn be16(&mut self, kind: u16, value: u16) -> &mut Self {
        self.bytes(kind, &value.to_be_bytes())
    }

    /// A 32-bit attribute in network byte order.
    pub fn be32(&mut self, kind: u16, value: u32) -> &mut Self {
        self.bytes(kind, &value.to_be_bytes())
    }

    /// A 64-bit attribute in network byte order.
    pub fn be64(&mut self, kind: u16, value: u64) -> &mut Self {
        self.bytes(kind, &value.to_be_bytes())
    }

    /// A text attribute, ended by a zero byte.
    pub fn text(&mut self, kind: u16, value: &str) -> &mut Self {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.bytes(kind, &bytes)
    }

    /// An attribute that holds the attributes which `inside` writes.
    pub fn nested(&mut self, kind: u16, inside: impl FnOnce(&mut Self)) -> &mut Self {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 2]);
        self.bytes.extend_from_slice(&(kind | NESTED).to_ne_bytes());
        inside(self);
        match u16::try_from(self.bytes.len() - start) {
            Ok(length) => self.bytes[start..start + 2].copy_from_slice(&length.to_ne_bytes()),
            Err(_) => self.too_long = true,
        }
        self
    }

    /// What follows the netlink header.
    pub fn payload(&self) -> &[u8] {
        &self.bytes[HEADER..]
    }

    /// Bytes so far, header included.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Never true: there is always a header.
    pub fn is_empty(&self) -> bool {
        false
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    /// Sets length, sequence number and further flags.
    pub(crate) fn seal(&mut self, sequence: u32, more: u16) {
        let length = u32::try_from(self.bytes.len()).unwrap_or_else(|_| {
            self.too_long = true;
            0
        });
        self.bytes[0..4].copy_from_slice(&length.to_ne_bytes());
        let flags = u16::from_ne_bytes([self.bytes[6], self.bytes[7]]) | more;
        self.bytes[6..8].copy_from_slice(&flags.to_ne_bytes());
        self.bytes[8..12].copy_from_slice(&sequence.to_ne_bytes());
    }
}
