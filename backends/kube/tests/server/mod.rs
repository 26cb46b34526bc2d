//! A scripted HTTP server: each request gets the next answer of a list, byte by byte as a test wants it.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use fairway_backend_kube::{Access, Cluster, Start, Watched};
use fairway_objects::{Delta, Kind, NoticeChange, Object};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

/// Nothing in a test takes longer, however busy the machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// What is sent to a request.
pub(crate) type Answer = Box<dyn FnOnce(&mut dyn Write) -> std::io::Result<()> + Send>;

/// A connection, with TLS or without.
trait Connection: Read + Write + Send {}

impl<T: Read + Write + Send> Connection for T {}

/// A request, its first line and its headers.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) uri: String,
    pub(crate) headers: Vec<String>,
}

impl Request {
    /// A parameter of the query.
    pub(crate) fn parameter(&self, name: &str) -> Option<&str> {
        let (_, query) = self.uri.split_once('?')?;
        query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))
    }
}

/// The server. Requests beyond its script wait until it is dropped.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    over: Arc<AtomicBool>,
    requests: Receiver<Request>,
    held: Arc<Mutex<Vec<Box<dyn Connection>>>>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    pub(crate) fn start(script: Vec<Answer>) -> Server {
        Server::at("127.0.0.1:0".parse().expect("an address"), script)
    }

    pub(crate) fn at(address: SocketAddr, script: Vec<Answer>) -> Server {
        Server::with(address, script, None)
    }

    pub(crate) fn with(address: SocketAddr, script: Vec<Answer>, tls: Option<Arc<ServerConfig>>) -> Server {
        let listener = TcpListener::bind(address).expect("a free port");
        let address = listener.local_addr().expect("bound");
        let over = Arc::new(AtomicBool::new(false));
        let held: Arc<Mutex<Vec<Box<dyn Connection>>>> = Arc::new(Mutex::new(vec![]));
        let (tell, requests) = channel();
        let (flag, hold) = (over.clone(), held.clone());
        let mut script: VecDeque<Answer> = script.into();
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(stream) = stream else { continue };
                if flag.load(Ordering::SeqCst) {
                    return;
                }
                stream.set_nodelay(true).expect("a TCP connection");
                let mut stream: Box<dyn Connection> = match &tls {
                    None => Box::new(stream),
                    Some(tls) => {
                        let connection = ServerConnection::new(tls.clone()).expect("a configuration that works");
                        Box::new(StreamOwned::new(connection, stream))
                    }
                };
                let Some(request) = read(&mut stream) else { continue };
                let _nobody = tell.send(request);
                match script.pop_front() {
                    // Whoever asked may be gone.
                    Some(answer) => drop(answer(&mut stream)),
                    None => hold.lock().expect("no panic").push(stream),
                }
            }
        });
        Server { address, over, requests, held, thread: Some(thread) }
    }

    /// The next request.
    pub(crate) fn request(&self) -> Request {
        self.requests.recv_timeout(PATIENCE).expect("a request")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.over.store(true, Ordering::SeqCst);
        // Wakes it up.
        let _listening = TcpStream::connect(self.address);
        if let Some(thread) = self.thread.take() {
            let _over = thread.join();
        }
        self.held.lock().expect("no panic").clear();
    }
}

fn read(stream: &mut dyn Read) -> Option<Request> {
    let mut lines = BufReader::new(stream).lines();
    let first = lines.next()?.ok()?;
    let uri = first.split(' ').nth(1)?.to_string();
    let mut headers = vec![];
    for line in lines {
        let line = line.ok()?;
        if line.is_empty() {
            return Some(Request { uri, headers });
        }
        headers.push(line);
    }
    None
}

/// A whole answer.
pub(crate) fn whole(status: &str, headers: &str, body: impl Into<String>) -> Answer {
    let body = body.into();
    let length = body.len();
    let text = format!("HTTP/1.1 {status}\r\nConnection: close\r\n{headers}Content-Length: {length}\r\n\r\n{body}");
    Box::new(move |stream| stream.write_all(text.as_bytes()))
}

/// A watch that says these lines and is closed in order.
pub(crate) fn lines(lines: &[String]) -> Answer {
    let body: String = lines.iter().map(|line| format!("{line}\n")).collect();
    Box::new(move |stream| {
        write!(stream, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n")?;
        if !body.is_empty() {
            write!(stream, "{:x}\r\n{body}\r\n", body.len())?;
        }
        write!(stream, "0\r\n\r\n")
    })
}

/// A watch that says this and is cut off, whatever it was about to say.
pub(crate) fn cut(text: impl Into<String>) -> Answer {
    let text = text.into();
    Box::new(move |stream| {
        write!(stream, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n")?;
        write!(stream, "{:x}\r\n{text}\r\n", text.len())?;
        stream.flush()
    })
}

/// As [`cut`], and nothing in the bytes tells that something is missing.
pub(crate) fn until_closed(text: impl Into<String>) -> Answer {
    let text = text.into();
    Box::new(move |stream| write!(stream, "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n{text}"))
}

/// As [`lines`], byte by byte.
pub(crate) fn dribble(lines: &[String]) -> Answer {
    let body: String = lines.iter().map(|line| format!("{line}\n")).collect();
    Box::new(move |stream| {
        write!(stream, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n")?;
        for byte in body.as_bytes() {
            stream.write_all(b"1\r\n")?;
            stream.write_all(&[*byte])?;
            stream.write_all(b"\r\n")?;
        }
        write!(stream, "0\r\n\r\n")
    })
}

pub(crate) fn service(name: &str, version: u64, port: u16) -> String {
    format!(
        r#"{{"metadata":{{"name":"{name}","namespace":"default","resourceVersion":"{version}"}},"spec":{{"ports":[{{"port":{port}}}]}}}}"#
    )
}

pub(crate) fn event(what: &str, object: &str) -> String {
    format!(r#"{{"type":"{what}","object":{object}}}"#)
}

pub(crate) fn bookmark(version: u64, ends_list: bool) -> String {
    let annotations = if ends_list { r#","annotations":{"k8s.io/initial-events-end":"true"}"# } else { "" };
    event("BOOKMARK", &format!(r#"{{"kind":"Service","metadata":{{"resourceVersion":"{version}"{annotations}}}}}"#))
}

pub(crate) fn list(version: u64, next: &str, items: &[String]) -> Answer {
    let items = items.join(",");
    whole(
        "200 OK",
        "",
        format!(r#"{{"metadata":{{"resourceVersion":"{version}","continue":"{next}"}},"items":[{items}]}}"#),
    )
}

pub(crate) fn status(code: u16, reason: &str, message: &str) -> String {
    format!(r#"{{"kind":"Status","status":"Failure","code":{code},"reason":"{reason}","message":"{message}"}}"#)
}

/// The refusal of a server that knows no `sendInitialEvents`.
pub(crate) fn no_streams() -> Answer {
    whole("422 Unprocessable Entity", "", status(422, "Invalid", "sendInitialEvents is forbidden"))
}

/// A client that watches services.
pub(crate) struct Client {
    pub(crate) cluster: Cluster,
    deltas: Receiver<Delta>,
    notices: Receiver<NoticeChange>,
}

impl Client {
    pub(crate) fn start(address: SocketAddr) -> Client {
        Client::with(Access::new(&format!("http://{address}"), ""))
    }

    pub(crate) fn with(access: Access) -> Client {
        let (told, notices): (Sender<NoticeChange>, _) = channel();
        let watched = vec![Watched { kind: Kind::Service, field_selector: None }];
        let notices_to = Box::new(move |change| drop(told.send(change)));
        let start = Start { access, watched, seed: 7, notices: notices_to };
        let (cluster, mut inbox) = Cluster::start(start).expect("usable access");
        let (tell, deltas) = channel();
        std::thread::spawn(move || {
            while let Some(delta) = inbox.recv() {
                if tell.send(delta).is_err() {
                    return;
                }
            }
        });
        Client { cluster, deltas, notices }
    }

    /// The next deltas as words: `[` and `]` a list, `+web:80`, `!web`, `-web`.
    pub(crate) fn says(&self, wanted: &[&str]) {
        let mut said = vec![];
        while said.len() < wanted.len() {
            match self.deltas.recv_timeout(PATIENCE) {
                Ok(delta) => said.push(word(&delta)),
                Err(_) => break,
            }
        }
        assert_eq!(said, wanted);
    }

    /// Nothing was said that nobody looked at.
    pub(crate) fn says_no_more(&self) {
        let more: Vec<String> = self.deltas.try_iter().map(|delta| word(&delta)).collect();
        assert_eq!(more, [""; 0]);
    }

    /// The next notice.
    pub(crate) fn notice(&self) -> String {
        match self.notices.recv_timeout(PATIENCE).expect("a notice") {
            NoticeChange::Raised(notice) => format!("+ {notice}"),
            NoticeChange::Cleared(notice) => format!("- {notice}"),
        }
    }

    pub(crate) fn no_notice(&self) {
        assert_eq!(self.notices.try_iter().collect::<Vec<_>>(), []);
    }
}

fn word(delta: &Delta) -> String {
    match delta {
        Delta::Put { object: Object::Service(s), .. } => {
            format!("+{}:{}", s.name.name, s.ports.first().map_or(0, |p| p.port))
        }
        Delta::Put { object, .. } => format!("+{}", object.key()),
        Delta::Invalid { key, .. } => format!("!{}", key.name.name),
        Delta::Del(key) => format!("-{}", key.name.name),
        Delta::Relist(_) => "[".into(),
        Delta::Listed(_) => "]".into(),
    }
}
