//! The task of one stream: has its request answered, and passes the answer on as its client takes it.

use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use domain::route::Reason;
use http::header::{CONTENT_LENGTH, DATE};
use http::{HeaderValue, Response, StatusCode};
use hyper::body::Body as _;
use tokio::time::timeout;

use super::body::Body;
use super::head::Asked;
use super::hpack::Encoder;
use super::link::Link;
use super::passing::{End, Failed, Passing};
use super::request::request;
use super::taker::{Stalled, Taker};
use crate::body::{self, ClientBody};
use crate::error_page::{Style, page};
use crate::facts::Flight;
use crate::fast::response::{self, Answer, Head};
use crate::fast::{self, Admitted, Answered};
use crate::headers::REQUEST_ID;
use crate::lines::Lines;
use crate::proxy;
use crate::strict::{Framing, parse};
use crate::upstream_h2::is_grpc_kind;

/// How long a client has for its own end of a stream after it was sent ours. One that finds the reset of its upload
/// (RFC 9113, 8.1) beside the answer may take it for a failure and lose the answer: curl does.
const LINGER: Duration = Duration::from_secs(1);

/// Answers one request. However this ends, the stream is closed.
pub async fn answer(link: Rc<Link>, id: u32, asked: Asked) {
    let stream = Open { link, id };
    if let Some((admitted, flight)) = stream.admit(&asked) {
        stream.carry(&asked, admitted, flight).await;
    } else {
        let is_head = asked.text.starts_with(b"HEAD ");
        if asked.waits {
            stream.link.interim(id, 100);
        }
        // Large: most requests need no room for it.
        let response = Box::pin(stream.handle(&asked)).await;
        Box::pin(stream.send(response, is_head)).await;
        stream.linger().await;
    }
    stream.link.service.worker.fast.buffers.give_head(asked.text);
}

/// A stream. Dropping it closes it.
struct Open {
    link: Rc<Link>,
    id: u32,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.link.close(self.id);
    }
}

impl Open {
    /// Takes a plain request on.
    fn admit(&self, asked: &Asked) -> Option<(Admitted, Flight)> {
        let proxy::Connection { worker, arrival, .. } = &*self.link.service;
        if !worker.shared.limits.fast || !asked.ended || asked.refused.is_some() {
            return None;
        }
        let mut lines = Lines::new();
        let head = parse(&asked.text, &mut lines).ok()??;
        // What promises a body has none to come: never for a connection that others will use.
        if head.framing != Framing::Length(0) {
            return None;
        }
        // A call without a message: its server speaks no HTTP/1.
        let text = &asked.text[..];
        let kinds = head.lines().iter().filter(|line| line.name(text) == b"content-type");
        if kinds.map(|line| line.value(text)).any(is_grpc_kind) {
            return None;
        }
        fast::admit(worker, arrival, &head, &asked.text, "HTTP/2")
    }

    /// Has a replica answer.
    async fn carry(&self, asked: &Asked, admitted: Admitted, mut flight: Flight) {
        let worker = &self.link.service.worker;
        let id = &admitted.head[admitted.id.clone()];
        let pass = |head: &Head, bytes: &[u8], answer: &Answer| {
            let ends = matches!(answer.body, response::Body::Done);
            self.link.fields(self.id, ends, |encoder, out| {
                encoder.status(answer.status, out);
                head.each(bytes, |name, value| lower(encoder, name, value, out));
                if !head.has_date() {
                    worker.fast.dates.with(|date| encoder.field(b"date", date, out));
                }
                encoder.field(b"x-request-id", id, out);
            });
        };
        match fast::carry(worker, &admitted, &mut flight, &pass).await {
            Ok(answered) => self.pass(answered, flight).await,
            Err(reason) => {
                flight.failed(reason);
                let response = error(asked, reason, id, flight);
                Box::pin(self.send(response, admitted.is_head)).await;
            }
        }
        worker.fast.buffers.give_head(admitted.head);
    }

    /// Passes on what follows the head of a replica's answer.
    async fn pass(&self, answered: Answered, mut flight: Flight) {
        let Answered { status, events, reply } = answered;
        match reply.is_here() {
            true => flight.answered_whole(status),
            false => flight.answered(status),
        }
        if reply.is_over() {
            return;
        }
        let cut = events.then(|| self.link.service.worker.ended(flight.service()));
        if cut.is_some() {
            flight.streaming();
        }
        match Passing::new(&self.link, self.id, reply, cut).run(&mut flight).await {
            Ok(End::Whole) => flight.count(),
            Ok(End::Drained) => {
                flight.because(Reason::Drained);
                self.link.end(self.id, None);
            }
            Err(Failed::Replica) => flight.broken(Reason::BrokenOff),
            Err(Failed::Client) => self.link.give_up(self.id),
        }
    }

    /// Has anything else answered.
    async fn handle(&self, asked: &Asked) -> Response<body::Answer> {
        let body = Body::new(self.link.clone(), self.id, asked.length, asked.ended);
        let request = request(asked, ClientBody::Http2(body));
        match proxy::handle(self.link.service.clone(), request).await {
            Ok(response) => response,
            Err(never) => match never {},
        }
    }

    /// Passes an answer on.
    async fn send(&self, response: Response<body::Answer>, is_head: bool) {
        let (parts, mut body) = response.into_parts();
        let whole = body.is_end_stream();
        let missing = !whole && !parts.headers.contains_key(CONTENT_LENGTH);
        let length = body.size_hint().exact().filter(|length| missing && *length > 0);
        self.link.fields(self.id, is_head || whole, |encoder, out| {
            encoder.status(parts.status.as_u16(), out);
            encoder.fields(&parts.headers, out);
            if let Some(length) = length {
                encoder.field(b"content-length", length.to_string().as_bytes(), out);
            }
            if !parts.headers.contains_key(DATE) {
                let dates = &self.link.service.worker.fast.dates;
                dates.with(|date| encoder.field(b"date", date, out));
            }
        });
        if is_head || whole {
            return;
        }
        let mut taker = Taker::new(&self.link, self.id);
        while let Some(frame) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
            // Its owner knows why it broke off; the client is told when the stream is closed.
            let Ok(frame) = frame else { return };
            let data = match frame.into_data() {
                Ok(data) => data,
                Err(frame) => {
                    let trailers = frame.into_trailers().unwrap_or_default();
                    return self.link.end(self.id, Some(&trailers));
                }
            };
            let last = body.is_end_stream();
            match self.put(data, last, &mut taker).await {
                Err(Stalled) => return self.link.give_up(self.id),
                Ok(()) if last => return,
                Ok(()) => {}
            }
        }
        self.link.end(self.id, None);
    }

    /// Waits a little for the end of a request that was answered before.
    async fn linger(&self) {
        self.link.leave_unread(self.id);
        // Its own time is the bound; how it ends does not matter.
        let _ = timeout(LINGER, poll_fn(|cx| self.link.poll_ended(self.id, cx))).await;
    }

    /// Passes a piece of a body on.
    async fn put(&self, mut data: Bytes, last: bool, taker: &mut Taker<'_>) -> Result<(), Stalled> {
        loop {
            self.link.data(self.id, |most, out| {
                let taken = data.split_to(data.len().min(most));
                out.extend_from_slice(&taken);
                last && data.is_empty()
            });
            if data.is_empty() {
                return Ok(());
            }
            poll_fn(|cx| taker.poll_room(cx)).await?;
        }
    }
}

/// The page that says why no replica answered the request with this `id`.
fn error(asked: &Asked, reason: Reason, id: &[u8], flight: Flight) -> Response<body::Answer> {
    let mut lines = Lines::new();
    let head = parse(&asked.text, &mut lines).ok().flatten();
    let accept = head.and_then(|head| {
        let mut fields = head.lines().iter();
        let accept = fields.find(|line| line.name(&asked.text) == b"accept")?;
        HeaderValue::from_bytes(accept.value(&asked.text)).ok()
    });
    let status = StatusCode::from_u16(reason.status()).unwrap_or(StatusCode::BAD_GATEWAY);
    let id = HeaderValue::from_bytes(id).unwrap_or(HeaderValue::from_static(""));
    let mut response = page(status, &id, Style::of(accept.as_ref()), Some(flight));
    response.headers_mut().insert(REQUEST_ID, id);
    response
}

/// Writes a field whose name may be in any spelling.
fn lower(encoder: &mut Encoder, name: &[u8], value: &[u8], into: &mut Vec<u8>) {
    if !name.iter().any(u8::is_ascii_uppercase) {
        return encoder.field(name, value, into);
    }
    let mut room = [0; 64];
    match room.get_mut(..name.len()) {
        Some(room) => {
            room.copy_from_slice(name);
            room.make_ascii_lowercase();
            encoder.field(room, value, into);
        }
        None => encoder.field(&name.to_ascii_lowercase(), value, into),
    }
}
