//! The frames of HTTP/2 (RFC 9113, 4 and 6): how they begin, and those that say all in a few bytes.

/// What every client says first (RFC 9113, 3.4).
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Bytes in front of what a frame holds.
pub const HEAD: usize = 9;
/// What a frame holds at most, unless somebody allows more; we do not (RFC 9113, 6.5.2).
pub const LARGEST: usize = 16 * 1024;
/// What a window may hold at most.
pub const LARGEST_WINDOW: i64 = (1 << 31) - 1;

/// How a frame begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    pub length: usize,
    pub kind: u8,
    pub flags: u8,
    /// 0 for the connection.
    pub stream: u32,
}

pub mod kind {
    pub const DATA: u8 = 0;
    pub const HEADERS: u8 = 1;
    pub const PRIORITY: u8 = 2;
    pub const RST_STREAM: u8 = 3;
    pub const SETTINGS: u8 = 4;
    pub const PUSH_PROMISE: u8 = 5;
    pub const PING: u8 = 6;
    pub const GOAWAY: u8 = 7;
    pub const WINDOW_UPDATE: u8 = 8;
    pub const CONTINUATION: u8 = 9;
}

pub mod flag {
    pub const END_STREAM: u8 = 1;
    pub const ACK: u8 = 1;
    pub const END_HEADERS: u8 = 4;
    pub const PADDED: u8 = 8;
    pub const PRIORITY: u8 = 0x20;
}

pub mod setting {
    pub const HEADER_TABLE_SIZE: u16 = 1;
    pub const ENABLE_PUSH: u16 = 2;
    pub const MAX_CONCURRENT_STREAMS: u16 = 3;
    pub const INITIAL_WINDOW_SIZE: u16 = 4;
    pub const MAX_FRAME_SIZE: u16 = 5;
    pub const MAX_HEADER_LIST_SIZE: u16 = 6;
}

/// Why a stream or a connection ends (RFC 9113, 7).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code {
    NoError = 0,
    Protocol = 1,
    Internal = 2,
    FlowControl = 3,
    StreamClosed = 5,
    FrameSize = 6,
    RefusedStream = 7,
    Cancel = 8,
    Compression = 9,
    EnhanceYourCalm = 11,
}

impl Head {
    /// The head at the start of `bytes`; `None` while it is incomplete.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let [a, b, c, kind, flags, stream @ ..] = bytes.first_chunk::<HEAD>()?;
        Some(Self {
            length: u32::from_be_bytes([0, *a, *b, *c]) as usize,
            kind: *kind,
            flags: *flags,
            // The highest bit means nothing.
            stream: u32::from_be_bytes(*stream) & (u32::MAX >> 1),
        })
    }

    /// Of a stream: nothing follows on it.
    pub fn ends(self) -> bool {
        self.flags & flag::END_STREAM != 0
    }

    pub fn write(self, into: &mut Vec<u8>) {
        let [_, a, b, c] = (self.length as u32).to_be_bytes();
        let [d, e, f, g] = self.stream.to_be_bytes();
        into.extend_from_slice(&[a, b, c, self.kind, self.flags, d, e, f, g]);
    }
}

/// Writes a frame whose content `fill` appends. What `fill` says comes back, with how long the content is.
pub fn write<T>(
    kind: u8,
    stream: u32,
    into: &mut Vec<u8>,
    fill: impl FnOnce(&mut Vec<u8>) -> (u8, T),
) -> (usize, T) {
    let at = into.len();
    Head { length: 0, kind, flags: 0, stream }.write(into);
    let (flags, said) = fill(into);
    let length = into.len() - at - HEAD;
    let [_, a, b, c] = (length as u32).to_be_bytes();
    into[at..at + 5].copy_from_slice(&[a, b, c, kind, flags]);
    (length, said)
}

fn short(kind: u8, stream: u32, content: &[u8], into: &mut Vec<u8>) {
    Head { length: content.len(), kind, flags: 0, stream }.write(into);
    into.extend_from_slice(content);
}

pub fn settings(settings: &[(u16, u32)], into: &mut Vec<u8>) {
    write(kind::SETTINGS, 0, into, |into| {
        for (name, value) in settings {
            into.extend_from_slice(&name.to_be_bytes());
            into.extend_from_slice(&value.to_be_bytes());
        }
        (0, ())
    });
}

pub fn settings_heard(into: &mut Vec<u8>) {
    Head { length: 0, kind: kind::SETTINGS, flags: flag::ACK, stream: 0 }.write(into);
}

pub fn ping(content: [u8; 8], is_answer: bool, into: &mut Vec<u8>) {
    let flags = if is_answer { flag::ACK } else { 0 };
    Head { length: content.len(), kind: kind::PING, flags, stream: 0 }.write(into);
    into.extend_from_slice(&content);
}

pub fn reset(stream: u32, code: Code, into: &mut Vec<u8>) {
    short(kind::RST_STREAM, stream, &(code as u32).to_be_bytes(), into);
}

/// Gives the client `bytes` more of a window.
pub fn window_update(stream: u32, bytes: u32, into: &mut Vec<u8>) {
    short(kind::WINDOW_UPDATE, stream, &bytes.to_be_bytes(), into);
}

/// Streams up to `last` are answered, others are not.
pub fn goaway(last: u32, code: Code, into: &mut Vec<u8>) {
    let [a, b, c, d] = last.to_be_bytes();
    let [e, f, g, h] = (code as u32).to_be_bytes();
    short(kind::GOAWAY, 0, &[a, b, c, d, e, f, g, h], into);
}

/// What a frame holds, without its padding (RFC 9113, 6.1).
pub fn unpadded(flags: u8, content: &[u8]) -> Result<&[u8], Code> {
    if flags & flag::PADDED == 0 {
        return Ok(content);
    }
    let (padding, rest) = content.split_first().ok_or(Code::FrameSize)?;
    let length = rest.len().checked_sub(usize::from(*padding)).ok_or(Code::Protocol)?;
    Ok(&rest[..length])
}
