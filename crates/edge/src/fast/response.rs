//! The head of a replica's answer: read strictly, and written as the client gets it.

use std::mem::MaybeUninit;

use httparse::{ParserConfig, Response};

use crate::headers::{ends_in_answer, may_be_named};
use crate::lines::{Line, Lines, MAX_FIELDS, Next, Odd, line_end, next};
use crate::strict::{Chunks, number, tokens};

/// How the body of an answer comes from the replica.
#[derive(Debug)]
pub enum Body {
    /// Nothing (more) comes.
    Done,
    /// So many bytes are still to come.
    Length(u64),
    Chunked(Chunks),
    /// Everything until the replica closes.
    UntilClose,
}

/// A head, read.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    /// Of the head, with its empty line.
    pub length: usize,
    pub body: Body,
    /// The replica's connection may serve another request.
    pub keep: bool,
    pub events: bool,
}

/// The answer cannot be passed on: it is no HTTP/1, or could be read in two ways.
#[derive(Debug, PartialEq, Eq)]
pub struct Garbled;

/// Offsets in a head have 16 bits.
const MAX_HEAD: usize = u16::MAX as usize;

/// What the request says about its answer.
#[derive(Clone, Copy)]
pub struct Asked<'a> {
    pub id: &'a [u8],
    /// It was a HEAD: the answer has no body, whatever its head says.
    pub head: bool,
    /// The client's connection ends with this answer.
    pub close: bool,
    /// For an answer without a date.
    pub date: &'a dyn Fn(&mut Vec<u8>),
}

/// Reads the head at the start of `bytes`, and writes it into `into` as the client gets it; `None` while it is
/// incomplete. A head that says 1xx is written too: the final one follows it.
pub fn read(bytes: &[u8], asked: Asked<'_>, into: &mut Vec<u8>) -> Result<Option<Answer>, Garbled> {
    parse(bytes, |head, bytes| {
        let answer = head.answer(asked.head)?;
        head.write(&answer.body, &asked, bytes, into);
        Ok(answer)
    })
}

/// The same for another form than HTTP/1: `pass` gets the final head. `is_head`: the request was a HEAD.
pub fn read_with(
    bytes: &[u8],
    is_head: bool,
    pass: impl Fn(&Head, &[u8], &Answer),
) -> Result<Option<Answer>, Garbled> {
    parse(bytes, |head, bytes| {
        let answer = head.answer(is_head)?;
        if answer.status >= 200 {
            pass(head, bytes, &answer);
        }
        Ok(answer)
    })
}

fn parse(
    bytes: &[u8],
    mut answer: impl FnMut(&Head, &[u8]) -> Result<Answer, Garbled>,
) -> Result<Option<Answer>, Garbled> {
    let bytes = &bytes[..bytes.len().min(MAX_HEAD)];
    if let Ok(head) = Head::read(bytes, &mut Lines::new()) {
        return head.map(|head| answer(&head, bytes)).transpose();
    }
    // Replicas are forgiven what has one meaning all the same, a bare line feed for example.
    let Some((length, text)) = lenient(bytes)? else { return Ok(None) };
    let mut lines = Lines::new();
    let head = Head::read(&text, &mut lines).map_err(|Odd| Garbled)?.ok_or(Garbled)?;
    Ok(Some(Answer { length, ..answer(&head, &text)? }))
}

/// A head as hyper would read it, written as it should be; and its own length.
fn lenient(bytes: &[u8]) -> Result<Option<(usize, Vec<u8>)>, Garbled> {
    let mut fields = [const { MaybeUninit::uninit() }; MAX_FIELDS];
    let mut response = Response::new(&mut []);
    let config = ParserConfig::default();
    let parsed = config.parse_response_with_uninit_headers(&mut response, bytes, &mut fields);
    let length = match parsed {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(_) => return Err(Garbled),
    };
    let (Some(status), Some(minor)) = (response.code, response.version) else {
        return Err(Garbled);
    };
    let reason = response.reason.unwrap_or_default();
    let mut text = format!("HTTP/1.{minor} {status:03} {reason}\r\n").into_bytes();
    for field in response.headers.iter() {
        line(field.name.as_bytes(), field.value, &mut text);
    }
    text.extend_from_slice(b"\r\n");
    Ok(Some((length, text)))
}

fn line(name: &[u8], value: &[u8], into: &mut Vec<u8>) {
    into.extend_from_slice(name);
    into.extend_from_slice(b": ");
    into.extend_from_slice(value);
    into.extend_from_slice(b"\r\n");
}

/// A head, and what its fields say.
pub struct Head<'l> {
    status: u16,
    minor: u8,
    /// With the empty line.
    end: usize,
    lines: &'l [Line],
    length: Option<u64>,
    chunked: bool,
    close: bool,
    keep_alive: bool,
    named: bool,
    date: bool,
    events: bool,
    /// Its body could be read in two ways.
    ambiguous: bool,
}

impl<'l> Head<'l> {
    fn read(bytes: &[u8], lines: &'l mut Lines) -> Result<Option<Self>, Odd> {
        let Some((stop, end)) = line_end(bytes, 0)? else { return Ok(None) };
        let (status, minor) = status_line(&bytes[..stop]).ok_or(Odd)?;
        let mut head = Self {
            status,
            minor,
            end,
            lines: &[],
            length: None,
            chunked: false,
            close: false,
            keep_alive: false,
            named: false,
            date: false,
            events: false,
            ambiguous: false,
        };
        loop {
            let line = match next(bytes, head.end)? {
                Next::Field(line) => line,
                Next::Incomplete => return Ok(None),
                Next::End(end) => {
                    head.end = end;
                    head.lines = lines.all();
                    return Ok(Some(head));
                }
            };
            if !lines.push(line) {
                return Err(Odd);
            }
            head.end = line.place().end;
            head.note(line.name(bytes), line.value(bytes));
        }
    }

    fn note(&mut self, name: &[u8], value: &[u8]) {
        let is = |known: &[u8]| name.eq_ignore_ascii_case(known);
        match name.len() {
            4 if is(b"date") => self.date = true,
            10 if is(b"connection") => {
                for token in tokens(value) {
                    self.close |= token.eq_ignore_ascii_case(b"close");
                    self.keep_alive |= token.eq_ignore_ascii_case(b"keep-alive");
                    self.named |= may_be_named(token);
                }
            }
            12 if is(b"content-type") => {
                let kind = value.get(..17);
                self.events =
                    kind.is_some_and(|kind| kind.eq_ignore_ascii_case(b"text/event-stream"));
            }
            14 if is(b"content-length") => {
                let before = self.length;
                self.length = number(value).ok();
                self.ambiguous |= before.is_some() || self.length.is_none();
            }
            17 if is(b"transfer-encoding") => {
                self.ambiguous |= self.chunked || !value.eq_ignore_ascii_case(b"chunked");
                self.chunked = true;
            }
            _ => {}
        }
    }

    fn answer(&self, is_head: bool) -> Result<Answer, Garbled> {
        let body = self.body(is_head)?;
        let stays = !self.close && (self.minor == 1 || self.keep_alive);
        let keep = stays && !matches!(body, Body::UntilClose);
        Ok(Answer { status: self.status, length: self.end, body, keep, events: self.events })
    }

    fn write(&self, body: &Body, asked: &Asked<'_>, bytes: &[u8], into: &mut Vec<u8>) {
        into.extend_from_slice(b"HTTP/1.1");
        // From here on what is kept between two lines that are not is copied at once.
        let mut from = b"HTTP/1.1".len();
        for line in self.lines {
            if self.ends(line.name(bytes), bytes) {
                let place = line.place();
                into.extend_from_slice(&bytes[from..place.start]);
                from = place.end;
            }
        }
        into.extend_from_slice(&bytes[from..self.end - 2]);
        if self.status >= 200 {
            if matches!(body, Body::Chunked(_) | Body::UntilClose) {
                into.extend_from_slice(b"transfer-encoding: chunked\r\n");
            }
            if !self.date {
                (asked.date)(into);
            }
            if asked.close {
                into.extend_from_slice(b"connection: close\r\n");
            }
        }
        line(b"x-request-id", asked.id, into);
        into.extend_from_slice(b"\r\n");
    }

    /// Gives `field` the name and value of each field that goes on.
    pub fn each(&self, bytes: &[u8], mut field: impl FnMut(&[u8], &[u8])) {
        for line in self.lines.iter().filter(|line| !self.ends(line.name(bytes), bytes)) {
            field(line.name(bytes), line.value(bytes));
        }
    }

    pub fn has_date(&self) -> bool {
        self.date
    }

    /// Whether a field goes no further.
    fn ends(&self, name: &[u8], bytes: &[u8]) -> bool {
        let says_nothing = self.status < 200 || self.status == 204;
        ends_in_answer(name)
            || name.eq_ignore_ascii_case(b"x-request-id")
            || (says_nothing && name.eq_ignore_ascii_case(b"content-length"))
            || (self.named && self.names(name, bytes))
    }

    /// Whether `Connection` names this field.
    fn names(&self, name: &[u8], bytes: &[u8]) -> bool {
        let of = |line: &&Line| line.name(bytes).eq_ignore_ascii_case(b"connection");
        let lines = self.lines.iter().filter(of);
        let mut named = lines.flat_map(|line| tokens(line.value(bytes)));
        may_be_named(name) && named.any(|token| token.eq_ignore_ascii_case(name))
    }

    fn body(&self, head: bool) -> Result<Body, Garbled> {
        let both = self.chunked && (self.length.is_some() || self.minor == 0);
        // Nobody asked to leave HTTP.
        if self.ambiguous || both || self.status == 101 {
            return Err(Garbled);
        }
        Ok(match self.length {
            _ if head || self.status < 200 || self.status == 204 || self.status == 304 => {
                Body::Done
            }
            _ if self.chunked => Body::Chunked(Chunks::default()),
            Some(0) => Body::Done,
            Some(length) => Body::Length(length),
            None => Body::UntilClose,
        })
    }
}

/// `HTTP/1.1 200 OK`, or without the reason.
fn status_line(line: &[u8]) -> Option<(u16, u8)> {
    let (version, rest) = line.split_first_chunk::<9>()?;
    let minor = match version {
        b"HTTP/1.1 " => 1,
        b"HTTP/1.0 " => 0,
        _ => return None,
    };
    let (code, rest) = rest.split_first_chunk::<3>()?;
    if !(rest.is_empty() || rest.starts_with(b" ")) || !code.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let status = code.iter().fold(0, |code, digit| code * 10 + u16::from(digit - b'0'));
    (status >= 100).then_some((status, minor))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_with_bare_line_feeds_is_written_anew() {
        let date = |_: &mut Vec<u8>| {};
        let asked = Asked { id: b"7", head: false, close: false, date: &date };
        let bytes = b"HTTP/1.1 200 OK\nContent-Length: 2\nX-A:b\n\nok";
        let mut out = Vec::new();
        let answer = read(bytes, asked, &mut out).unwrap().unwrap();
        assert_eq!(answer.length, bytes.len() - 2);
        let expected = "HTTP/1.1 200 OK\nContent-Length: 2\nX-A: b\nx-request-id: 7\n\n";
        assert_eq!(out, expected.replace('\n', "\r\n").as_bytes());
        assert!(read(&bytes[..20], asked, &mut out).unwrap().is_none());
        assert!(read(b"SSH-2.0-x\r\n\r\n", asked, &mut out).is_err());
    }

    fn answer(head: &str, is_head: bool) -> Result<(Answer, String), Garbled> {
        let bytes = head.replace('\n', "\r\n") + "\r\n";
        let mut out = Vec::new();
        let date = |into: &mut Vec<u8>| into.extend_from_slice(b"date: now\r\n");
        let asked = Asked { id: b"7", head: is_head, close: false, date: &date };
        let read = read(bytes.as_bytes(), asked, &mut out)?;
        Ok((read.expect("the head is whole"), String::from_utf8(out).unwrap()))
    }

    #[test]
    fn fields_of_one_hop_end_and_ours_are_added() {
        let head = "HTTP/1.1 200 Fine\nConnection: keep-alive, X-Hop\nX-Hop: 1\nX-End: 2\n\
                    Keep-Alive: 5\nX-Request-Id: theirs\nContent-Length: 3\nDate: then\n";
        let (read, out) = answer(head, false).unwrap();
        assert!(read.keep && matches!(read.body, Body::Length(3)));
        let expected =
            "HTTP/1.1 200 Fine\nX-End: 2\nContent-Length: 3\nDate: then\nx-request-id: 7\n\n";
        assert_eq!(out, expected.replace('\n', "\r\n"));
    }

    #[test]
    fn the_body_of_an_answer_has_one_meaning_or_the_answer_is_refused() {
        let ok = "HTTP/1.1 200 OK\n";
        for odd in [
            "Content-Length: 3\nTransfer-Encoding: chunked\n",
            "Content-Length: 3\nContent-Length: 3\n",
            "Content-Length: 3, 3\n",
            "Content-Length: -3\n",
            "Transfer-Encoding: gzip, chunked\n",
            "Transfer-Encoding: chunked\nTransfer-Encoding: chunked\n",
            "Transfer-Encoding: identity\n",
        ] {
            assert!(answer(&format!("{ok}{odd}"), false).is_err(), "{odd}");
        }
        assert!(answer("HTTP/1.0 200 OK\nTransfer-Encoding: chunked\n", false).is_err());
        assert!(answer("HTTP/1.1 101 Switching\nUpgrade: x\n", false).is_err());
        for (head, is_head) in [
            ("HTTP/1.1 200 OK\nContent-Length: 3\n", true),
            ("HTTP/1.1 304 Not Modified\nContent-Length: 3\n", false),
            ("HTTP/1.1 204 No Content\nTransfer-Encoding: chunked\n", false),
        ] {
            let (read, out) = answer(head, is_head).unwrap();
            assert!(matches!(read.body, Body::Done) && read.keep, "{head}");
            assert_eq!(out.contains("Content-Length: 3"), head.contains("Content-Length"), "{out}");
        }
        let (read, out) = answer("HTTP/1.0 200 OK\n", false).unwrap();
        assert!(matches!(read.body, Body::UntilClose) && !read.keep);
        assert!(out.contains("transfer-encoding: chunked\r\ndate: now\r\n"), "{out}");
        assert!(out.starts_with("HTTP/1.1 200 OK\r\n"), "{out}");
        let (read, _) =
            answer("HTTP/1.0 200 OK\nConnection: keep-alive\nContent-Length: 0\n", false).unwrap();
        assert!(matches!(read.body, Body::Done) && read.keep);
    }
}
