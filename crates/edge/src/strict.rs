//! What a request's head must look like, checked on the raw bytes before hyper sees them.
//!
//! hyper accepts and repairs heads that two servers can read in two ways (request smuggling). The edge
//! refuses them: whatever it forwards has exactly one meaning.

/// How the bytes after the head are framed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// This many bytes of body; 0 without a body.
    Length(u64),
    Chunked,
    /// The client asks to leave HTTP: what follows belongs to the new protocol.
    Tunnel,
}

/// Why a head is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    Malformed,
    TargetTooLong,
    HeadTooLarge,
    UnknownCoding,
    UnknownVersion,
    TooSlow,
}

/// A request line with this method stands for a refused request: [`check`] lets no client send it.
pub const REFUSED: &str = "REFUSED";

pub const MAX_HEAD: usize = 32 * 1024;
const MAX_TARGET: usize = 8 * 1024;
pub const MAX_FIELDS: usize = 100;

impl Refusal {
    pub fn status(self) -> u16 {
        match self {
            Self::Malformed => 400,
            Self::TargetTooLong => 414,
            Self::HeadTooLarge => 431,
            Self::UnknownCoding => 501,
            Self::UnknownVersion => 505,
            Self::TooSlow => 408,
        }
    }

    /// What hyper is given in the place of the refused head, so that the answer keeps its turn.
    pub fn stand_in(self) -> Vec<u8> {
        format!("{REFUSED} /{} HTTP/1.1\r\nhost: refused\r\n\r\n", self.status()).into_bytes()
    }
}

/// The length of the head at the start of `bytes`, with its empty line; `None` while it is incomplete.
/// A bare line feed ends a line here too, so that [`check`] gets to see and refuse it.
/// The first `seen` bytes were looked at before: a head that comes byte by byte is not read over and over.
pub fn head_length(bytes: &[u8], seen: usize) -> Option<usize> {
    let mut from = seen.saturating_sub(2);
    while let Some(at) = bytes[from..].iter().position(|b| *b == b'\n') {
        let end = from + at + 1;
        match &bytes[end..] {
            [b'\r', b'\n', ..] => return Some(end + 2),
            [b'\n', ..] => return Some(end + 1),
            _ => from = end,
        }
    }
    None
}

/// Checks a whole head, its empty line included.
pub fn check(head: &[u8]) -> Result<Framing, Refusal> {
    let lines = head.strip_suffix(b"\r\n\r\n").ok_or(Refusal::Malformed)?;
    let mut lines = split_lines(lines);
    let version = request_line(lines.next().unwrap_or_default())?;
    let mut fields = Fields::default();
    for (count, line) in lines.enumerate() {
        if count >= MAX_FIELDS {
            return Err(Refusal::HeadTooLarge);
        }
        fields.add(line)?;
    }
    fields.framing(&version)
}

/// Splits at CRLF; a carriage return or line feed elsewhere stays in a line and is refused there.
fn split_lines(mut bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut done = false;
    std::iter::from_fn(move || {
        if done {
            return None;
        }
        let end = bytes.windows(2).position(|pair| pair == b"\r\n");
        let line = &bytes[..end.unwrap_or(bytes.len())];
        match end {
            Some(end) => bytes = &bytes[end + 2..],
            None => done = true,
        }
        Some(line)
    })
}

struct Version<'a> {
    one_one: bool,
    /// The authority of an absolute-form target.
    authority: Option<&'a [u8]>,
}

fn request_line(line: &[u8]) -> Result<Version<'_>, Refusal> {
    let mut parts = line.split(|b| *b == b' ');
    let (Some(method), Some(target), Some(version), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(Refusal::Malformed);
    };
    if method.is_empty() || !method.iter().all(|b| is_token(*b)) {
        return Err(Refusal::Malformed);
    }
    if method == REFUSED.as_bytes() || method == b"CONNECT" {
        return Err(Refusal::Malformed);
    }
    if target.len() > MAX_TARGET {
        return Err(Refusal::TargetTooLong);
    }
    let one_one = match version {
        b"HTTP/1.1" => true,
        b"HTTP/1.0" => false,
        v if v.starts_with(b"HTTP/") && v.len() == 8 => return Err(Refusal::UnknownVersion),
        _ => return Err(Refusal::Malformed),
    };
    Ok(Version { one_one, authority: request_target(method, target)? })
}

/// Checks the target; the authority of an absolute one.
fn request_target<'a>(method: &[u8], target: &'a [u8]) -> Result<Option<&'a [u8]>, Refusal> {
    let allowed = |b: &u8| (0x21..0x7f).contains(b) && !b"#\\\"<>^`{|}".contains(b);
    if !target.iter().all(allowed) {
        return Err(Refusal::Malformed);
    }
    if target == b"*" {
        return if method == b"OPTIONS" { Ok(None) } else { Err(Refusal::Malformed) };
    }
    let (authority, path) = match target.first() {
        Some(b'/') => (None, target),
        _ => {
            let scheme = target.get(..7).filter(|s| s.eq_ignore_ascii_case(b"http://"));
            let rest = scheme.map(|_| &target[7..]).ok_or(Refusal::Malformed)?;
            let end = rest.iter().position(|b| b"/?".contains(b)).unwrap_or(rest.len());
            (Some(&rest[..end]), &rest[end..])
        }
    };
    if ambiguous(path) { Err(Refusal::Malformed) } else { Ok(authority) }
}

/// Checks the path of a request of HTTP/2, where it comes apart from the host.
pub fn check_path(method: &[u8], path: &[u8]) -> Result<(), Refusal> {
    if path.len() > MAX_TARGET {
        return Err(Refusal::TargetTooLong);
    }
    if path != b"*" && !path.starts_with(b"/") {
        return Err(Refusal::Malformed);
    }
    request_target(method, path).map(|_| ())
}

/// Whether a path can be read in two ways: `.` and `..` segments, in any spelling, and encoded control bytes.
/// A server behind the edge that resolves them would answer for a path that the edge did not route.
fn ambiguous(target: &[u8]) -> bool {
    let path = target.split(|b| *b == b'?').next().unwrap_or_default();
    let mut decoded = Vec::with_capacity(path.len());
    let mut rest = path;
    while let Some((first, after)) = rest.split_first() {
        if *first != b'%' {
            decoded.push(*first);
            rest = after;
            continue;
        }
        let Some(byte) = after.get(..2).and_then(hex_byte) else { return true };
        if byte < 0x20 || byte == 0x7f {
            return true;
        }
        decoded.push(byte);
        rest = &after[2..];
    }
    // A parameter (`..;x`) belongs to the segment for some servers, and an encoded slash separates for others.
    decoded
        .split(|b| matches!(b, b'/' | b'\\'))
        .map(|segment| segment.split(|b| *b == b';').next().unwrap_or_default())
        .any(|segment| segment == b"." || segment == b"..")
}

pub fn hex_byte(digits: &[u8]) -> Option<u8> {
    let digit = |b: u8| char::from(b).to_digit(16);
    let (high, low) = (digit(*digits.first()?)?, digit(*digits.get(1)?)?);
    u8::try_from(high * 16 + low).ok()
}

#[derive(Default)]
struct Fields<'a> {
    host: Option<&'a [u8]>,
    length: Option<u64>,
    chunked: bool,
    upgrade: bool,
    connection_upgrade: bool,
}

impl<'a> Fields<'a> {
    fn add(&mut self, line: &'a [u8]) -> Result<(), Refusal> {
        let colon = line.iter().position(|b| *b == b':').ok_or(Refusal::Malformed)?;
        let (name, value) = (&line[..colon], trim(&line[colon + 1..]));
        let visible = |b: &u8| *b == b'\t' || (*b >= 0x20 && *b != 0x7f);
        if name.is_empty() || !name.iter().all(|b| is_token(*b)) || !value.iter().all(visible) {
            return Err(Refusal::Malformed);
        }
        let is = |known: &[u8]| name.eq_ignore_ascii_case(known);
        if is(b"host") {
            let host = Some(value).filter(|value| is_host(value)).ok_or(Refusal::Malformed)?;
            return once(&mut self.host, host);
        }
        if is(b"content-length") {
            return once(&mut self.length, number(value)?);
        }
        if is(b"transfer-encoding") {
            if !value.eq_ignore_ascii_case(b"chunked") {
                return Err(Refusal::UnknownCoding);
            }
            return if std::mem::replace(&mut self.chunked, true) {
                Err(Refusal::Malformed)
            } else {
                Ok(())
            };
        }
        self.upgrade |= is(b"upgrade");
        self.connection_upgrade |= is(b"connection")
            && value.split(|b| *b == b',').any(|t| trim(t).eq_ignore_ascii_case(b"upgrade"));
        Ok(())
    }

    fn framing(&self, version: &Version<'_>) -> Result<Framing, Refusal> {
        let host = self.host.ok_or(Refusal::Malformed)?;
        let other_host = version.authority.is_some_and(|a| !a.eq_ignore_ascii_case(host));
        if other_host || (self.chunked && (self.length.is_some() || !version.one_one)) {
            return Err(Refusal::Malformed);
        }
        if self.chunked {
            return Ok(Framing::Chunked);
        }
        let length = self.length.unwrap_or(0);
        let tunnel = self.upgrade && self.connection_upgrade && version.one_one && length == 0;
        Ok(if tunnel { Framing::Tunnel } else { Framing::Length(length) })
    }
}

fn once<T>(into: &mut Option<T>, value: T) -> Result<(), Refusal> {
    match into.replace(value) {
        None => Ok(()),
        Some(_) => Err(Refusal::Malformed),
    }
}

pub fn number(text: &[u8]) -> Result<u64, Refusal> {
    let digits = (1..=18).contains(&text.len()) && text.iter().all(u8::is_ascii_digit);
    let text = digits.then(|| std::str::from_utf8(text).ok()).flatten();
    text.and_then(|text| text.parse().ok()).ok_or(Refusal::Malformed)
}

fn trim(mut text: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = text {
        text = rest;
    }
    text
}

/// Whether `value` can be the host of a request, with or without a port.
pub fn is_host(value: &[u8]) -> bool {
    let allowed = |b: &u8| b.is_ascii_alphanumeric() || b".-_:[]".contains(b);
    (1..=255).contains(&value.len()) && value.iter().all(allowed)
}

fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// Follows the bytes of a chunked body to its end.
#[derive(Debug, Default)]
pub struct Chunks {
    state: ChunkState,
    /// Bytes of the current line, bounded.
    line: usize,
    trailers: usize,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum ChunkState {
    #[default]
    SizeStart,
    Size(u64),
    Extension(u64),
    SizeEnd(u64),
    Data(u64),
    DataCr,
    DataLf,
    TrailerStart,
    Trailer,
    TrailerLf,
    EndLf,
    End,
}

const MAX_CHUNK_LINE: usize = 256;
const MAX_TRAILERS: usize = 8 * 1024;

impl Chunks {
    /// Takes bytes of the body; returns how many belong to it, and whether it ended there.
    pub fn advance(&mut self, bytes: &[u8]) -> Result<(usize, bool), Refusal> {
        let mut at = 0;
        while at < bytes.len() {
            if let ChunkState::Data(left) = self.state {
                let step = left.min((bytes.len() - at) as u64);
                at += step as usize;
                self.state = match left - step {
                    0 => ChunkState::DataCr,
                    left => ChunkState::Data(left),
                };
                continue;
            }
            self.state = self.next(bytes[at])?;
            at += 1;
            if self.state == ChunkState::End {
                return Ok((at, true));
            }
        }
        Ok((at, false))
    }

    fn next(&mut self, byte: u8) -> Result<ChunkState, Refusal> {
        use ChunkState::*;
        self.line += 1;
        Ok(match (self.state, byte) {
            (SizeStart, b) => Size(hex(b).ok_or(Refusal::Malformed)?),
            (Size(size), b'\r') | (Extension(size), b'\r') => SizeEnd(size),
            (Size(size), b';') => Extension(size),
            (Size(size), b) => {
                let digit = hex(b).filter(|_| size < 1 << 56).ok_or(Refusal::Malformed)?;
                Size(size * 16 + digit)
            }
            (Extension(size), b) if plain(b) && self.line <= MAX_CHUNK_LINE => Extension(size),
            (SizeEnd(0), b'\n') => TrailerStart,
            (SizeEnd(size), b'\n') => Data(size),
            (DataCr, b'\r') => DataLf,
            (DataLf, b'\n') => {
                self.line = 0;
                SizeStart
            }
            (TrailerStart, b'\r') => EndLf,
            (TrailerStart | Trailer, b) if plain(b) && self.trailers < MAX_TRAILERS => {
                self.trailers += 1;
                Trailer
            }
            (Trailer, b'\r') => TrailerLf,
            (TrailerLf, b'\n') => TrailerStart,
            (EndLf, b'\n') => End,
            _ => return Err(Refusal::Malformed),
        })
    }
}

fn plain(byte: u8) -> bool {
    byte == b'\t' || (byte >= 0x20 && byte != 0x7f)
}

fn hex(byte: u8) -> Option<u64> {
    char::from(byte).to_digit(16).map(u64::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(lines: &str) -> Result<Framing, Refusal> {
        check(format!("{}\r\n\r\n", lines.replace('\n', "\r\n")).as_bytes())
    }

    #[test]
    fn an_ordinary_head_is_let_through() {
        assert_eq!(head("GET /a?b=%2e%2e/.. HTTP/1.1\nHost: tea"), Ok(Framing::Length(0)));
        assert_eq!(head("POST / HTTP/1.1\nHost: tea\nContent-Length: 7"), Ok(Framing::Length(7)));
        let chunked = "POST / HTTP/1.1\nhost: tea\ntransfer-encoding: Chunked";
        assert_eq!(head(chunked), Ok(Framing::Chunked));
        let socket = "GET / HTTP/1.1\nhost: tea\nupgrade: websocket\nconnection: x, Upgrade";
        assert_eq!(head(socket), Ok(Framing::Tunnel));
        assert_eq!(head("GET http://tea/x HTTP/1.1\nHost: tea"), Ok(Framing::Length(0)));
        assert_eq!(head("OPTIONS * HTTP/1.1\nHost: tea"), Ok(Framing::Length(0)));
    }

    #[test]
    fn a_head_with_two_meanings_is_refused() {
        let post = "POST / HTTP/1.1\nHost: tea\n";
        for (fields, refusal) in [
            ("Content-Length: 3\nTransfer-Encoding: chunked", Refusal::Malformed),
            ("Transfer-Encoding: chunked\nContent-Length: 3", Refusal::Malformed),
            ("Transfer-Encoding: chunked\nTransfer-Encoding: chunked", Refusal::Malformed),
            ("Transfer-Encoding: chunked, chunked", Refusal::UnknownCoding),
            ("Transfer-Encoding: xchunked", Refusal::UnknownCoding),
            ("Transfer-Encoding : chunked", Refusal::Malformed),
            ("Transfer-Encoding: \u{b}chunked", Refusal::Malformed),
            ("Content-Length: 3\nContent-Length: 3", Refusal::Malformed),
            ("Content-Length: +3", Refusal::Malformed),
            ("Content-Length: 3, 3", Refusal::Malformed),
            ("Content-Length:", Refusal::Malformed),
            ("Host: other", Refusal::Malformed),
            ("X: a\n b", Refusal::Malformed),
            (": no name", Refusal::Malformed),
            ("No colon", Refusal::Malformed),
        ] {
            assert_eq!(head(&format!("{post}{fields}")), Err(refusal), "{fields}");
        }
    }

    #[test]
    fn a_request_line_that_is_odd_is_refused() {
        for line in [
            "GET  / HTTP/1.1",
            "GET / HTTP/1.1 ",
            "GET /a b HTTP/1.1",
            "G(T / HTTP/1.1",
            "GET a HTTP/1.1",
            "GET /a#b HTTP/1.1",
            "GET /../a HTTP/1.1",
            "GET /a/%2e%2E/b HTTP/1.1",
            "GET /a/..%2fb HTTP/1.1",
            "GET /a/..;x/b HTTP/1.1",
            "GET /a%00 HTTP/1.1",
            "GET /a% HTTP/1.1",
            "GET http://other/ HTTP/1.1",
            "GET * HTTP/1.1",
            "CONNECT tea:443 HTTP/1.1",
            "REFUSED /200 HTTP/1.1",
            "GET /",
            "",
        ] {
            assert_eq!(head(&format!("{line}\nHost: tea")), Err(Refusal::Malformed), "{line}");
        }
        assert_eq!(head("GET / HTTP/2.0\nHost: tea"), Err(Refusal::UnknownVersion));
        assert_eq!(head("GET / HTTP/1.1\nX: no host"), Err(Refusal::Malformed));
        assert_eq!(head("GET / HTTP/1.1\nHost: a b"), Err(Refusal::Malformed));
        let chunked_one_zero = "POST / HTTP/1.0\nHost: tea\nTransfer-Encoding: chunked";
        assert_eq!(head(chunked_one_zero), Err(Refusal::Malformed));
    }

    #[test]
    fn a_bare_line_feed_is_refused() {
        for bytes in [&b"GET / HTTP/1.1\nHost: tea\n\n"[..], b"GET / HTTP/1.1\r\nHost: tea\n\r\n"] {
            let length = head_length(bytes, 0).expect("the head is complete");
            assert_eq!(check(&bytes[..length]), Err(Refusal::Malformed));
        }
    }

    #[test]
    fn a_chunked_body_is_followed_to_its_end_however_it_is_cut() {
        let body = b"5;a=b\r\nhello\r\n0010\r\n0123456789abcdef\r\n0\r\nX: y\r\n\r\nGET /";
        for cut in 1..body.len() - 5 {
            let mut chunks = Chunks::default();
            let (first, ended) = chunks.advance(&body[..cut]).unwrap();
            assert!(!ended || first == body.len() - 5, "ended at {first}");
            if !ended {
                assert_eq!(first, cut);
                assert_eq!(chunks.advance(&body[cut..]).unwrap(), (body.len() - 5 - cut, true));
            }
        }
    }

    #[test]
    fn a_chunked_body_that_is_odd_is_refused() {
        let long = format!("1;{}\r\n", "x".repeat(300));
        for body in [
            "\r\n",
            "x\r\n",
            "5\nhello\r\n",
            "5\r\nhelloX",
            "-1\r\n",
            "5 \r\n",
            "fffffffffffffffff\r\n",
            &long,
        ] {
            assert!(Chunks::default().advance(body.as_bytes()).is_err(), "{body:?}");
        }
    }
}
