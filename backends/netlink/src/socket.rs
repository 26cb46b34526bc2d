//! Sending many messages at once and giving each its result.

use std::fmt;
use std::io;

use crate::message::{HEADER, Message, flags};

/// `NLMSG_ERROR`: an acknowledgement, or an error.
const ERROR: u16 = 2;
/// `NLMSG_DONE`: end of a dump.
const DONE: u16 = 3;
/// `NLM_F_DUMP_INTR`: the dump is inconsistent.
const DUMP_INTERRUPTED: u16 = 0x10;
/// `EMSGSIZE`
const EMSGSIZE: i32 = 90;
/// Messages in one system call. More does not make it faster; the kernel works on them before the call returns.
const CHUNK: usize = 200;
/// Room for the kernel's answers to one chunk, or for a good part of a dump.
pub(crate) const RECEIVE_BUFFER: usize = 8 << 20;
/// One transaction of nftables must go out in one call.
const SEND_BUFFER: usize = 64 << 20;
/// Bytes read at once; the kernel never makes a datagram of a dump longer than 32 KiB.
pub(crate) const READ: usize = 256 << 10;
/// How often a dump that was interrupted is repeated before that is reported.
const DUMPS: u32 = 4;

/// Which netlink, as `NETLINK_*`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// `NETLINK_GENERIC`
    Generic,
    /// `NETLINK_NETFILTER`
    Netfilter,
    /// `NETLINK_ROUTE`
    Route,
}

impl Protocol {
    pub(crate) const fn number(self) -> isize {
        match self {
            Protocol::Route => netlink_sys::protocols::NETLINK_ROUTE,
            Protocol::Netfilter => netlink_sys::protocols::NETLINK_NETFILTER,
            Protocol::Generic => netlink_sys::protocols::NETLINK_GENERIC,
        }
    }
}

/// A kernel error number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Errno(
    /// Positive, as in `errno.h`.
    pub i32,
);

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        io::Error::from_raw_os_error(self.0).fmt(f)
    }
}

/// Why a request has no answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A dump was interrupted by changes again and again.
    #[error("the dump was interrupted by concurrent changes")]
    Interrupted,
    /// Answers were lost (`ENOBUFS`), or the socket is broken. What was asked may have been done.
    #[error("netlink socket: {0}")]
    Lost(#[from] io::Error),
    /// The kernel refused.
    #[error("{0}")]
    Errno(Errno),
}

/// One message of the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// Message type.
    pub kind: u16,
    /// What follows the netlink header.
    pub payload: Vec<u8>,
}

/// A netlink socket, in the network namespace of the thread that opened it.
pub struct Socket {
    socket: netlink_sys::Socket,
    port: u32,
    sequence: u32,
    buffer: Vec<u8>,
}

impl fmt::Debug for Socket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Socket").field("sequence", &self.sequence).finish_non_exhaustive()
    }
}

/// One message as it came.
pub(crate) struct Raw<'a> {
    pub(crate) kind: u16,
    pub(crate) flags: u16,
    sequence: u32,
    /// `nlmsg_pid`
    pub(crate) port: u32,
    pub(crate) payload: &'a [u8],
}

impl Raw<'_> {
    /// The error number of an [`ERROR`] message; 0 is an acknowledgement.
    fn errno(&self) -> Option<i32> {
        let bytes: [u8; 4] = self.payload.get(..4)?.try_into().ok()?;
        Some(i32::from_ne_bytes(bytes).saturating_neg())
    }
}

/// Splits a datagram into messages. What does not fit ends it.
pub(crate) fn messages(mut rest: &[u8]) -> impl Iterator<Item = Raw<'_>> {
    std::iter::from_fn(move || {
        let header: &[u8; HEADER] = rest.get(..HEADER)?.try_into().ok()?;
        let word = |at: usize| u32::from_ne_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        let half = |at: usize| u16::from_ne_bytes([header[at], header[at + 1]]);
        let length = usize::try_from(word(0)).ok()?;
        let payload = rest.get(HEADER..length)?;
        let (kind, flags, sequence, port) = (half(4), half(6), word(8), word(12));
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(Raw { kind, flags, sequence, port, payload })
    })
}

impl Socket {
    /// Opens a socket.
    ///
    /// # Errors
    /// If the system refuses one.
    pub fn open(protocol: Protocol) -> io::Result<Socket> {
        let mut socket = netlink_sys::Socket::new(protocol.number())?;
        // The forced sizes need CAP_NET_ADMIN, as everything does that is worth saying here; without it the plain
        // ones give what the system allows, and the request that needs more fails by itself.
        if rustix::net::sockopt::set_socket_recv_buffer_size_force(&socket, RECEIVE_BUFFER).is_err() {
            rustix::net::sockopt::set_socket_recv_buffer_size(&socket, RECEIVE_BUFFER)?;
        }
        if rustix::net::sockopt::set_socket_send_buffer_size_force(&socket, SEND_BUFFER).is_err() {
            rustix::net::sockopt::set_socket_send_buffer_size(&socket, SEND_BUFFER)?;
        }
        // Errors shall not carry the whole request back.
        socket.set_cap_ack(true)?;
        let port = socket.bind_auto()?.port_number();
        Ok(Socket { socket, port, sequence: 0, buffer: Vec::with_capacity(READ) })
    }

    /// The number by which the kernel knows this socket; it names it in what it tells others of our requests.
    pub const fn port(&self) -> u32 {
        self.port
    }

    fn next(&mut self) -> u32 {
        // 0 is what the kernel uses for messages nobody asked for.
        self.sequence = self.sequence.checked_add(1).unwrap_or(1);
        self.sequence
    }

    fn read(&mut self) -> io::Result<()> {
        loop {
            self.buffer.clear();
            match self.socket.recv(&mut self.buffer, 0) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(_) => return Ok(()),
            }
        }
    }

    /// Throws away what the kernel still has to say, after something went wrong.
    fn drain(&mut self) {
        const DONT_WAIT: i32 = 0x40;
        loop {
            self.buffer.clear();
            match self.socket.recv(&mut self.buffer, DONT_WAIT) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                // An overrun is reported once; what is queued comes after it.
                Err(error) if error.raw_os_error() == Some(ENOBUFS) => {}
                Err(_) | Ok(0) => return,
                Ok(_) => {}
            }
        }
    }

    /// Carries out many requests, in order, and returns one result for each. A request that fails stops no other.
    ///
    /// # Errors
    /// [`Error::Lost`] if the results are not known.
    pub fn requests(&mut self, requests: Vec<Message>) -> Result<Vec<Result<(), Errno>>, Error> {
        let mut results = Vec::with_capacity(requests.len());
        let mut bytes = Vec::with_capacity(CHUNK * 256);
        let mut requests = requests.into_iter().peekable();
        while requests.peek().is_some() {
            bytes.clear();
            let start = results.len();
            let first = self.sequence.wrapping_add(1);
            let mut last = None;
            for mut request in requests.by_ref().take(CHUNK) {
                let sequence = self.next();
                request.seal(sequence, 0);
                if request.too_long {
                    results.push(Err(Errno(EMSGSIZE)));
                    continue;
                }
                results.push(Ok(()));
                last = Some((bytes.len(), sequence));
                bytes.extend_from_slice(&request.bytes);
            }
            let Some((at, sequence)) = last else { continue };
            // Failures are always reported. Success is asked for once, of the last: the kernel works in order.
            bytes[at + 6] |= flags::ACK.to_ne_bytes()[0];
            bytes[at + 7] |= flags::ACK.to_ne_bytes()[1];
            let outcome = self.send(&bytes).and_then(|()| self.collect(first, sequence, &mut results[start..]));
            if let Err(error) = outcome {
                self.drain();
                return Err(error.into());
            }
        }
        Ok(results)
    }

    fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        loop {
            match self.socket.send(bytes, 0) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
                Ok(_) => return Ok(()),
            }
        }
    }

    /// Reads results until the one of `last` came. `results` begins with that of `first`.
    fn collect(&mut self, first: u32, last: u32, results: &mut [Result<(), Errno>]) -> io::Result<()> {
        loop {
            self.read()?;
            let mut over = false;
            for message in messages(&self.buffer) {
                let index = message.sequence.wrapping_sub(first) as usize;
                if let (ERROR, Some(result), Some(errno)) = (message.kind, results.get_mut(index), message.errno()) {
                    if errno != 0 {
                        *result = Err(Errno(errno));
                    }
                    over |= message.sequence == last;
                }
            }
            if over {
                return Ok(());
            }
        }
    }

    /// Sends messages in one call that the kernel takes as one: all are done, or none. Used by nftables, whose first
    /// and last messages frame the batch. Results are in the order of the messages; a message the kernel said
    /// nothing of has `Ok`.
    ///
    /// The last message but the closing one is acknowledged, because kernels before 6.10 do not acknowledge the end.
    ///
    /// # Errors
    /// [`Error::Lost`] if it is not known what became of it; `EMSGSIZE` if it is too long for the socket.
    pub fn transaction(&mut self, batch: Vec<Message>) -> Result<Vec<Result<(), Errno>>, Error> {
        let count = batch.len();
        let Some(acknowledged) = count.checked_sub(2).filter(|n| *n > 0) else {
            return Ok(vec![Ok(()); count]);
        };
        let first = self.sequence.wrapping_add(1);
        let mut bytes = vec![];
        let mut last = first;
        for (index, mut message) in batch.into_iter().enumerate() {
            let sequence = self.next();
            message.seal(sequence, if index == acknowledged { flags::ACK } else { 0 });
            if message.too_long {
                return Err(Error::Errno(Errno(EMSGSIZE)));
            }
            if index == acknowledged {
                last = sequence;
            }
            bytes.extend_from_slice(&message.bytes);
        }
        let mut results = vec![Ok(()); count];
        self.send(&bytes)?;
        // When the batch fails early the kernel reports the errors and no acknowledgement follows, so nothing may be
        // waited for after the first error: the kernel answered everything before the call returned.
        let mut heard = false;
        loop {
            match self.read_now()? {
                false if heard => return Ok(results),
                false => return Err(io::Error::from(io::ErrorKind::TimedOut).into()),
                true => {}
            }
            for message in messages(&self.buffer) {
                let index = message.sequence.wrapping_sub(first) as usize;
                if let (ERROR, Some(result), Some(errno)) = (message.kind, results.get_mut(index), message.errno()) {
                    heard |= errno != 0 || message.sequence == last;
                    if errno != 0 {
                        *result = Err(Errno(errno));
                    }
                }
            }
        }
    }

    /// Reads what is there without waiting; false if there is nothing.
    fn read_now(&mut self) -> io::Result<bool> {
        const DONT_WAIT: i32 = 0x40;
        loop {
            self.buffer.clear();
            match self.socket.recv(&mut self.buffer, DONT_WAIT) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
                Ok(read) => return Ok(read > 0),
            }
        }
    }

    /// Makes one request and returns what the kernel says to it before it acknowledges.
    ///
    /// # Errors
    /// The kernel's refusal, or [`Error::Lost`].
    pub fn request(&mut self, mut request: Message) -> Result<Vec<Reply>, Error> {
        let sequence = self.next();
        request.seal(sequence, flags::ACK);
        if request.too_long {
            return Err(Error::Errno(Errno(EMSGSIZE)));
        }
        self.send(&request.bytes)?;
        let mut replies = vec![];
        loop {
            if let Err(error) = self.read() {
                self.drain();
                return Err(error.into());
            }
            for message in messages(&self.buffer).filter(|message| message.sequence == sequence) {
                match (message.kind, message.errno()) {
                    (ERROR, Some(0)) => return Ok(replies),
                    (ERROR, errno) => return Err(Error::Errno(Errno(errno.unwrap_or_default()))),
                    (kind, _) => replies.push(Reply { kind, payload: message.payload.to_vec() }),
                }
            }
        }
    }

    /// Reads everything a request is about. `each` gets type and payload of each message; `restart` is called before
    /// a repetition, after a dump that changes interrupted: forget what `each` got.
    ///
    /// # Errors
    /// The kernel's refusal, [`Error::Interrupted`] if it never got through, or [`Error::Lost`].
    pub fn dump<T>(
        &mut self,
        request: &Message,
        state: &mut T,
        mut restart: impl FnMut(&mut T),
        mut each: impl FnMut(&mut T, u16, &[u8]),
    ) -> Result<(), Error> {
        for _ in 0..DUMPS {
            restart(state);
            let sequence = self.next();
            let mut request = request.clone();
            request.seal(sequence, flags::DUMP);
            if request.too_long {
                return Err(Error::Errno(Errno(EMSGSIZE)));
            }
            self.send(&request.bytes)?;
            if self.dump_once(sequence, state, &mut each)? {
                return Ok(());
            }
        }
        Err(Error::Interrupted)
    }

    /// Whether the dump is consistent.
    fn dump_once<T>(
        &mut self,
        sequence: u32,
        state: &mut T,
        each: &mut impl FnMut(&mut T, u16, &[u8]),
    ) -> Result<bool, Error> {
        let mut consistent = true;
        loop {
            if let Err(error) = self.read() {
                self.drain();
                return Err(error.into());
            }
            for message in messages(&self.buffer).filter(|message| message.sequence == sequence) {
                consistent &= message.flags & DUMP_INTERRUPTED == 0;
                match (message.kind, message.errno()) {
                    // A dump that fails in the middle ends with the error in its last message.
                    (DONE, errno) => match errno.unwrap_or_default() {
                        0 => return Ok(consistent),
                        EINTR => return Ok(false),
                        errno => return Err(Error::Errno(Errno(errno))),
                    },
                    (ERROR, errno) => return Err(Error::Errno(Errno(errno.unwrap_or_default()))),
                    (kind, _) => each(state, kind, message.payload),
                }
            }
        }
    }

    /// Carries out many dumps or look-ups at once: `each` gets the index of the request, type and payload.
    /// The requests must be such that each is answered by one message or an error, not dumps.
    ///
    /// # Errors
    /// [`Error::Lost`] if the results are not known.
    pub fn ask(
        &mut self,
        requests: Vec<Message>,
        mut each: impl FnMut(usize, Result<(u16, &[u8]), Errno>),
    ) -> Result<(), Error> {
        let mut requests = requests.into_iter().peekable();
        let mut asked = 0;
        while requests.peek().is_some() {
            let first = self.sequence.wrapping_add(1);
            let mut bytes = vec![];
            let mut sent = 0;
            for mut request in requests.by_ref().take(CHUNK) {
                let sequence = self.next();
                request.seal(sequence, 0);
                bytes.extend_from_slice(&request.bytes);
                sent += 1;
            }
            self.send(&bytes)?;
            let mut answered = 0;
            while answered < sent {
                if let Err(error) = self.read() {
                    self.drain();
                    return Err(error.into());
                }
                for message in messages(&self.buffer) {
                    let index = message.sequence.wrapping_sub(first) as usize;
                    if index < sent {
                        answered += 1;
                        let answer = match message.kind {
                            ERROR => Err(Errno(message.errno().unwrap_or_default())),
                            kind => Ok((kind, message.payload)),
                        };
                        each(asked + index, answer);
                    }
                }
            }
            asked += sent;
        }
        Ok(())
    }
}

const ENOBUFS: i32 = 105;
const EINTR: i32 = 4;
