//! The neighbours of the daemon: one that sends, and those that are told.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use fairway_bgp::wire::{AS_TRANS, Capability, Context, Message, Open, SAFI_UNICAST};
use socket2::{Domain, Socket, Type};

use crate::daemon::{ADDRESS, HOLD_S, PORT};
use crate::load::Load;

/// The AS of the neighbour that sends.
pub(crate) const FIRST_AS: u32 = 65_002;
/// The AS of those that are told, so that all are told the same.
pub(crate) const OTHER_AS: u32 = 65_003;
/// A daemon may take so long to start.
const START: Duration = Duration::from_secs(5);

/// The address of the neighbour that sends.
pub(crate) const fn first_address() -> Ipv4Addr {
    Ipv4Addr::new(192, 168, 9, 2)
}

/// The address of a neighbour that is told.
pub(crate) const fn collector_address(n: u8) -> Ipv4Addr {
    Ipv4Addr::new(192, 168, 9, 3 + n)
}

/// A session that is up.
fn connect(from: Ipv4Addr, asn: u32) -> Result<TcpStream, String> {
    let deadline = Instant::now() + START;
    loop {
        // A daemon that starts refuses, or accepts and closes.
        match try_connect(from, asn) {
            Ok(stream) => return Ok(stream),
            Err(error) if Instant::now() > deadline => return Err(format!("no session from {from}: {error}")),
            Err(_) => std::thread::sleep(Duration::from_millis(50)),
        }
    }
}

fn try_connect(from: Ipv4Addr, asn: u32) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.bind(&SocketAddr::from((from, 0)).into())?;
    socket.connect(&SocketAddr::from((ADDRESS, PORT)).into())?;
    let mut stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(START))?;
    let open = Open {
        asn2: u16::try_from(asn).unwrap_or(AS_TRANS),
        hold_s: HOLD_S,
        router_id: from,
        capabilities: vec![Capability::Multiprotocol { afi: 1, safi: SAFI_UNICAST }, Capability::FourOctetAs(asn)],
    };
    let context = Context::default();
    stream.write_all(&Message::Open(open).encode(context).unwrap())?;
    stream.write_all(&Message::Keepalive.encode(context).unwrap())?;
    for kind in [1, 4] {
        let mut header = [0; 19];
        stream.read_exact(&mut header)?;
        let mut body = vec![0; usize::from(u16::from_be_bytes([header[16], header[17]])) - header.len()];
        stream.read_exact(&mut body)?;
        if header[18] != kind {
            return Err(io::Error::other(format!("message of type {}: {body:?}", header[18])));
        }
    }
    Ok(stream)
}

/// The neighbour that sends.
pub(crate) struct Generator(TcpStream);

impl Generator {
    pub(crate) fn connect(limit: Duration) -> Result<Generator, String> {
        let stream = connect(first_address(), FIRST_AS)?;
        stream.set_write_timeout(Some(limit)).unwrap();
        stream.set_read_timeout(None).unwrap();
        let mut reader = stream.try_clone().unwrap();
        // It is told nothing but keepalives, and must not be stuck with them.
        std::thread::spawn(move || io::copy(&mut reader, &mut io::sink()));
        Ok(Generator(stream))
    }

    /// Sends, and says when it began.
    pub(crate) fn send(&mut self, bytes: &[u8]) -> Result<Instant, String> {
        let start = Instant::now();
        self.0.write_all(bytes).map_err(|error| format!("does not take the routes: {error}"))?;
        Ok(start)
    }

    /// Its connection ends.
    pub(crate) fn die(self) -> Instant {
        let end = Instant::now();
        let _gone = self.0.shutdown(Shutdown::Both);
        end
    }
}

impl Drop for Generator {
    fn drop(&mut self) {
        let _gone = self.0.shutdown(Shutdown::Both);
    }
}

enum News {
    /// It has all routes.
    Full(Instant),
    /// It has none any more.
    Empty(Instant),
    Failed(String),
}

/// Those that are told.
pub(crate) struct Collectors {
    streams: Vec<TcpStream>,
    news: Receiver<News>,
}

impl Collectors {
    pub(crate) fn connect(count: u8, routes: u32) -> Result<Collectors, String> {
        let (send, news) = channel();
        let mut collectors = Collectors { streams: Vec::new(), news };
        for n in 0..count {
            let stream = connect(collector_address(n), OTHER_AS)?;
            stream.set_read_timeout(None).unwrap();
            let (reader, send) = (stream.try_clone().unwrap(), send.clone());
            collectors.streams.push(stream);
            std::thread::spawn(move || {
                if let Err(error) = collect(reader, routes, &send) {
                    // Nobody listens when the run is over.
                    let _over = send.send(News::Failed(error));
                }
            });
        }
        Ok(collectors)
    }

    /// Waits until all have everything; says when the last one had.
    pub(crate) fn all_full(&self, limit: Duration) -> Result<Instant, String> {
        self.wait(limit, |news| if let News::Full(at) = news { Some(at) } else { None })
    }

    /// Waits until none has anything.
    pub(crate) fn all_empty(&self, limit: Duration) -> Result<Instant, String> {
        self.wait(limit, |news| if let News::Empty(at) = news { Some(at) } else { None })
    }

    fn wait(&self, limit: Duration, wanted: impl Fn(News) -> Option<Instant>) -> Result<Instant, String> {
        let deadline = Instant::now() + limit;
        let mut last = None;
        for _ in &self.streams {
            let at = match self.news.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(News::Failed(why)) => return Err(why),
                Ok(news) => wanted(news).ok_or("a neighbour lost routes that it shall have")?,
                Err(RecvTimeoutError::Timeout) => return Err(format!("more than {} s", limit.as_secs())),
                Err(RecvTimeoutError::Disconnected) => return Err("the neighbours are gone".into()),
            };
            last = last.max(Some(at));
        }
        last.ok_or_else(|| "no neighbours".into())
    }
}

impl Drop for Collectors {
    fn drop(&mut self) {
        for stream in &self.streams {
            let _gone = stream.shutdown(Shutdown::Both);
        }
    }
}

/// Follows what a neighbour is told.
fn collect(mut stream: TcpStream, routes: u32, news: &Sender<News>) -> Result<(), String> {
    let mut known = vec![false; routes as usize];
    let mut count = 0;
    let mut buffer = vec![0; 256 << 10];
    let mut filled = 0;
    loop {
        match stream.read(&mut buffer[filled..]) {
            Ok(0) => return Err("the daemon closed a session".into()),
            Ok(n) => filled += n,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(format!("a session is lost: {error}")),
        }
        let was = count;
        let mut rest = &buffer[..filled];
        while let Some(message) = first_message(rest) {
            rest = &rest[message.len()..];
            match message[18] {
                2 => update(&message[19..], &mut known, &mut count).ok_or("an UPDATE that is none")?,
                3 => return Err(format!("the daemon says NOTIFICATION {:?}", &message[19..])),
                _ => {}
            }
            let event = match (count, count == was) {
                (_, true) => continue,
                (0, _) => News::Empty(Instant::now()),
                (n, _) if n == routes as usize => News::Full(Instant::now()),
                _ => continue,
            };
            if news.send(event).is_err() {
                return Ok(());
            }
        }
        let used = filled - rest.len();
        buffer.copy_within(used..filled, 0);
        filled -= used;
    }
}

fn first_message(bytes: &[u8]) -> Option<&[u8]> {
    let len = usize::from(u16::from_be_bytes([*bytes.get(16)?, *bytes.get(17)?]));
    bytes.get(..len)
}

fn update(body: &[u8], known: &mut [bool], count: &mut usize) -> Option<()> {
    let section = |bytes: &[u8]| bytes.split_first_chunk::<2>().map(|(len, _)| usize::from(u16::from_be_bytes(*len)));
    let withdrawn = body.get(2..2 + section(body)?)?;
    let rest = body.get(2 + withdrawn.len()..)?;
    let nlri = rest.get(2 + section(rest)?..)?;
    let mut each = |mut bytes: &[u8], present: bool| {
        while let [bits, tail @ ..] = bytes {
            let octets = usize::from(bits.div_ceil(8));
            let mut address = [0; 4];
            address.get_mut(..octets)?.copy_from_slice(tail.get(..octets)?);
            bytes = &tail[octets..];
            let known = known.get_mut(Load::number(address, *bits)? as usize)?;
            match (std::mem::replace(known, present), present) {
                (false, true) => *count += 1,
                (true, false) => *count -= 1,
                _ => {}
            }
        }
        Some(())
    };
    each(withdrawn, false)?;
    each(nlri, true)
}
