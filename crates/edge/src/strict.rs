//! What a request's head must look like, checked on the raw bytes before hyper sees them.
//!
//! hyper accepts and repairs heads that two servers can read in two ways (request smuggling). The edge
//! refuses them: whatever it forwards has exactly one meaning.

pub use crate::lines::MAX_FIELDS;
use crate::lines::{
    HOST, Line, Lines, Next, Odd, Span, TARGET, TOKEN, all, line_end, next, span_of,
};

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
/// How the whole address of a request may begin (RFC 9112, 3.2.2).
const SCHEMES: [&[u8]; 2] = [b"http://", b"https://"];

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

/// A request's head: checked, and where its parts lie in its bytes.
#[derive(Debug)]
pub struct Head<'l> {
    /// With the empty line.
    pub length: usize,
    pub method: Span,
    pub target: Span,
    pub host: Span,
    pub framing: Framing,
    pub one_one: bool,
    /// The target is a path, not a whole address and not `*`.
    pub origin_form: bool,
    /// Fields that ask for more than an answer.
    pub upgrade: bool,
    pub expect: bool,
    /// There is a `Connection` field.
    pub connection: bool,
    lines: &'l [Line],
}

impl<'l> Head<'l> {
    pub fn lines(&self) -> &'l [Line] {
        self.lines
    }
}

/// Checks a whole head, its empty line included.
pub fn check(head: &[u8]) -> Result<Framing, Refusal> {
    match parse(head, &mut Lines::new())? {
        Some(parsed) if parsed.length == head.len() => Ok(parsed.framing),
        _ => Err(Refusal::Malformed),
    }
}

/// Reads the head at the start of `bytes` in one pass; `None` while it is incomplete and nothing is wrong yet.
pub fn parse<'l>(bytes: &[u8], lines: &'l mut Lines) -> Result<Option<Head<'l>>, Refusal> {
    let bytes = &bytes[..bytes.len().min(MAX_HEAD)];
    let Some((stop, mut at)) = line_end(bytes, 0)? else { return Ok(None) };
    let line = request_line(&bytes[..stop])?;
    let mut fields = Fields::default();
    let length = loop {
        let field = match next(bytes, at)? {
            Next::Field(field) => field,
            Next::End(end) => break end,
            Next::Incomplete => return Ok(None),
        };
        if !lines.push(field) {
            return Err(Refusal::HeadTooLarge);
        }
        fields.note(field, bytes)?;
        at = field.place().end;
    };
    let host = fields.host.ok_or(Refusal::Malformed)?;
    let authority = line.authority.map(|authority| authority.of(bytes));
    let framing = fields.framing(&line, host.of(bytes), authority)?;
    Ok(Some(Head {
        length,
        method: line.method,
        target: line.target,
        host,
        framing,
        one_one: line.one_one,
        origin_form: line.origin_form,
        upgrade: fields.upgrade,
        expect: fields.expect,
        connection: fields.connection,
        lines: lines.all(),
    }))
}

impl From<Odd> for Refusal {
    fn from(_: Odd) -> Self {
        Self::Malformed
    }
}

struct RequestLine {
    method: Span,
    target: Span,
    one_one: bool,
    origin_form: bool,
    /// The authority of an absolute-form target.
    authority: Option<Span>,
}

fn request_line(line: &[u8]) -> Result<RequestLine, Refusal> {
    let first = span_of(line, TOKEN);
    let method = &line[..first];
    let rest = line[first..].strip_prefix(b" ").ok_or(Refusal::Malformed)?;
    let (target, version) = rest.split_at(span_of(rest, TARGET));
    let version = version.strip_prefix(b" ").ok_or(Refusal::Malformed)?;
    if method.is_empty() || method == REFUSED.as_bytes() || method == b"CONNECT" {
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
    let begins = first + 1;
    let authority = request_target(method, target)?;
    Ok(RequestLine {
        method: Span::new(0, first),
        target: Span::new(begins, begins + target.len()),
        one_one,
        origin_form: target.starts_with(b"/"),
        authority: authority.map(|(start, end)| Span::new(begins + start, begins + end)),
    })
}

/// Checks the target; where the authority of an absolute one lies in it.
fn request_target(method: &[u8], target: &[u8]) -> Result<Option<(usize, usize)>, Refusal> {
    if !all(target, TARGET) {
        return Err(Refusal::Malformed);
    }
    if target == b"*" {
        return if method == b"OPTIONS" { Ok(None) } else { Err(Refusal::Malformed) };
    }
    let (authority, path) = match target.first() {
        Some(b'/') => (None, target),
        _ => {
            let is = |scheme: &&[u8]| {
                target.get(..scheme.len()).is_some_and(|s| s.eq_ignore_ascii_case(scheme))
            };
            let start = SCHEMES.into_iter().find(is).ok_or(Refusal::Malformed)?.len();
            let rest = &target[start..];
            let end = rest.iter().position(|b| b"/?".contains(b)).unwrap_or(rest.len());
            (Some((start, start + end)), &rest[end..])
        }
    };
    if ambiguous(path) { Err(Refusal::Malformed) } else { Ok(authority) }
}

/// Whether `value` can be the host of a request: a name or an address, with or without one port.
pub fn is_host(value: &[u8]) -> bool {
    if !(1..=255).contains(&value.len()) || !all(value, HOST) {
        return false;
    }
    let address = value.starts_with(b"[");
    let end = if address { memchr::memchr(b']', value).map(|at| at + 1) } else { None };
    let end = end.or_else(|| memchr::memchr(b':', value)).unwrap_or(value.len());
    let (name, port) = value.split_at(end);
    let known = match address {
        true => is_ipv6(name),
        false => !name.is_empty() && memchr::memchr2(b'[', b']', name).is_none(),
    };
    known && (port.is_empty() || is_port(port))
}

fn is_ipv6(name: &[u8]) -> bool {
    let inside = name.strip_prefix(b"[").and_then(|name| name.strip_suffix(b"]"));
    let text = inside.and_then(|inside| std::str::from_utf8(inside).ok());
    text.is_some_and(|text| text.parse::<std::net::Ipv6Addr>().is_ok())
}

/// The digits may be missing (RFC 3986, 3.2.3).
fn is_port(port: &[u8]) -> bool {
    let digits = port.strip_prefix(b":").filter(|digits| digits.len() <= 5);
    digits.is_some_and(|digits| digits.iter().all(u8::is_ascii_digit))
}

/// Whether a path can be read in two ways: `.` and `..` segments, in any spelling, and encoded control bytes.
/// A server behind the edge that resolves them would answer for a path that the edge did not route.
fn ambiguous(target: &[u8]) -> bool {
    let path = &target[..memchr::memchr(b'?', target).unwrap_or(target.len())];
    // Most paths have neither.
    if memchr::memchr2(b'%', b'.', path).is_none() {
        return false;
    }
    let mut segment = Segment::default();
    let mut before = 0;
    let mut rest = path;
    while let Some((first, after)) = rest.split_first() {
        let mut byte = *first;
        rest = after;
        if byte == b'%' {
            let Some(decoded) = after.get(..2).and_then(hex_byte) else { return true };
            if decoded < 0x20 || decoded == 0x7f || is_overlong(before, decoded) {
                return true;
            }
            byte = decoded;
            rest = &after[2..];
        }
        before = byte;
        // An encoded slash separates for some servers.
        if matches!(byte, b'/' | b'\\') {
            if segment.is_dots() {
                return true;
            }
            segment = Segment::default();
        } else {
            segment.add(byte);
        }
    }
    segment.is_dots()
}

/// Whether two bytes begin a character in more bytes than it needs: some decoders make `.` or `/` of it.
fn is_overlong(first: u8, second: u8) -> bool {
    matches!(
        (first, second),
        (0xc0 | 0xc1, 0x80..=0xbf) | (0xe0, 0x80..=0x9f) | (0xf0, 0x80..=0x8f)
    )
}

/// One segment of a path, as far as it matters.
#[derive(Default)]
struct Segment {
    dots: usize,
    other: bool,
    /// A parameter (`..;x`) belongs to the segment for some servers.
    parameter: bool,
}

impl Segment {
    fn add(&mut self, byte: u8) {
        match byte {
            _ if self.parameter => {}
            b';' => self.parameter = true,
            b'.' => self.dots += 1,
            _ => self.other = true,
        }
    }

    fn is_dots(&self) -> bool {
        !self.other && (1..=2).contains(&self.dots)
    }
}

pub fn hex_byte(digits: &[u8]) -> Option<u8> {
    let digit = |b: u8| char::from(b).to_digit(16);
    let (high, low) = (digit(*digits.first()?)?, digit(*digits.get(1)?)?);
    u8::try_from(high * 16 + low).ok()
}

#[derive(Default)]
struct Fields {
    host: Option<Span>,
    length: Option<u64>,
    chunked: bool,
    upgrade: bool,
    expect: bool,
    connection: bool,
    connection_upgrade: bool,
}

impl Fields {
    fn note(&mut self, line: Line, bytes: &[u8]) -> Result<(), Refusal> {
        let (name, value) = (line.name(bytes), line.value(bytes));
        let is = |known: &[u8]| name.eq_ignore_ascii_case(known);
        match name.len() {
            4 if is(b"host") => {
                if !is_host(value) {
                    return Err(Refusal::Malformed);
                }
                once(&mut self.host, line.value_span())?;
            }
            6 if is(b"expect") => self.expect = true,
            7 if is(b"upgrade") => self.upgrade = true,
            10 if is(b"connection") => {
                self.connection = true;
                self.connection_upgrade |=
                    tokens(value).any(|t| t.eq_ignore_ascii_case(b"upgrade"));
            }
            14 if is(b"content-length") => once(&mut self.length, number(value)?)?,
            17 if is(b"transfer-encoding") => {
                if !value.eq_ignore_ascii_case(b"chunked") {
                    return Err(Refusal::UnknownCoding);
                }
                if std::mem::replace(&mut self.chunked, true) {
                    return Err(Refusal::Malformed);
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn framing(
        &self,
        line: &RequestLine,
        host: &[u8],
        authority: Option<&[u8]>,
    ) -> Result<Framing, Refusal> {
        let other_host = authority.is_some_and(|a| !a.eq_ignore_ascii_case(host));
        if other_host || (self.chunked && (self.length.is_some() || !line.one_one)) {
            return Err(Refusal::Malformed);
        }
        if self.chunked {
            return Ok(Framing::Chunked);
        }
        let length = self.length.unwrap_or(0);
        let tunnel = self.upgrade && self.connection_upgrade && line.one_one && length == 0;
        Ok(if tunnel { Framing::Tunnel } else { Framing::Length(length) })
    }
}

/// The comma-separated parts of a field's value.
pub fn tokens(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|b| *b == b',').map(<[u8]>::trim_ascii)
}

fn once<T>(into: &mut Option<T>, value: T) -> Result<(), Refusal> {
    match into.replace(value) {
        None => Ok(()),
        Some(_) => Err(Refusal::Malformed),
    }
}

/// The value of Content-Length: digits, and not more of them than fit.
pub fn number(text: &[u8]) -> Result<u64, Refusal> {
    if !(1..=18).contains(&text.len()) || !text.iter().all(u8::is_ascii_digit) {
        return Err(Refusal::Malformed);
    }
    Ok(text.iter().fold(0, |number, digit| number * 10 + u64::from(digit - b'0')))
}

/// Follows the bytes of a chunked body to its end.
#[derive(Debug, Default)]
pub struct Chunks {
    state: ChunkState,
    /// Bytes of the current line, bounded.
    line: usize,
    trailers: usize,
    /// Bytes in chunks so far.
    data: u64,
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

impl ChunkState {
    fn is_behind_chunks(self) -> bool {
        matches!(self, Self::TrailerStart | Self::Trailer | Self::TrailerLf | Self::EndLf)
    }
}

/// A part of a chunked body, without what frames it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    Data,
    Trailers,
}

const MAX_CHUNK_LINE: usize = 256;
const MAX_TRAILERS: usize = 8 * 1024;

impl Chunks {
    /// How many bytes of the body came, without what frames them.
    pub fn data(&self) -> u64 {
        self.data
    }

    /// Between two chunks: here a body can be ended.
    pub fn between(&self) -> bool {
        self.state == ChunkState::SizeStart
    }

    pub fn ended(&self) -> bool {
        self.state == ChunkState::End
    }

    /// Takes bytes of the body; returns how many belong to it, and whether it ended there.
    pub fn advance(&mut self, bytes: &[u8]) -> Result<(usize, bool), Refusal> {
        self.take(bytes, usize::MAX, |_, _| {})
    }

    /// The same for at most `most` bytes of what is in the chunks; `sink` gets that, and the lines of the trailers
    /// with the empty one behind them.
    pub fn take(
        &mut self,
        bytes: &[u8],
        mut most: usize,
        mut sink: impl FnMut(Part, &[u8]),
    ) -> Result<(usize, bool), Refusal> {
        let mut at = 0;
        while at < bytes.len() {
            if let ChunkState::Data(left) = self.state {
                if most == 0 {
                    break;
                }
                let step = left.min((bytes.len() - at).min(most) as u64);
                sink(Part::Data, &bytes[at..at + step as usize]);
                at += step as usize;
                most -= step as usize;
                self.data = self.data.saturating_add(step);
                self.state = match left - step {
                    0 => ChunkState::DataCr,
                    left => ChunkState::Data(left),
                };
                continue;
            }
            if self.state.is_behind_chunks() {
                sink(Part::Trailers, &bytes[at..=at]);
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
        assert_eq!(head("GET HTTPS://tea?x HTTP/1.1\nHost: tea"), Ok(Framing::Length(0)));
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
            "GET /a/%c0%ae%c0%ae/b HTTP/1.1",
            "GET /a/%e0%80%af/b HTTP/1.1",
            "GET /a% HTTP/1.1",
            "GET http://other/ HTTP/1.1",
            "GET https://other/ HTTP/1.1",
            "GET https:/tea/ HTTP/1.1",
            "GET ftp://tea/ HTTP/1.1",
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
    fn a_host_is_a_name_or_an_address_with_at_most_one_port() {
        for host in ["tea", "tea.example.:80", "tea:", "10.0.0.1:65535", "[::1]", "[::1]:80", "a_b"]
        {
            assert!(is_host(host.as_bytes()), "{host}");
        }
        for host in [
            "",
            ":80",
            "tea:80:80",
            "tea:evil",
            "tea:123456",
            "[::1",
            "::1",
            "[::1]x",
            "[tea]",
            "a[b]",
            "a@b",
        ] {
            assert!(!is_host(host.as_bytes()), "{host}");
        }
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
