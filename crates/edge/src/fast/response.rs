//! The head of a replica's answer: read strictly, and written as the client gets it.

use std::mem::MaybeUninit;

use httparse::{ParserConfig, Response};

use crate::headers::{ends_in_answer, may_be_named};
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

const MAX_FIELDS: usize = 100;

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
    let mut fields = [const { MaybeUninit::uninit() }; MAX_FIELDS];
    let mut response = Response::new(&mut []);
    let parsed = ParserConfig::default().parse_response_with_uninit_headers(
        &mut response,
        bytes,
        &mut fields,
    );
    let length = match parsed {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(_) => return Err(Garbled),
    };
    let (Some(status), Some(minor)) = (response.code, response.version) else {
        return Err(Garbled);
    };
    let reason = response.reason.unwrap_or_default();
    let fields = &*response.headers;
    let head = Fields::read(fields)?;
    let interim = status < 200;
    let body = head.body(status, minor, asked.head)?;
    start(status, reason, into);
    let length_says = !interim && status != 204;
    for field in fields {
        let name = field.name.as_bytes();
        let ours = name.eq_ignore_ascii_case(b"x-request-id");
        let framing = !length_says && name.eq_ignore_ascii_case(b"content-length");
        let named = head.named && head.names(fields, name);
        if !(ours || framing || named || ends_in_answer(name)) {
            line(name, field.value, into);
        }
    }
    if !interim {
        if matches!(body, Body::Chunked(_) | Body::UntilClose) {
            into.extend_from_slice(b"transfer-encoding: chunked\r\n");
        }
        if !head.date {
            (asked.date)(into);
        }
        if asked.close {
            into.extend_from_slice(b"connection: close\r\n");
        }
    }
    line(b"x-request-id", asked.id, into);
    into.extend_from_slice(b"\r\n");
    let keep = !head.close && (minor == 1 || head.keep_alive) && !matches!(body, Body::UntilClose);
    Ok(Some(Answer { status, length, body, keep, events: head.events }))
}

fn start(status: u16, reason: &str, into: &mut Vec<u8>) {
    let digit = |n: u16| b'0' + (n % 10) as u8;
    into.extend_from_slice(b"HTTP/1.1 ");
    into.extend_from_slice(&[digit(status / 100), digit(status / 10), digit(status), b' ']);
    into.extend_from_slice(reason.as_bytes());
    into.extend_from_slice(b"\r\n");
}

fn line(name: &[u8], value: &[u8], into: &mut Vec<u8>) {
    into.extend_from_slice(name);
    into.extend_from_slice(b": ");
    into.extend_from_slice(value);
    into.extend_from_slice(b"\r\n");
}

/// What the fields of an answer's head say.
#[derive(Default)]
struct Fields {
    length: Option<u64>,
    chunked: bool,
    close: bool,
    keep_alive: bool,
    named: bool,
    date: bool,
    events: bool,
}

impl Fields {
    fn read(fields: &[httparse::Header<'_>]) -> Result<Self, Garbled> {
        let mut read = Self::default();
        for field in fields {
            read.note(field.name.as_bytes(), field.value)?;
        }
        if read.chunked && read.length.is_some() { Err(Garbled) } else { Ok(read) }
    }

    fn note(&mut self, name: &[u8], value: &[u8]) -> Result<(), Garbled> {
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
                self.events = value
                    .get(..17)
                    .is_some_and(|kind| kind.eq_ignore_ascii_case(b"text/event-stream"));
            }
            14 if is(b"content-length") => {
                let length = number(value).map_err(|_| Garbled)?;
                if self.length.replace(length).is_some() {
                    return Err(Garbled);
                }
            }
            17 if is(b"transfer-encoding") => {
                if self.chunked || !value.eq_ignore_ascii_case(b"chunked") {
                    return Err(Garbled);
                }
                self.chunked = true;
            }
            _ => {}
        }
        Ok(())
    }

    fn body(&self, status: u16, minor: u8, head: bool) -> Result<Body, Garbled> {
        // Nobody asked to leave HTTP, and HTTP/1.0 knows no chunks.
        if status == 101 || (self.chunked && minor == 0) {
            return Err(Garbled);
        }
        Ok(match self.length {
            _ if head || status < 200 || status == 204 || status == 304 => Body::Done,
            _ if self.chunked => Body::Chunked(Chunks::default()),
            Some(0) => Body::Done,
            Some(length) => Body::Length(length),
            None => Body::UntilClose,
        })
    }

    /// Whether `Connection` names this field.
    fn names(&self, fields: &[httparse::Header<'_>], name: &[u8]) -> bool {
        let of = |field: &&httparse::Header<'_>| field.name.eq_ignore_ascii_case("connection");
        let mut named = fields.iter().filter(of).flat_map(|field| tokens(field.value));
        may_be_named(name) && named.any(|token| token.eq_ignore_ascii_case(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        let (read, _) =
            answer("HTTP/1.0 200 OK\nConnection: keep-alive\nContent-Length: 0\n", false).unwrap();
        assert!(matches!(read.body, Body::Done) && read.keep);
    }
}
