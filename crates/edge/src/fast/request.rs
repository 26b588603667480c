//! A request's head as its replica gets it, written from the raw bytes by the rules of [`crate::headers`].

use std::ops::Range;

use crate::headers::{Claims, Client, Rule, is_sane_id, is_trace, may_be_named};
use crate::ids::Ids;
use crate::lines::Line;
use crate::strict::{Framing, Head, tokens};

/// What the head says, besides what was written.
pub struct Written {
    /// Where the request's id lies in what was written.
    pub id: Range<usize>,
    /// The client wants the connection to end with this request.
    pub close: bool,
}

/// Writes the head at the start of `bytes` into `into`.
pub fn write(head: &Head, bytes: &[u8], client: &Client, ids: &Ids, into: &mut Vec<u8>) -> Written {
    let options = if head.connection { options(head, bytes) } else { Options::default() };
    let mut writer = Writer {
        head,
        bytes,
        client,
        into,
        from: 0,
        claims: Claims::default(),
        given: Given::default(),
    };
    for line in head.lines() {
        if !writer.keeps(*line, &options) {
            writer.skip(*line);
        }
    }
    writer.copy_to(head.length - 2);
    let Writer { claims, given, .. } = writer;
    if head.framing == Framing::Chunked {
        into.extend_from_slice(b"transfer-encoding: chunked\r\n");
    }
    if given.trailers {
        into.extend_from_slice(TRAILERS);
    }
    client.write(&claims, head.host.of(bytes), into);
    write_trace(&given, bytes, ids, into);
    into.extend_from_slice(b"x-request-id: ");
    let start = into.len();
    match given.id {
        Some(id) => into.extend_from_slice(id.value(bytes)),
        None => into.extend_from_slice(&ids.request_id_digits()),
    }
    let id = start..into.len();
    into.extend_from_slice(b"\r\n\r\n");
    Written { id, close: options.close }
}

/// The answer may have trailers, as far as this hop goes.
const TRAILERS: &[u8] = b"te: trailers\r\nconnection: te\r\n";

fn write_trace(given: &Given, bytes: &[u8], ids: &Ids, into: &mut Vec<u8>) {
    into.extend_from_slice(b"traceparent: ");
    let Some(trace) = given.trace else {
        into.extend_from_slice(&ids.trace_digits());
        into.extend_from_slice(b"\r\n");
        return;
    };
    into.extend_from_slice(trace.value(bytes));
    into.extend_from_slice(b"\r\n");
    for line in &given.trace_states {
        into.extend_from_slice(&bytes[line.place()]);
    }
}

/// What `Connection` says.
#[derive(Default)]
struct Options {
    close: bool,
    /// It names fields that go no further.
    named: bool,
}

fn options(head: &Head, bytes: &[u8]) -> Options {
    let mut options = Options::default();
    for token in connection_tokens(head, bytes) {
        options.close |= token.eq_ignore_ascii_case(b"close");
        options.named |= may_be_named(token);
    }
    options
}

fn connection_tokens<'a>(head: &'a Head<'a>, bytes: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
    let of = |line: &&Line| line.name(bytes).eq_ignore_ascii_case(b"connection");
    head.lines().iter().filter(of).flat_map(|line| tokens(line.value(bytes)))
}

/// What came from a proxy that is believed, and what is written in another place.
#[derive(Default)]
struct Given {
    id: Option<Line>,
    trace: Option<Line>,
    trace_states: Vec<Line>,
    trailers: bool,
}

struct Writer<'a, 'b> {
    head: &'b Head<'b>,
    bytes: &'a [u8],
    client: &'b Client,
    into: &'b mut Vec<u8>,
    /// Up to where the bytes are written or skipped.
    from: usize,
    claims: Claims<'a>,
    given: Given,
}

impl Writer<'_, '_> {
    fn keeps(&mut self, line: Line, options: &Options) -> bool {
        let (name, value) = (line.name(self.bytes), line.value(self.bytes));
        let trusted = self.client.is_trusted();
        match Rule::of(name) {
            Rule::Keep => return !(options.named && may_be_named(name) && self.is_named(name)),
            Rule::Hearsay => return trusted,
            Rule::Te => self.given.trailers |= value.eq_ignore_ascii_case(b"trailers"),
            Rule::Claim(claim) if trusted => self.claims.add(claim, value),
            Rule::RequestId if trusted && self.given.id.is_none() && is_sane_id(value) => {
                self.given.id = Some(line);
            }
            Rule::Trace if self.given.trace.is_none() && is_trace(value) => {
                self.given.trace = Some(line);
            }
            Rule::TraceState => self.given.trace_states.push(line),
            _ => {}
        }
        false
    }

    /// Whether `Connection` names this field.
    fn is_named(&self, name: &[u8]) -> bool {
        connection_tokens(self.head, self.bytes).any(|token| token.eq_ignore_ascii_case(name))
    }

    /// Leaves `line` out. What is kept between two such lines is copied at once.
    fn skip(&mut self, line: Line) {
        let place = line.place();
        self.copy_to(place.start);
        self.from = place.end;
    }

    fn copy_to(&mut self, end: usize) {
        self.into.extend_from_slice(&self.bytes[self.from..end]);
        self.from = end;
    }
}
