//! A client of HTTP/2 that writes its frames itself, right or wrong.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use super::tls::{Authority, connect};
use super::{HOST, TestEdge};

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;

pub const END_STREAM: u8 = 1;
pub const ACK: u8 = 1;
pub const END_HEADERS: u8 = 4;
pub const PADDED: u8 = 8;

/// A request that is its head alone.
pub const WHOLE: u8 = END_STREAM | END_HEADERS;

/// Settings by number (RFC 9113, 6.5.2).
pub const HEADER_TABLE_SIZE: u16 = 1;
pub const INITIAL_WINDOW_SIZE: u16 = 4;

/// Codes of errors (RFC 9113, 7).
pub const NO_ERROR: u32 = 0;
pub const PROTOCOL_ERROR: u32 = 1;
pub const FLOW_CONTROL_ERROR: u32 = 3;
pub const STREAM_CLOSED: u32 = 5;
pub const FRAME_SIZE_ERROR: u32 = 6;
pub const REFUSED_STREAM: u32 = 7;
pub const COMPRESSION_ERROR: u32 = 9;
pub const ENHANCE_YOUR_CALM: u32 = 11;

pub struct Framed {
    stream: TlsStream<TcpStream>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub content: Vec<u8>,
}

impl Frame {
    /// The number at `at`.
    pub fn number(&self, at: usize) -> u32 {
        u32::from_be_bytes(self.content[at..at + 4].try_into().unwrap())
    }

    pub fn ends(&self) -> bool {
        self.flags & END_STREAM != 0
    }
}

impl Framed {
    /// Says hello, with these settings.
    pub async fn open(edge: &TestEdge, authority: &Authority, settings: &[(u16, u32)]) -> Self {
        let mut framed = Self::silent(edge, authority).await;
        let mut hello = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        hello.extend(frame(SETTINGS, 0, 0, &self::settings(settings)));
        framed.write(&hello).await;
        framed
    }

    /// Has said nothing yet.
    pub async fn silent(edge: &TestEdge, authority: &Authority) -> Self {
        let config = authority.client(&["h2"], false);
        let stream = connect(edge.https(), &config, HOST).await.unwrap();
        // Else each small frame would wait for the acknowledgement of the one before.
        stream.get_ref().0.set_nodelay(true).unwrap();
        Self { stream }
    }

    pub async fn write(&mut self, bytes: &[u8]) {
        // The other side may have closed: what it said before is still to be read.
        let _ = self.stream.write_all(bytes).await;
        let _ = self.stream.flush().await;
    }

    pub async fn send(&mut self, kind: u8, flags: u8, stream: u32, content: &[u8]) {
        self.write(&frame(kind, flags, stream, content)).await;
    }

    /// Asks for `path` on `stream`.
    pub async fn get(&mut self, stream: u32, path: &str) {
        self.send(HEADERS, WHOLE, stream, &head("GET", path)).await;
    }

    /// The next frame; `None` at the end of the connection.
    pub async fn next(&mut self) -> Option<Frame> {
        let read = async {
            let mut head = [0; 9];
            self.stream.read_exact(&mut head).await.ok()?;
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
            let mut content = vec![0; length as usize];
            self.stream.read_exact(&mut content).await.ok()?;
            let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
            Some(Frame { kind: head[3], flags: head[4], stream, content })
        };
        tokio::time::timeout(Duration::from_secs(20), read).await.expect("nothing comes")
    }

    /// The next frame of this kind.
    pub async fn find(&mut self, kind: u8) -> Frame {
        loop {
            let frame = self.next().await.expect("the connection ended before that");
            if frame.kind == kind {
                return frame;
            }
        }
    }

    /// The code with which the edge ends the connection.
    pub async fn goaway(&mut self) -> u32 {
        let code = self.find(GOAWAY).await.number(4);
        while self.next().await.is_some() {}
        code
    }

    /// The status and the body of the answer on `stream`.
    pub async fn answer(&mut self, stream: u32) -> (u8, Vec<u8>) {
        let (mut status, mut body) = (0, Vec::new());
        loop {
            let frame = self.next().await.expect("the connection ended before the answer");
            match frame.kind {
                HEADERS if frame.stream == stream => status = frame.content[0],
                DATA if frame.stream == stream => body.extend(&frame.content),
                RST_STREAM if frame.stream == stream => panic!("reset: {frame:?}"),
                _ => continue,
            }
            if frame.ends() {
                return (status, body);
            }
        }
    }
}

/// How an answer of status 200 begins.
pub const OK: u8 = 0x88;

pub fn frame(kind: u8, flags: u8, stream: u32, content: &[u8]) -> Vec<u8> {
    let mut frame = (content.len() as u32).to_be_bytes()[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(content);
    frame
}

pub fn settings(settings: &[(u16, u32)]) -> Vec<u8> {
    let entry =
        |(name, value): &(u16, u32)| [&name.to_be_bytes()[..], &value.to_be_bytes()].concat();
    settings.iter().flat_map(entry).collect()
}

/// A field that is not indexed, without Huffman coding.
pub fn field(name: &str, value: &str) -> Vec<u8> {
    let mut field = vec![0, name.len() as u8];
    field.extend(name.as_bytes());
    field.push(value.len() as u8);
    field.extend(value.as_bytes());
    field
}

/// The fields of a request.
pub fn head(method: &str, path: &str) -> Vec<u8> {
    let fields = [(":method", method), (":scheme", "https"), (":authority", HOST), (":path", path)];
    fields.map(|(name, value)| field(name, value)).concat()
}
