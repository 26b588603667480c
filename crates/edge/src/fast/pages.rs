//! Error pages as bytes: the same ones that hyper's clients get.

use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use http::header::{ACCEPT, HeaderMap};
use http::{HeaderValue, StatusCode};
use hyper::body::Body;

use crate::error_page::{Style, page};
use crate::lines::Lines;
use crate::strict;

/// What is known of the request that gets an error.
pub struct Failed<'a> {
    /// Its head, as far as there is one.
    pub head: &'a [u8],
    pub id: &'a [u8],
    /// It was a HEAD: the page itself is left out.
    pub is_head: bool,
    pub close: bool,
}

/// Appends the whole answer.
pub fn write(status: StatusCode, failed: &Failed<'_>, into: &mut Vec<u8>) {
    let id = HeaderValue::from_bytes(failed.id).unwrap_or(HeaderValue::from_static("unknown"));
    let answer = page(status, &id, Style::wanted(&accept(failed.head)), None);
    let (parts, mut body) = answer.into_parts();
    let mut context = Context::from_waker(Waker::noop());
    let text = match Pin::new(&mut body).poll_frame(&mut context) {
        Poll::Ready(Some(Ok(frame))) => frame.into_data().unwrap_or_default(),
        _ => Default::default(),
    };
    let reason = status.canonical_reason().unwrap_or("Error");
    let mut field = |name: &str, value: &[u8]| {
        into.extend_from_slice(name.as_bytes());
        into.extend_from_slice(value);
        into.extend_from_slice(b"\r\n");
    };
    field("HTTP/1.1 ", format!("{} {reason}", status.as_u16()).as_bytes());
    for (name, value) in &parts.headers {
        field(&format!("{name}: "), value.as_bytes());
    }
    field("content-length: ", text.len().to_string().as_bytes());
    field("x-request-id: ", failed.id);
    if failed.close {
        field("connection: ", b"close");
    }
    into.extend_from_slice(b"\r\n");
    if !failed.is_head {
        into.extend_from_slice(&text);
    }
}

/// The form in which the client wants to read errors.
fn accept(head: &[u8]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    if let Ok(Some(parsed)) = strict::parse(head, &mut Lines::new()) {
        let mut lines = parsed.lines().iter();
        let found = lines.find(|line| line.name(head).eq_ignore_ascii_case(b"accept"));
        let value = found.and_then(|line| HeaderValue::from_bytes(line.value(head)).ok());
        headers.extend(value.map(|value| (ACCEPT, value)));
    }
    headers
}
