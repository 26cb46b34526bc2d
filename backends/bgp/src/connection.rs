//! One connection: a task that reads and writes, and the hand that the transport keeps on it.

use std::future::pending;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use fairway_bgp::{ConnId, Input, Octets};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::{sleep, timeout};

use crate::dial::Dial;
use crate::option;

/// How long a dial may take.
const DIAL: Duration = Duration::from_secs(20);
/// How long what was sent before a close may take to leave.
const FLUSH: Duration = Duration::from_secs(2);
/// How long to read on when writing failed: the peer's last words say why it went.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// Bytes read at once.
const READ: usize = 64 << 10;
/// A peer that leaves more bytes than this unread is given up.
const QUEUE: usize = 16 << 20;

/// The transport's hand on a connection. Dropping it closes the connection after what was sent, or stops the dial;
/// nothing is reported from then on.
#[derive(Debug)]
pub(crate) struct Connection {
    queue: mpsc::UnboundedSender<Item>,
    shared: Arc<Shared>,
    /// The peer left too much unread. Nothing more is taken, so that the bytes have no hole.
    full: bool,
    /// The task sees that this is gone.
    _close: oneshot::Sender<()>,
}

#[derive(Debug, Default)]
struct Shared {
    /// Bytes handed over and not yet written.
    queued: AtomicUsize,
    /// The queue is full.
    full: Notify,
}

impl Connection {
    /// A connection's two sides: for the transport and for its task.
    pub(crate) fn new(conn: ConnId, events: mpsc::Sender<Input>) -> (Connection, Link) {
        let shared = Arc::new(Shared::default());
        let (queue, waiting) = mpsc::unbounded_channel();
        let (close, closed) = oneshot::channel();
        let outbox = Outbox {
            conn,
            events: events.clone(),
            waiting,
            current: Octets::default(),
            written: 0,
            shared: Arc::clone(&shared),
        };
        let link = Link { conn, events, outbox, shared: Arc::clone(&shared), closed };
        (Connection { queue, shared, full: false, _close: close }, link)
    }

    /// Whether the task has ended by itself.
    pub(crate) fn is_over(&self) -> bool {
        self.queue.is_closed()
    }

    /// Reports when all that was sent until now is written.
    pub(crate) fn drain(&self) {
        // A connection that broke reports so by itself.
        let _broken = self.queue.send(Item::Drain);
    }

    /// Sets the TTLs; before the first bytes, as items are taken in order.
    pub(crate) fn limit(&self, ttl: Option<u8>, min_ttl: Option<u8>) {
        let _broken = self.queue.send(Item::Limit(ttl, min_ttl));
    }

    /// Queues bytes.
    pub(crate) fn send(&mut self, bytes: &Octets) {
        if self.full {
            return;
        }
        if self.shared.queued.fetch_add(bytes.len(), Ordering::Relaxed) + bytes.len() > QUEUE {
            self.full = true;
            self.shared.full.notify_one();
            return;
        }
        // A connection that broke reports so by itself.
        let _broken = self.queue.send(Item::Bytes(bytes.clone()));
    }
}

/// The task's side of a connection.
pub(crate) struct Link {
    conn: ConnId,
    events: mpsc::Sender<Input>,
    outbox: Outbox,
    shared: Arc<Shared>,
    /// Ready when the transport has let go.
    closed: oneshot::Receiver<()>,
}

impl Link {
    /// Dials, reports the outcome and moves bytes.
    pub(crate) async fn dial(mut self, dial: Dial) {
        let conn = self.conn;
        let dialing = async {
            match timeout(DIAL, dial.connect()).await {
                Ok(Ok((stream, local, remote))) => {
                    self.events.send(Input::Connected { conn, local, remote }).await.ok().map(|()| stream)
                }
                Ok(Err(_)) | Err(_) => {
                    let _nobody = self.events.send(Input::ConnectFailed { conn }).await;
                    None
                }
            }
        };
        let stream = tokio::select! {
            biased;
            _ = &mut self.closed => None,
            stream = dialing => stream,
        };
        if let Some(stream) = stream {
            self.carry(stream).await;
        }
    }

    /// Moves bytes both ways until one side ends it.
    pub(crate) async fn carry(self, mut stream: TcpStream) {
        let Link { conn, events, mut outbox, shared, closed } = self;
        // Only slower if it fails: the kernel then holds small messages back.
        let _slower = stream.set_nodelay(true);
        let (reader, mut writer) = stream.split();
        let talk = async {
            let read = async {
                while let Ok(bytes) = receive(&reader).await {
                    // Waiting for room here slows down a peer that sends faster than we think.
                    if bytes.is_empty() || events.send(Input::Received { conn, bytes }).await.is_err() {
                        return;
                    }
                }
            };
            let write = async {
                match outbox.write(&mut writer).await {
                    // The queue ends when the transport lets go, and `closed` says so too.
                    Ok(()) => pending().await,
                    Err(_) => sleep(LAST_WORDS).await,
                }
            };
            tokio::select! {
                () = read => {}
                () = write => {}
                () = shared.full.notified() => {}
            }
            let _nobody = events.send(Input::Closed { conn }).await;
        };
        tokio::select! {
            biased;
            // A dropped sender is an error here, and what we wait for.
            _ = closed => {}
            () = talk => return,
        }
        let flush = async {
            if outbox.write(&mut writer).await.is_ok() {
                let _gone = writer.shutdown().await;
            }
        };
        // Bytes left unread would turn the end into a reset, and a reset takes from the peer what it has not read yet.
        let drain = async { while receive(&reader).await.is_ok_and(|bytes| !bytes.is_empty()) {} };
        let _late = timeout(FLUSH, async { tokio::join!(flush, drain) }).await;
    }
}

/// Bytes as they come, none at the end. A connection that has nothing to say holds no buffer.
async fn receive(reader: &ReadHalf<'_>) -> io::Result<Vec<u8>> {
    loop {
        reader.readable().await?;
        let mut bytes = Vec::with_capacity(READ);
        match reader.try_read_buf(&mut bytes) {
            Ok(_) => {
                bytes.shrink_to_fit();
                return Ok(bytes);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
}

/// What a task is given to do, in order.
enum Item {
    /// To be written.
    Bytes(Octets),
    /// To be reported.
    Drain,
    /// TTL of our packets, and the lowest of theirs.
    Limit(Option<u8>, Option<u8>),
}

/// Bytes on their way out.
struct Outbox {
    conn: ConnId,
    events: mpsc::Sender<Input>,
    waiting: mpsc::UnboundedReceiver<Item>,
    current: Octets,
    /// So much of `current` is written.
    written: usize,
    shared: Arc<Shared>,
}

impl Outbox {
    /// Writes until the queue ends. When it is dropped and called again, no byte is lost or written twice.
    async fn write(&mut self, writer: &mut WriteHalf<'_>) -> io::Result<()> {
        loop {
            while self.written < self.current.len() {
                let count = writer.write(&self.current[self.written..]).await?;
                if count == 0 {
                    return Err(io::ErrorKind::WriteZero.into());
                }
                self.written += count;
                self.shared.queued.fetch_sub(count, Ordering::Relaxed);
            }
            match self.waiting.recv().await {
                Some(Item::Drain) => {
                    let _nobody = self.events.send(Input::Drained { conn: self.conn }).await;
                }
                Some(Item::Limit(ttl, min_ttl)) => {
                    let stream = writer.as_ref();
                    option::limit(stream, stream.peer_addr()?, ttl, min_ttl)?;
                }
                Some(Item::Bytes(bytes)) => (self.current, self.written) = (bytes, 0),
                None => return Ok(()),
            }
        }
    }
}
