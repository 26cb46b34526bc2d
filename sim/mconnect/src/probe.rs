//! Liveness over HTTP: status 200 for as long as the process runs.
//!
//! Just enough of HTTP/1.1 (RFC 9112) for the kubelet and curl: one request per connection, headers are read and not
//! looked at, bodies are not.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::server::accept;

/// A request with longer headers is refused.
const REQUEST_BYTES_MAX: usize = 8192;

/// Connections at one time; one too many is closed at once, for a probe that asks this often is broken.
const CONNECTIONS_MAX: usize = 64;

/// How long a request may take, so that silent peers do not pile up.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// Answers requests for ever; dropping the future ends it.
pub(crate) async fn serve(listener: TcpListener) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            stream = accept(&listener) => if connections.len() < CONNECTIONS_MAX {
                // A peer that fails to ask or to listen has no one left to be told.
                connections.spawn(timeout(REQUEST_TIMEOUT, respond(stream)));
            },
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
        }
    }
}

/// Reads one request and answers it.
async fn respond<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S) -> io::Result<()> {
    let mut request = Vec::new();
    let mut chunk = [0; 1024];
    while !request.windows(4).any(|end| end == b"\r\n\r\n") {
        let read = stream.read(&mut chunk).await?;
        if read == 0 {
            return Ok(());
        }
        request.extend_from_slice(&chunk[..read]);
        if request.len() > REQUEST_BYTES_MAX {
            return write_response(&mut stream, "431 Request Header Fields Too Large", "", "too long\n").await;
        }
    }
    match request.split(|byte| *byte == b' ').next() {
        Some(b"GET") => write_response(&mut stream, "200 OK", "", "ok\n").await,
        // HEAD announces the length of what GET would send, and sends none of it.
        Some(b"HEAD") => write_head(&mut stream, "200 OK", "", 3).await,
        _ => write_response(&mut stream, "405 Method Not Allowed", "Allow: GET, HEAD\r\n", "GET or HEAD\n").await,
    }
}

async fn write_response<S: AsyncWrite + Unpin>(
    stream: &mut S,
    status: &str,
    header: &str,
    body: &str,
) -> io::Result<()> {
    write_head(stream, status, header, body.len()).await?;
    stream.write_all(body.as_bytes()).await?;
    stream.shutdown().await
}

async fn write_head<S: AsyncWrite + Unpin>(
    stream: &mut S,
    status: &str,
    header: &str,
    length: usize,
) -> io::Result<()> {
    let head = format!(
        "HTTP/1.1 {status}\r\n{header}Content-Type: text/plain\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await
}

#[cfg(test)]
mod tests {
    use tokio_test::io::Builder;

    use super::*;

    const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 3\r\nConnection: close\r\n\r\n";

    #[test]
    fn requests() {
        let ends = [
            Builder::new().read(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").write(OK).write(b"ok\n").build(),
            // The end of the headers may fall between two reads.
            Builder::new().read(b"GET /healthz HTTP/1.1\r\n\r").read(b"\n").write(OK).write(b"ok\n").build(),
            Builder::new().read(b"HEAD / HTTP/1.0\r\n\r\n").write(OK).build(),
            Builder::new().read(b"GET / HT").build(),
            Builder::new()
                .read(b"POST / HTTP/1.1\r\n\r\n")
                .write(b"HTTP/1.1 405 Method Not Allowed\r\nAllow: GET, HEAD\r\nContent-Type: text/plain\r\n")
                .write(b"Content-Length: 12\r\nConnection: close\r\n\r\nGET or HEAD\n")
                .build(),
        ];
        for stream in ends {
            tokio_test::block_on(respond(stream)).unwrap();
        }
    }

    #[test]
    fn endless_headers_are_refused() {
        let mut script = Builder::new();
        script.read(&[b'a'; REQUEST_BYTES_MAX + 1]);
        script.write(b"HTTP/1.1 431 Request Header Fields Too Large\r\nContent-Type: text/plain\r\n");
        script.write(b"Content-Length: 9\r\nConnection: close\r\n\r\ntoo long\n");
        tokio_test::block_on(respond(script.build())).unwrap();
    }
}
