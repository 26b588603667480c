//! One client connection of the generator: HTTP/1.1 on raw bytes, so that it costs little, HTTP/2 by hyper.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpSocket;
use tokio_rustls::TlsConnector;

use super::scenario::{Connection, Protocol};
use crate::peers::{Failed, HOST, Outcome, failing};

/// Where and how to connect.
#[derive(Clone)]
pub struct Target {
    pub address: SocketAddr,
    pub path: &'static str,
    pub protocol: Protocol,
    pub connection: Connection,
    pub tls: Arc<ClientConfig>,
}

/// An open connection.
pub enum Line {
    Http1 { stream: Box<dyn Duplex>, request: Vec<u8>, buffer: Vec<u8> },
    Http2 { sender: SendRequest<Empty<Bytes>>, port: u16, path: &'static str },
}

pub trait Duplex: AsyncRead + AsyncWrite + Unpin {}
impl<T: AsyncRead + AsyncWrite + Unpin> Duplex for T {}

/// Clients come from so many addresses of 127.0.0.0/8: each has its own ports, and limits per address do not interfere.
const SOURCES: usize = 100;
const BUFFER: usize = 64 * 1024;
/// A server that was asked to close has this long to do it.
const CLOSE: Duration = Duration::from_secs(1);

impl Line {
    /// Connects as the `nth` client.
    pub async fn open(target: &Target, nth: usize) -> Outcome<Self> {
        let stream = connect(target.address, nth).await?;
        if target.protocol == Protocol::Http1 {
            return Ok(Self::http1(Box::new(stream), target));
        }
        let name = ServerName::try_from(HOST).map_err(failing("naming the server"))?;
        let stream = TlsConnector::from(target.tls.clone()).connect(name, stream).await;
        let stream = stream.map_err(failing("shaking hands"))?;
        if target.protocol == Protocol::TlsHttp1 {
            return Ok(Self::http1(Box::new(stream), target));
        }
        if stream.get_ref().1.alpn_protocol() != Some(b"h2") {
            return Err(Failed("the proxy does not speak HTTP/2".into()));
        }
        let handshake = http2::handshake(Local, TokioIo::new(stream)).await;
        let (sender, connection) = handshake.map_err(failing("opening HTTP/2"))?;
        // Its errors reach the request that suffers from them.
        tokio::task::spawn_local(async move { drop(connection.await) });
        Ok(Self::Http2 { sender, port: target.address.port(), path: target.path })
    }

    fn http1(stream: Box<dyn Duplex>, target: &Target) -> Self {
        let close = if target.connection == Connection::New { "connection: close\r\n" } else { "" };
        let (path, port) = (target.path, target.address.port());
        let request = format!("GET {path} HTTP/1.1\r\nhost: {HOST}:{port}\r\n{close}\r\n");
        Self::Http1 { stream, request: request.into_bytes(), buffer: vec![0; BUFFER] }
    }

    /// One request, to the end of its answer.
    pub async fn ask(&mut self) -> Outcome<()> {
        match self {
            Self::Http1 { stream, request, buffer } => {
                stream.write_all(request).await.map_err(failing("sending"))?;
                read_answer(stream, buffer).await
            }
            Self::Http2 { sender, port, path } => {
                let uri = format!("https://{HOST}:{port}{path}");
                let request = Request::get(uri).body(Empty::new());
                let request = request.map_err(failing("making a request"))?;
                let answer = sender.send_request(request).await.map_err(failing("asking"))?;
                let status = answer.status();
                let mut body = answer.into_body();
                while let Some(frame) = body.frame().await {
                    frame.map_err(failing("reading an answer"))?;
                }
                if status.is_success() { Ok(()) } else { Err(Failed(format!("answered {status}"))) }
            }
        }
    }

    /// Lets the server close first, so that no port of this side has to wait.
    pub async fn close(self) {
        let Self::Http1 { mut stream, mut buffer, .. } = self else { return };
        let ending = async { while let Ok(1..) = stream.read(&mut buffer).await {} };
        // If it does not, this side does.
        let _ = tokio::time::timeout(CLOSE, ending).await;
    }
}

async fn connect(address: SocketAddr, nth: usize) -> Outcome<tokio::net::TcpStream> {
    let source = Ipv4Addr::new(127, 0, 1, (nth % SOURCES) as u8 + 1);
    let socket = TcpSocket::new_v4().map_err(failing("opening a socket"))?;
    socket.set_reuseaddr(true).map_err(failing("reusing addresses"))?;
    socket.bind((source, 0).into()).map_err(failing(format_args!("binding {source}")))?;
    let stream = socket.connect(address).await;
    let stream = stream.map_err(failing(format_args!("connecting to {address}")))?;
    stream.set_nodelay(true).map_err(failing("turning Nagle off"))?;
    Ok(stream)
}

/// Reads a head with `content-length`, and so much body.
async fn read_answer(stream: &mut Box<dyn Duplex>, buffer: &mut [u8]) -> Outcome<()> {
    let mut filled = 0;
    let (head, length) = loop {
        let room = &mut buffer[filled..];
        if room.is_empty() {
            return Err(Failed("the head of the answer does not end".into()));
        }
        match stream.read(room).await.map_err(failing("reading an answer"))? {
            0 => return Err(Failed("closed before the answer".into())),
            more => filled += more,
        }
        if let Some(parsed) = parse_head(&buffer[..filled])? {
            break parsed;
        }
    };
    let mut missing = (head + length).saturating_sub(filled);
    while missing > 0 {
        match stream.read(buffer).await.map_err(failing("reading an answer"))? {
            0 => return Err(Failed("closed within the answer".into())),
            more => missing = missing.saturating_sub(more),
        }
    }
    Ok(())
}

/// The length of the head and of the body, once the head is whole.
fn parse_head(bytes: &[u8]) -> Outcome<Option<(usize, usize)>> {
    let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else { return Ok(None) };
    let text = String::from_utf8_lossy(&bytes[..end]);
    let mut lines = text.lines();
    let status = lines.next().unwrap_or_default();
    if !status.starts_with("HTTP/1.1 200") {
        return Err(Failed(format!("answered `{status}`")));
    }
    let length = lines.find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse().ok())?
    });
    let length = length.ok_or_else(|| Failed("an answer without Content-Length".into()))?;
    Ok(Some((end + 4, length)))
}

/// Runs hyper's tasks on this thread.
#[derive(Clone)]
struct Local;

impl<F: Future + 'static> hyper::rt::Executor<F> for Local {
    fn execute(&self, task: F) {
        tokio::task::spawn_local(async move { drop(task.await) });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_read_once_it_is_whole_and_only_200_will_do() {
        assert_eq!(parse_head(b"HTTP/1.1 200 OK\r\nContent-Le").unwrap(), None);
        let whole = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc";
        assert_eq!(parse_head(whole).unwrap(), Some((38, 3)));
        assert!(parse_head(b"HTTP/1.1 502 Bad Gateway\r\n\r\n").is_err());
    }
}
