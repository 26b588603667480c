//! The head of a request, rewritten from the fields of HTTP/2 as HTTP/1.1 would say it.
//!
//! So there is one place for what a head must look like ([`crate::strict`]), one for what becomes of its fields, and
//! one for how it is routed. What HTTP/2 alone forbids ends here (RFC 9113, 8.2 and 8.3).

use std::ops::Range;

use crate::lines::{TOKEN, all, is_visible};
use crate::strict::{MAX_HEAD, Refusal, number};

/// A request as far as its head goes.
#[derive(Debug)]
pub struct Asked {
    /// The head as HTTP/1.1 would say it, not checked any further.
    pub text: Vec<u8>,
    /// How long its body should be, if it says so.
    pub length: Option<u64>,
    /// The head is the whole request.
    pub ended: bool,
    /// The client waits to hear that its body is wanted (RFC 9110, 10.1.1).
    pub waits: bool,
    /// It is answered with this, without another look.
    pub refused: Option<Refusal>,
}

/// The fields do not make a request: its stream is reset.
#[derive(Debug, PartialEq, Eq)]
pub struct Malformed;

/// Takes the fields of one head, in their order.
pub struct Reader<'a> {
    scratch: &'a mut Scratch,
    text: Vec<u8>,
    malformed: bool,
    too_large: bool,
    /// A field that is no pseudo-field came: none of those may follow.
    regular: bool,
    method: Option<Range<usize>>,
    scheme: bool,
    authority: Option<Range<usize>>,
    path: Option<Range<usize>>,
    host: bool,
    other_host: bool,
    length: Option<u64>,
    expects: bool,
}

/// What is written besides the fields, and around each, is shorter than this.
const SPARE: usize = 128;

/// Room for what a head says before its place in the text has come.
#[derive(Default)]
pub struct Scratch {
    pseudo: Vec<u8>,
    cookies: Vec<u8>,
}

impl<'a> Reader<'a> {
    /// `text` is empty.
    pub fn new(scratch: &'a mut Scratch, text: Vec<u8>) -> Self {
        scratch.pseudo.clear();
        scratch.cookies.clear();
        Self {
            scratch,
            text,
            malformed: false,
            too_large: false,
            regular: false,
            method: None,
            scheme: false,
            authority: None,
            path: None,
            host: false,
            other_host: false,
            length: None,
            expects: false,
        }
    }

    pub fn field(&mut self, name: &[u8], value: &[u8]) {
        let kept = self.text.len() + self.scratch.pseudo.len() + self.scratch.cookies.len();
        self.too_large |= kept + name.len() + value.len() + SPARE > MAX_HEAD;
        if self.malformed || self.too_large {
            return;
        }
        if let Some(pseudo) = name.strip_prefix(b":") {
            self.malformed = !is_value(value) || self.pseudo(pseudo, value).is_err();
            return;
        }
        if !self.regular {
            self.regular = true;
            self.begin();
        }
        self.malformed |= !is_name(name) || !is_value(value) || self.regular(name, value).is_err();
    }

    fn pseudo(&mut self, name: &[u8], value: &[u8]) -> Result<(), Malformed> {
        if self.regular {
            return Err(Malformed);
        }
        let pseudo = &mut self.scratch.pseudo;
        let start = pseudo.len();
        pseudo.extend_from_slice(value);
        let place = start..pseudo.len();
        let before = match name {
            b"method" => self.method.replace(place).is_some(),
            b"path" => self.path.replace(place).is_some(),
            b"authority" => self.authority.replace(place).is_some(),
            b"scheme" => std::mem::replace(&mut self.scheme, true),
            _ => true,
        };
        if before { Err(Malformed) } else { Ok(()) }
    }

    /// Writes what stands in front of all fields.
    fn begin(&mut self) {
        let of = |place: &Option<Range<usize>>| {
            place.as_ref().map_or(&b""[..], |place| &self.scratch.pseudo[place.clone()])
        };
        let path = of(&self.path);
        self.malformed |= self.method.is_none() || !self.scheme || path.is_empty();
        for part in [of(&self.method), b" ", path, b" HTTP/1.1\r\n"] {
            self.text.extend_from_slice(part);
        }
        if self.authority.is_some() {
            line(b"host", of(&self.authority), &mut self.text);
        }
    }

    fn regular(&mut self, name: &[u8], value: &[u8]) -> Result<(), Malformed> {
        match name {
            // They are about one connection of HTTP/1.
            b"connection" | b"keep-alive" | b"proxy-connection" | b"transfer-encoding"
            | b"upgrade" => {
                return Err(Malformed);
            }
            b"te" if value != b"trailers" => return Err(Malformed),
            b"host" => {
                self.host(value);
                return Ok(());
            }
            b"cookie" => {
                // HTTP/2 may send it in crumbs; a server that speaks HTTP/1 gets it whole (RFC 9113, 8.2.3).
                let cookies = &mut self.scratch.cookies;
                if !cookies.is_empty() {
                    cookies.extend_from_slice(b"; ");
                }
                cookies.extend_from_slice(value);
                return Ok(());
            }
            b"expect" => self.expects = value.eq_ignore_ascii_case(b"100-continue"),
            b"content-length" => self.length = self.length.or(number(value).ok()),
            _ => {}
        }
        line(name, value, &mut self.text);
        Ok(())
    }

    /// The host may be named twice if it is the same (RFC 9113, 8.3.1); otherwise the head is refused later.
    fn host(&mut self, value: &[u8]) {
        let authority = self.authority.as_ref().map(|place| &self.scratch.pseudo[place.clone()]);
        match authority {
            Some(authority) => self.other_host |= !authority.eq_ignore_ascii_case(value),
            None => line(b"host", value, &mut self.text),
        }
        self.other_host |= std::mem::replace(&mut self.host, true);
    }

    /// All fields came. `ended`: there is no body.
    pub fn finish(mut self, ended: bool) -> Result<Asked, Malformed> {
        if !self.regular {
            self.begin();
        }
        let promised = ended && self.length.is_some_and(|length| length > 0);
        if !self.too_large && (self.malformed || promised) {
            return Err(Malformed);
        }
        if !self.scratch.cookies.is_empty() {
            line(b"cookie", &self.scratch.cookies, &mut self.text);
        }
        // How long the body is has to be said aloud in HTTP/1 (RFC 9110, 8.6).
        let usual = [&b"POST "[..], b"PUT ", b"PATCH "];
        if self.length.is_none() {
            if !ended {
                line(b"transfer-encoding", b"chunked", &mut self.text);
            } else if usual.into_iter().any(|method| self.text.starts_with(method)) {
                line(b"content-length", b"0", &mut self.text);
            }
        }
        self.text.extend_from_slice(b"\r\n");
        let refused = match () {
            () if self.too_large => Some(Refusal::HeadTooLarge),
            () if self.other_host => Some(Refusal::Malformed),
            () => None,
        };
        let waits = self.expects && !ended;
        Ok(Asked { text: self.text, length: self.length, ended, waits, refused })
    }
}

pub fn is_name(name: &[u8]) -> bool {
    !name.is_empty() && all(name, TOKEN) && !name.iter().any(u8::is_ascii_uppercase)
}

/// Blanks around a value belong to HTTP/1, where they are taken away (RFC 9113, 8.2.1).
pub fn is_value(value: &[u8]) -> bool {
    is_visible(value) && value.trim_ascii().len() == value.len()
}

fn line(name: &[u8], value: &[u8], into: &mut Vec<u8>) {
    into.reserve(name.len() + value.len() + 4);
    into.extend_from_slice(name);
    into.extend_from_slice(b": ");
    into.extend_from_slice(value);
    into.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lines::Lines;
    use crate::strict::{Framing, parse};

    const USUAL: [(&str, &str); 4] =
        [(":method", "GET"), (":scheme", "https"), (":authority", "tea"), (":path", "/a?b")];

    fn read(fields: &[(&str, &str)], ended: bool) -> Result<Asked, Malformed> {
        let mut scratch = Scratch::default();
        let mut reader = Reader::new(&mut scratch, Vec::new());
        for (name, value) in fields {
            reader.field(name.as_bytes(), value.as_bytes());
        }
        reader.finish(ended)
    }

    fn and(more: &[(&'static str, &'static str)]) -> Vec<(&'static str, &'static str)> {
        [&USUAL[..], more].concat()
    }

    #[test]
    fn a_head_says_in_http_1_what_it_says_in_http_2() {
        let more = [("cookie", "a=1"), ("accept", "*/*"), ("host", "TEA"), ("cookie", "b=2")];
        let asked = read(&and(&more), true).unwrap();
        let expected = "GET /a?b HTTP/1.1\nhost: tea\naccept: */*\ncookie: a=1; b=2\n\n";
        assert_eq!(String::from_utf8(asked.text).unwrap(), expected.replace('\n', "\r\n"));
        assert!(asked.refused.is_none() && asked.ended);
    }

    #[test]
    fn the_body_has_one_length_or_comes_in_chunks() {
        let framing = |fields: &[(&str, &str)], ended| {
            let text = read(fields, ended).unwrap().text;
            parse(&text, &mut Lines::new()).map(|head| head.unwrap().framing)
        };
        assert_eq!(framing(&USUAL, true), Ok(Framing::Length(0)));
        assert_eq!(framing(&USUAL, false), Ok(Framing::Chunked));
        assert_eq!(framing(&and(&[("content-length", "7")]), false), Ok(Framing::Length(7)));
        for odd in ["7, 7", "x", "-1"] {
            assert!(framing(&and(&[("content-length", odd)]), false).is_err(), "{odd}");
        }
        let twice = and(&[("content-length", "7"), ("content-length", "7")]);
        assert!(framing(&twice, false).is_err());
        assert!(read(&and(&[("content-length", "7")]), true).is_err());
        let mut post = USUAL;
        post[0].1 = "POST";
        assert!(
            String::from_utf8(read(&post, true).unwrap().text)
                .unwrap()
                .contains("content-length: 0\r\n")
        );
    }

    #[test]
    fn what_http_2_forbids_is_no_request() {
        let mut all = vec![];
        for field in [
            ("connection", "close"),
            ("transfer-encoding", "chunked"),
            ("te", "gzip"),
            ("X-Upper", "1"),
            ("", "1"),
            ("a b", "1"),
            ("x", "1\r\nhost: other"),
            ("x", "\0"),
            ("content-length", " 7"),
            ("content-length", "7\t"),
            ("x", " "),
            (":path", "/again"),
            (":status", "200"),
        ] {
            all.push(and(&[field]));
        }
        all.push(and(&[("accept", "*/*"), (":protocol", "websocket")]));
        for missing in [0, 1, 3] {
            let mut fields = USUAL.to_vec();
            fields.remove(missing);
            all.push(fields);
        }
        let mut twice = USUAL.to_vec();
        twice.insert(0, (":method", "GET"));
        all.push(twice);
        let mut lines = USUAL.to_vec();
        lines[3].1 = "/ HTTP/1.1\r\nx: y";
        all.push(lines);
        for fields in all {
            assert_eq!(read(&fields, true).unwrap_err(), Malformed, "{fields:?}");
        }
    }

    #[test]
    fn what_is_too_large_or_names_two_hosts_is_refused_with_an_answer() {
        let long = "a".repeat(MAX_HEAD);
        let large = read(&[&USUAL[..], &[("x", &long)]].concat(), true).unwrap();
        assert_eq!(large.refused, Some(Refusal::HeadTooLarge));
        let hosts = read(&and(&[("host", "other")]), true).unwrap();
        assert_eq!(hosts.refused, Some(Refusal::Malformed));
        // A space in the path makes no line of its own.
        let mut spaced = USUAL;
        spaced[3].1 = "/a HTTP/1.1";
        assert!(parse(&read(&spaced, true).unwrap().text, &mut Lines::new()).is_err());
    }
}
