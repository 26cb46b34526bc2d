//! A server on a port of its own, and a small HTTP client.
#![allow(dead_code, reason = "each test file uses another part of it")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use fairway_api::{Api, ApiConfig};
use fairway_apiserver::{Options, Running, Server};
use serde_json::{Value, json};

/// A server with a node, whose pods start at once.
pub(crate) struct Cluster {
    pub(crate) server: Server,
    pub(crate) running: Running,
}

pub(crate) fn config() -> ApiConfig {
    ApiConfig {
        pod_start_ms: (1, 5),
        probe_ms: (1, 5),
        adopt_nodes: true,
        // A cluster that begins now, for the ages in tables.
        epoch_s: std::time::SystemTime::UNIX_EPOCH.elapsed().expect("after 1970").as_secs(),
        ..ApiConfig::default()
    }
}

impl Cluster {
    pub(crate) fn start(options: Options) -> Cluster {
        let api = Arc::new(Mutex::new(Api::new(config(), 1)));
        let server = Server::new(api, Instant::now(), options);
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let running = Running::start(server.clone(), listener).expect("a server");
        Cluster { server, running }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.running.address()
    }

    /// Applies a manifest beside HTTP.
    pub(crate) fn apply(&self, yaml: &str) {
        let now = self.server.now();
        let results = self.server.api().apply(now, yaml);
        results.into_iter().for_each(|r| drop(r.expect("applied")));
        self.server.changed();
    }

    pub(crate) fn call(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Reply {
        let mut stream = TcpStream::connect(self.address()).expect("connect");
        call(&mut stream, method, path, headers, body).expect("an answer")
    }

    pub(crate) fn get(&self, path: &str) -> Reply {
        self.call("GET", path, &[], "")
    }

    pub(crate) fn send(&self, method: &str, path: &str, body: &Value) -> Reply {
        self.call(method, path, &[("Content-Type", "application/json")], &body.to_string())
    }

    pub(crate) fn patch(&self, path: &str, form: &str, body: &Value) -> Reply {
        let form = format!("application/{form}");
        self.call("PATCH", path, &[("Content-Type", &form)], &body.to_string())
    }

    pub(crate) fn watch(&self, path: &str) -> Watch {
        Watch::open(self.address(), path, &[]).expect("a watch")
    }
}

#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) code: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Reply {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.body))
    }

    /// The answer, which must have a status.
    #[track_caller]
    pub(crate) fn ok(self, code: u16) -> Value {
        assert_eq!(self.code, code, "{}", self.body);
        self.json()
    }
}

fn request(
    stream: &mut TcpStream,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> std::io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    let mut text = format!("{method} {path} HTTP/1.1\r\nHost: server\r\nContent-Length: {}\r\n", body.len());
    for (name, value) in headers {
        text += &format!("{name}: {value}\r\n");
    }
    stream.write_all(format!("{text}\r\n{body}").as_bytes())
}

fn head(reader: &mut impl BufRead) -> std::io::Result<(u16, String)> {
    let mut head = String::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        if line == "\r\n" {
            break;
        }
        head += &line.to_lowercase();
    }
    let code = head.split(' ').nth(1).and_then(|c| c.parse().ok()).expect("a status");
    Ok((code, head))
}

pub(crate) fn call(
    stream: &mut TcpStream,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> std::io::Result<Reply> {
    request(stream, method, path, headers, body)?;
    let mut reader = BufReader::new(stream);
    let (code, head) = head(&mut reader)?;
    let length = head.lines().find_map(|l| l.strip_prefix("content-length: ")?.trim().parse::<usize>().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    reader.read_exact(&mut body)?;
    Ok(Reply { code, head, body: String::from_utf8(body).expect("UTF-8") })
}

/// A watch; its lines are events.
pub(crate) struct Watch {
    reader: BufReader<TcpStream>,
    pub(crate) code: u16,
    rest: Vec<u8>,
}

impl Watch {
    pub(crate) fn open(address: SocketAddr, path: &str, headers: &[(&str, &str)]) -> std::io::Result<Watch> {
        let mut stream = TcpStream::connect(address)?;
        request(&mut stream, "GET", path, headers, "")?;
        let mut reader = BufReader::new(stream);
        let (code, _) = head(&mut reader)?;
        Ok(Watch { reader, code, rest: vec![] })
    }

    fn chunk(&mut self) -> std::io::Result<bool> {
        let mut size = String::new();
        if self.reader.read_line(&mut size)? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        let size = usize::from_str_radix(size.trim(), 16).expect("a chunk's size");
        let mut data = vec![0; size + 2];
        self.reader.read_exact(&mut data)?;
        self.rest.extend_from_slice(&data[..size]);
        Ok(size > 0)
    }

    /// The next event; `None` when the server ended the watch, an error when it cut the connection.
    pub(crate) fn next(&mut self) -> std::io::Result<Option<Value>> {
        loop {
            if let Some(end) = self.rest.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = self.rest.drain(..=end).collect();
                return Ok(Some(serde_json::from_slice(&line).expect("JSON")));
            }
            if !self.chunk()? {
                return Ok(None);
            }
        }
    }

    /// The next event as `TYPE NAME`.
    pub(crate) fn short(&mut self) -> String {
        let event = self.next().expect("an event").unwrap_or(json!({"type": "END"}));
        let name = event.pointer("/object/metadata/name").and_then(Value::as_str).unwrap_or_default();
        format!("{} {name}", event["type"].as_str().unwrap_or_default()).trim().to_string()
    }
}

pub(crate) fn config_map(name: &str, data: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"text": data}})
}

pub(crate) const NODE: &str = r#"{"apiVersion": "v1", "kind": "Node", "metadata": {"name": "vm-1"},
    "spec": {"podCIDR": "11.0.1.0/24", "podCIDRs": ["11.0.1.0/24"]},
    "status": {"addresses": [{"type": "InternalIP", "address": "192.168.1.1"}]}}"#;
