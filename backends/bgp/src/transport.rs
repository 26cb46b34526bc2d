//! All connections of one speaker.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use fairway_bgp::{ConnId, Input, Output};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::connection::{Connection, Link};
use crate::dial::{Dial, plain};
use crate::listener::{Listener, try_password};
use crate::md5;

/// Why nobody can connect to us.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on BGP port {port}: {source}")]
pub struct ListenError {
    /// The port.
    pub port: u16,
    /// The system's reason.
    #[source]
    pub source: io::Error,
}

/// Why a password is not in effect.
#[derive(Debug, thiserror::Error)]
pub enum PasswordError {
    /// It is empty or too long.
    #[error("the TCP MD5 password for {peer} has {length} bytes; 1 to {max} are possible", max = md5::KEY_MAX)]
    Length {
        /// The peer.
        peer: IpAddr,
        /// Bytes of the password.
        length: usize,
    },
    /// The kernel knows no TCP MD5.
    #[error("no TCP MD5 password for {peer}: the kernel is built without CONFIG_TCP_MD5SIG")]
    Unsupported {
        /// The peer.
        peer: IpAddr,
    },
    /// The kernel refuses it for another reason.
    #[error("no TCP MD5 password for {peer}: {source}")]
    Refused {
        /// The peer.
        peer: IpAddr,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
}

impl PasswordError {
    fn new(peer: IpAddr, source: io::Error) -> PasswordError {
        match source.raw_os_error() {
            Some(libc::ENOPROTOOPT) => PasswordError::Unsupported { peer },
            _ => PasswordError::Refused { peer, source },
        }
    }
}

/// Why an output could not be carried out.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nobody can connect.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// A neighbour's password is not in effect.
    #[error(transparent)]
    Password(#[from] PasswordError),
}

/// The connections of one BGP speaker. Dropping it closes all of them at once.
///
/// Its methods must be called inside a tokio runtime; one of a single thread will do.
pub struct Transport {
    connections: Connections,
    listener: Option<Listener>,
    passwords: BTreeMap<IpAddr, String>,
}

impl fmt::Debug for Transport {
    // Passwords stay out of logs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transport")
            .field("port", &self.listener.as_ref().map(|listener| listener.port))
            .field("passwords", &self.passwords.keys())
            .finish_non_exhaustive()
    }
}

impl Transport {
    /// A transport without connections. What happens to them is sent to `events`. While that is full, nothing is read.
    pub fn new(events: mpsc::Sender<Input>) -> Transport {
        let table = Table { open: BTreeMap::new(), tasks: JoinSet::new(), next: 0 };
        let connections = Connections { table: Arc::new(Mutex::new(table)), events };
        Transport { connections, listener: None, passwords: BTreeMap::new() }
    }

    /// Carries out what the speaker wants. Never waits. Outputs that are not about connections are ignored.
    ///
    /// # Errors
    /// If a port cannot be listened on, or a password is not possible. Everything else is reported as an event.
    pub fn handle(&mut self, output: &Output) -> Result<(), Error> {
        match output {
            Output::Listen { port } => self.listen(*port)?,
            Output::Connect { conn, local, remote, password, ttl, min_ttl } => {
                let (ttl, min_ttl) = (*ttl, *min_ttl);
                let dial = Dial { local: *local, remote: *remote, password: password.clone(), ttl, min_ttl };
                let events = self.connections.events.clone();
                self.connections.lock().add(*conn, events, |link| link.dial(dial));
            }
            Output::Send { conn, bytes } => {
                if let Some(connection) = self.connections.lock().open.get_mut(conn) {
                    connection.send(bytes);
                }
            }
            Output::Drain { conn } => {
                if let Some(connection) = self.connections.lock().open.get(conn) {
                    connection.drain();
                }
            }
            Output::Limit { conn, ttl, min_ttl } => {
                if let Some(connection) = self.connections.lock().open.get(conn) {
                    connection.limit(*ttl, *min_ttl);
                }
            }
            Output::Password { peer, password } => self.set_password(*peer, password.as_deref())?,
            Output::Close { conn } => drop(self.connections.lock().open.remove(conn)),
            Output::Learned(_) | Output::Watch { .. } | Output::Event(_) => {}
        }
        Ok(())
    }

    /// Sets the MD5 password (RFC 2385) for connections that a peer opens to us, now and on later ports. `None` takes
    /// it away. Connections that stand are not touched.
    ///
    /// # Errors
    /// If the password is not possible here. Then nothing has changed.
    pub fn set_password(&mut self, peer: IpAddr, password: Option<&str>) -> Result<(), PasswordError> {
        if let Some(password) = password {
            let length = password.len();
            if length == 0 || length > md5::KEY_MAX {
                return Err(PasswordError::Length { peer, length });
            }
            try_password(peer, password).map_err(|source| PasswordError::new(peer, source))?;
        } else if !self.passwords.contains_key(&peer) {
            return Ok(());
        }
        if let Some(listener) = &self.listener {
            listener.set_password(peer, password).map_err(|source| PasswordError::new(peer, source))?;
        }
        match password {
            Some(password) => self.passwords.insert(peer, password.into()),
            None => self.passwords.remove(&peer),
        };
        Ok(())
    }

    fn listen(&mut self, port: u16) -> Result<(), ListenError> {
        if self.listener.as_ref().is_some_and(|listener| listener.port == port) {
            return Ok(());
        }
        self.listener = None;
        let listener = Listener::bind(port, &self.passwords, &self.connections);
        self.listener = Some(listener.map_err(|source| ListenError { port, source })?);
        Ok(())
    }
}

impl Drop for Transport {
    fn drop(&mut self) {
        self.listener = None;
        let mut table = self.connections.lock();
        // First of all, so that none begins to say goodbye.
        table.tasks.abort_all();
        table.open.clear();
    }
}

/// All connections, shared with the tasks that accept.
#[derive(Clone)]
pub(crate) struct Connections {
    table: Arc<Mutex<Table>>,
    events: mpsc::Sender<Input>,
}

struct Table {
    /// Those that the speaker may speak of, and some that ended by themselves.
    open: BTreeMap<ConnId, Connection>,
    /// The tasks of these, and of those that say goodbye.
    tasks: JoinSet<()>,
    /// The name of the next one that is accepted.
    next: u64,
}

impl Connections {
    /// Names and reports a connection that was accepted. False if nobody listens to reports any more.
    pub(crate) async fn accepted(&self, stream: TcpStream, remote: SocketAddr) -> bool {
        let Ok(local) = stream.local_addr() else {
            // A connection whose own end is not known any more is gone already.
            return true;
        };
        // Until there is room to report it, the next one waits in the kernel.
        let Ok(room) = self.events.reserve().await else { return false };
        // Nobody can speak of it before the lock is released, and its task reports only after this.
        let mut table = self.lock();
        let conn = ConnId::In(table.next);
        table.next += 1;
        room.send(Input::Accepted { conn, local: plain(local), remote: plain(remote) });
        table.add(conn, self.events.clone(), |link| link.carry(stream));
        true
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    fn add<F>(&mut self, conn: ConnId, events: mpsc::Sender<Input>, task: impl FnOnce(Link) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        // Connections begin far more seldom than they are spoken of, so this is the place to tidy up.
        self.open.retain(|_, connection| !connection.is_over());
        while self.tasks.try_join_next().is_some() {}
        let (connection, link) = Connection::new(conn, events);
        self.tasks.spawn(task(link));
        self.open.insert(conn, connection);
    }
}
