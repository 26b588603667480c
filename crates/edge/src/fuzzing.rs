//! What must hold for any bytes at all: the properties that `fuzz/` and the tests below throw bytes at.
//!
//! Each takes bytes and panics when its property does not hold.

use std::collections::BTreeMap;
use std::time::Duration;

use arc_swap::ArcSwap;
use domain::route::{EnvironmentRoutes, Route, SlotRoutes, Table};
use domain::slot::Endpoint;
use domain::{AppName, Color, EnvironmentName, Epoch, ReleaseId, ServiceName};

use crate::fast::response::{self, Asked as AskedFor, Body};
use crate::http2::hpack::{Decoder, Encoder};
use crate::http2::{Asked, Reader, Scratch};
use crate::lines::Lines;
use crate::live::{acquire, host_name};
use crate::registry::Registry;
use crate::strict::{Chunks, Framing, MAX_FIELDS, MAX_HEAD, check, head_length, is_host, parse};
use crate::websocket::Framer;

/// A head that is let through reads the same for another parser, has one framing, and is found however its
/// bytes are cut.
pub fn head(bytes: &[u8]) {
    let length = head_length(bytes, 0);
    for cut in cuts(bytes) {
        match head_length(&bytes[..cut], 0) {
            Some(early) => {
                assert_eq!(Some(early), length, "a cut at {cut} ends the head elsewhere")
            }
            None => assert_eq!(head_length(bytes, cut), length, "seen up to {cut}"),
        }
    }
    let Some(length) = length.filter(|length| *length <= MAX_HEAD) else { return };
    let head = &bytes[..length];
    let outcome = check(head);
    assert_eq!(check(head), outcome, "twice the same");
    let Ok(framing) = outcome else { return };
    let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
    let mut other = httparse::Request::new(&mut fields);
    let parsed = other.parse(head).expect("another parser reads what is let through");
    assert_eq!(parsed, httparse::Status::Complete(length));
    agrees(head, &other, framing);
}

fn agrees(head: &[u8], other: &httparse::Request<'_, '_>, framing: Framing) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let lines = head.strip_suffix(b"\r\n\r\n").expect("a head ends with an empty line");
    let mut lines =
        lines.split(|b| *b == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    let version = if other.version == Some(1) { "HTTP/1.1" } else { "HTTP/1.0" };
    let line = format!("{} {} {version}", other.method.unwrap_or(""), other.path.unwrap_or(""));
    assert_eq!(lines.next().map(text), Some(line));
    assert_eq!(lines.count(), other.headers.len(), "as many fields");
    let of = |name: &str| -> Vec<String> {
        let same = other.headers.iter().filter(|field| field.name.eq_ignore_ascii_case(name));
        same.map(|field| text(field.value).trim_matches([' ', '\t']).to_ascii_lowercase()).collect()
    };
    assert!(matches!(&of("host")[..], [host] if is_host(host.as_bytes())), "{:?}", of("host"));
    let (lengths, codings) = (of("content-length"), of("transfer-encoding"));
    match framing {
        Framing::Chunked => {
            assert!(lengths.is_empty() && codings == ["chunked"] && other.version == Some(1));
        }
        Framing::Length(length) => {
            assert!(codings.is_empty() && lengths.len() <= 1);
            assert_eq!(lengths.first().map_or(Ok(0), |said| said.parse()), Ok(length));
        }
        Framing::Tunnel => {
            assert!(codings.is_empty() && lengths.iter().all(|said| said.parse() == Ok(0)));
            assert!(!of("upgrade").is_empty() && !of("connection").is_empty());
        }
    }
}

/// A chunked body ends at the same byte, or is refused, however its bytes are cut.
pub fn chunked(bytes: &[u8]) {
    let whole = Chunks::default().advance(bytes);
    for cut in cuts(bytes) {
        let mut chunks = Chunks::default();
        let parts = match chunks.advance(&bytes[..cut]) {
            Ok((taken, false)) => {
                assert_eq!(taken, cut, "everything before the end belongs to the body");
                chunks.advance(&bytes[cut..]).map(|(more, ended)| (cut + more, ended))
            }
            other => other,
        };
        match (&whole, &parts) {
            (Ok(whole), Ok(parts)) => assert_eq!(whole, parts, "cut at {cut}"),
            (Err(_), Err(_)) => {}
            // The first part alone may be fine and over before the odd byte.
            (whole, parts) => panic!("cut at {cut}: {parts:?}, whole: {whole:?}"),
        }
    }
    let mut chunks = Chunks::default();
    let mut taken = 0;
    let single = bytes.iter().find_map(|byte| {
        let step = chunks.advance(std::slice::from_ref(byte));
        taken += 1;
        match step {
            Ok((_, false)) => None,
            Ok((_, true)) => Some(Ok((taken, true))),
            Err(refusal) => Some(Err(refusal)),
        }
    });
    match single.unwrap_or(Ok((bytes.len(), false))) {
        Ok(end) => assert_eq!(whole, Ok(end), "byte by byte"),
        Err(_) => assert!(whole.is_err(), "byte by byte it was refused"),
    }
}

/// A replica's answer is passed on to HTTP/1 and HTTP/2 alike or to neither, another parser reads what is
/// written, and no part of its head is taken for all of it.
pub fn answer(bytes: &[u8]) {
    let date = |into: &mut Vec<u8>| into.extend_from_slice(b"date: now\r\n");
    for head in [false, true] {
        let asked = AskedFor { id: b"7", head, close: false, date: &date };
        let mut written = Vec::new();
        let read = response::read(bytes, asked, &mut written);
        let Ok(Some(answer)) = read else {
            let other = response::read_with(bytes, head, |_, _, _| {});
            assert!(!matches!(other, Ok(Some(_))), "for HTTP/2 it is an answer: {other:?}");
            continue;
        };
        assert!(answer.length <= bytes.len());
        for cut in cuts(&bytes[..answer.length - 1]) {
            let early = response::read(&bytes[..cut], asked, &mut Vec::new());
            assert!(!matches!(early, Ok(Some(_))), "an answer after {cut} bytes already");
        }
        let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS + 3];
        let mut other = httparse::Response::new(&mut fields);
        let parsed = other.parse(&written).expect("another parser reads what is written");
        assert_eq!(parsed, httparse::Status::Complete(written.len()));
        assert_eq!(other.code, Some(answer.status));
        let count = |name: &str| {
            other.headers.iter().filter(|field| field.name.eq_ignore_ascii_case(name)).count()
        };
        match answer.body {
            _ if head || answer.status < 200 => {}
            Body::Done => assert!(count("content-length") <= 1 && count("transfer-encoding") == 0),
            Body::Length(_) => {
                assert_eq!((count("content-length"), count("transfer-encoding")), (1, 0));
            }
            Body::Chunked(_) | Body::UntilClose => {
                assert_eq!((count("content-length"), count("transfer-encoding")), (0, 1));
            }
        }
        let same = response::read_with(bytes, head, |head, bytes, _| {
            head.each(bytes, |name, _| assert!(!name.contains(&b':'), "a field within a name"));
        });
        let same = same.ok().flatten().expect("an answer for HTTP/2 too");
        assert_eq!(
            (same.status, same.length, same.keep),
            (answer.status, answer.length, answer.keep)
        );
    }
}

/// Fields that a client compressed: what is a request makes one head and nothing behind it, the same whatever it is
/// read for; and all of them can be written so that they are read the same.
pub fn fields(bytes: &[u8]) {
    for ended in [false, true] {
        let mut scratch = Scratch::default();
        let mut reader = Reader::new(&mut scratch, Vec::new());
        let mut decoder = Decoder::default();
        if decoder.decode(bytes, |name, value| reader.field(name, value)).is_err() {
            return;
        }
        let Ok(Asked { text, refused: None, .. }) = reader.finish(ended) else { continue };
        let mut lines = Lines::new();
        let Ok(head) = parse(&text, &mut lines) else { continue };
        let head = head.expect("a head comes whole");
        assert_eq!(head.length, text.len(), "nothing comes behind the head");
        assert!(!ended || head.framing == Framing::Length(0), "{:?}", head.framing);
        assert!(head.one_one && !head.upgrade);
    }
    let (mut first, mut again) = (Vec::new(), Vec::new());
    let (mut encoder, mut block) = (Encoder::default(), Vec::new());
    encoder.begin(&mut block);
    let read = Decoder::default().decode(bytes, |name, value| {
        first.push((name.to_vec(), value.to_vec()));
        encoder.field(name, value, &mut block);
    });
    if read.is_ok() {
        let read = |name: &[u8], value: &[u8]| again.push((name.to_vec(), value.to_vec()));
        Decoder::default().decode(&block, read).expect("what is written can be read");
        assert_eq!(again, first);
    }
}

/// The frames of a WebSocket end where they end, however their bytes are cut.
pub fn frames(bytes: &[u8]) {
    let mut whole = Framer::default();
    whole.follow(bytes);
    for cut in cuts(bytes) {
        let mut parts = Framer::default();
        parts.follow(&bytes[..cut]);
        parts.follow(&bytes[cut..]);
        assert_eq!(parts, whole, "cut at {cut}");
    }
}

/// The first line is a host, the second a path, each further one a prefix: the longest prefix of whole
/// segments answers, at the host in whatever spelling.
pub fn route(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let mut lines = text.split('\n');
    let (host, path) = (lines.next().unwrap_or(""), lines.next().unwrap_or(""));
    let sane =
        |prefix: &&str| *prefix == "/" || (prefix.starts_with('/') && !prefix.ends_with('/'));
    let mut prefixes: Vec<&str> = lines.filter(sane).take(40).collect();
    prefixes.sort_unstable();
    prefixes.dedup();
    normalised(host);
    let live = ArcSwap::from_pointee(Registry::new(1).compile(&table(&prefixes)));
    let found = acquire(&live, 0, HOST, path).ok().map(|acquired| acquired.route.prefix.clone());
    assert_eq!(found.as_deref(), longest(&prefixes, path), "{path:?} among {prefixes:?}");
}

const HOST: &str = "tea.localhost";

/// Upper case, a final dot and a port change nothing.
fn normalised(host: &str) {
    if !is_host(host.as_bytes()) {
        return;
    }
    let name = host_name(host).into_owned();
    assert_eq!(host_name(&host.to_ascii_uppercase()), name, "{host:?} in upper case");
    let bare = !host.contains([':', '[', ']']) && !host.ends_with('.');
    if bare {
        assert_eq!(name, host.to_ascii_lowercase());
        for same in [format!("{host}:8080"), format!("{host}."), format!("{host}.:80")] {
            assert_eq!(host_name(&same), name, "{same:?}");
        }
    }
}

/// The model: compares whole segments, one by one.
fn longest<'a>(prefixes: &[&'a str], path: &str) -> Option<&'a str> {
    if !path.starts_with('/') {
        return None;
    }
    let segments: Vec<&str> = path[1..].split('/').collect();
    let covers = |prefix: &&&str| {
        let wanted: Vec<&str> = prefix[1..].split('/').collect();
        **prefix == "/" || segments.starts_with(&wanted)
    };
    prefixes.iter().filter(covers).max_by_key(|prefix| prefix.len()).copied()
}

fn table(prefixes: &[&str]) -> Table {
    let app = AppName::new("tea").expect("a valid name");
    let environment = EnvironmentName::new("staging").expect("a valid name");
    let service = ServiceName::new("backend").expect("a valid name");
    let routes = prefixes.iter().map(|prefix| Route {
        prefix: (*prefix).into(),
        service: service.clone(),
        endpoints: vec![Endpoint::Http(([127, 0, 0, 1], 1).into())],
        health: None,
        max_body: None,
    });
    let slot = SlotRoutes { release: ReleaseId::nth(1), routes: routes.collect() };
    let routes = EnvironmentRoutes {
        app,
        host: HOST.into(),
        names: Vec::new(),
        preview_host: format!("preview.{HOST}"),
        live: Color::Blue,
        slots: BTreeMap::from([(Color::Blue, slot)]),
        drain_deadline: Duration::ZERO,
        close_spread: Duration::ZERO,
        https: false,
    };
    Table { epoch: Epoch(1), environments: BTreeMap::from([(environment, routes)]) }
}

/// Where to cut: everywhere in what is short, at some places in what is long.
fn cuts(bytes: &[u8]) -> impl Iterator<Item = usize> {
    (0..=bytes.len()).step_by((bytes.len() / 64).max(1))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    /// Pieces of heads, put together in any order and broken here and there.
    const PIECES: [&str; 28] = [
        "GET ",
        "POST ",
        "/",
        "/a",
        "/api",
        "*",
        "http://tea",
        " HTTP/1.1",
        " HTTP/1.0",
        "\r\n",
        "\n",
        "\r",
        "Host: tea",
        "host:",
        "Content-Length: 3",
        "content-length:3",
        "Transfer-Encoding: chunked",
        ": ",
        "chunked",
        "Upgrade: x",
        "Connection: upgrade",
        "\r\n\r\n",
        "X: y",
        "\0",
        "%2e%2e",
        "..",
        "3\r\nabc\r\n",
        "0\r\n\r\n",
    ];

    fn pieces() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop_oneof![
            9 => prop::sample::select(&PIECES[..]).prop_map(|piece| piece.as_bytes().to_vec()),
            1 => any::<u8>().prop_map(|byte| vec![byte]),
        ];
        prop::collection::vec(piece, 0..24).prop_map(|pieces| pieces.concat())
    }

    /// A field without compression, or the number of one.
    fn field() -> impl Strategy<Value = Vec<u8>> {
        let text = |text: &str| [&[text.len() as u8], text.as_bytes()].concat();
        let names = [
            ":method",
            ":scheme",
            ":authority",
            ":path",
            ":x",
            "host",
            "cookie",
            "te",
            "content-length",
            "transfer-encoding",
            "x-a",
            "X-A",
            "x a",
        ];
        let values = [
            "GET",
            "https",
            "tea",
            "/a?b",
            "/ x",
            "trailers",
            " 7",
            "7\t",
            "7",
            "0",
            "a=b",
            "",
            "a\r\nb: c",
        ];
        let literal = (
            prop::sample::select(&[0x00_u8, 0x10, 0x40][..]),
            prop::sample::select(names.to_vec()),
            prop::sample::select(values.to_vec()),
        );
        prop_oneof![
            3 => literal.prop_map(move |(kind, name, value)| {
                [vec![kind], text(name), text(value)].concat()
            }),
            2 => prop::sample::select(&[0x82_u8, 0x83, 0x84, 0x87, 0x90, 0xbe, 0xbf][..]).prop_map(|n| vec![n]),
        ]
    }

    /// Mostly right: what is let through must be reached often enough to be compared.
    fn heads() -> impl Strategy<Value = Vec<u8>> {
        pieces().prop_map(|odd| {
            let mut bytes = b"POST /a HTTP/1.1\r\nHost: tea\r\n".to_vec();
            bytes.extend(odd);
            bytes.extend(b"\r\n\r\n");
            bytes
        })
    }

    fn answers() -> impl Strategy<Value = Vec<u8>> {
        let lines = prop::sample::select(
            &[
                "content-length: 3",
                "Content-Length:0",
                "transfer-encoding: chunked",
                "connection: close, x-a",
                "connection: keep-alive",
                "x-a: b",
                "x-a : b",
                " folded",
                "content-type: text/event-stream",
                "x-request-id: 1",
                "date: then",
                "x-empty:",
                "",
            ][..],
        );
        let ends = prop::sample::select(&["\r\n", "\n", "\r"][..]);
        let status = prop::sample::select(
            &["HTTP/1.1 200 OK", "HTTP/1.0 200", "HTTP/1.1 204 ", "HTTP/1.1 100 Go", "HTTP/1.1 99"]
                [..],
        );
        let lines = prop::collection::vec((lines, ends, 0..9_u8), 0..8);
        (status, lines, prop::collection::vec(any::<u8>(), 0..8)).prop_map(
            |(status, lines, odd)| {
                let mut bytes = format!("{status}\r\n").into_bytes();
                for (line, end, odds) in lines {
                    bytes.extend_from_slice(line.as_bytes());
                    // Mostly as it should be.
                    bytes.extend_from_slice(if odds > 0 { b"\r\n" } else { end.as_bytes() });
                }
                bytes.extend_from_slice(b"\r\n");
                bytes.extend_from_slice(&odd);
                bytes
            },
        )
    }

    proptest! {
        #[test]
        fn no_answer_of_a_replica_has_two_readings(bytes in prop_oneof![pieces(), answers()]) {
            super::answer(&bytes);
        }

        #[test]
        fn the_frames_of_a_websocket_end_where_they_end_however_they_are_cut(
            bytes in prop::collection::vec(
                prop_oneof![0..=2_u8, Just(0x88), 125..=127_u8, 253..=255_u8], 0..60
            )
        ) {
            super::frames(&bytes);
        }

        #[test]
        fn compressed_fields_make_one_head_or_none(
            bytes in prop_oneof![
                prop::collection::vec(any::<u8>(), 0..60),
                prop::collection::vec(field(), 0..20).prop_map(|fields| fields.concat())
            ]
        ) {
            super::fields(&bytes);
        }

        #[test]
        fn no_bytes_have_two_readings_as_a_head(bytes in prop_oneof![pieces(), heads()]) {
            super::head(&bytes);
        }

        #[test]
        fn a_chunked_body_ends_where_it_ends_however_it_is_cut(
            bytes in prop::collection::vec(prop::sample::select(&b"0123aF;= \r\n\r\nx:"[..]), 0..60)
        ) {
            super::chunked(&bytes);
        }

        #[test]
        fn the_longest_prefix_of_whole_segments_answers(
            host in "[A-Za-z0-9.:\\[\\]_-]{1,20}",
            path in "(/[ab]{0,2}){0,5}",
            prefixes in prop::collection::vec("(/[ab]{1,2}){1,4}|/", 0..8)
        ) {
            super::route(format!("{host}\n{path}\n{}", prefixes.join("\n")).as_bytes());
        }
    }
}
