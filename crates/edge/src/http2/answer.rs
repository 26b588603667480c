//! The task of one stream: has its request answered, and passes the answer on as its client takes it.

use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use domain::route::Reason;
use http::header::{CONTENT_LENGTH, DATE};
use http::uri::PathAndQuery;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri, Version,
};
use hyper::body::{Body as _, Frame};

use super::body::Body;
use super::head::Asked;
use super::hpack::Encoder;
use super::link::Link;
use super::taker::{Stalled, Taker};
use crate::body::{self, ClientBody};
use crate::closing::Ended;
use crate::error_page::{Style, page};
use crate::facts::Flight;
use crate::fast::response::{self, Answer, Head};
use crate::fast::{self, Admitted, Alarm, Answered, Broken, Reply, Taken};
use crate::headers::REQUEST_ID;
use crate::lines::Lines;
use crate::proxy;
use crate::strict::{REFUSED, Refusal, parse};

/// Answers one request. However this ends, the stream is closed.
pub async fn answer(link: Rc<Link>, id: u32, asked: Asked) {
    let stream = Open { link, id };
    if let Some((admitted, flight)) = stream.admit(&asked) {
        stream.carry(&asked, admitted, flight).await;
    } else {
        let is_head = asked.text.starts_with(b"HEAD ");
        // Large: most requests need no room for it.
        let response = Box::pin(stream.handle(&asked)).await;
        Box::pin(stream.send(response, is_head)).await;
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
        let taker = Taker::new(&self.link, self.id);
        let mut passing = Passing { stream: self, reply, taker, cut, alarm: None };
        match passing.run(&mut flight).await {
            Ok(End::Whole) => flight.count(),
            Ok(End::Drained) => {
                flight.because(Reason::Drained);
                self.link.data(self.id, |_, _| true);
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
            write(encoder, &parts.headers, out);
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
        loop {
            match poll_fn(|cx| Pin::new(&mut body).poll_frame(cx))
                .await
                .map(|read| read.map(Frame::into_data))
            {
                // Its owner knows why; the client is told when the stream is closed.
                Some(Err(_)) => return,
                Some(Ok(Ok(data))) => {
                    let last = body.is_end_stream();
                    match self.put(data, last, &mut taker).await {
                        Err(Stalled) => return self.link.give_up(self.id),
                        Ok(()) if last => return,
                        Ok(()) => {}
                    }
                }
                Some(Ok(Err(frame))) => {
                    let trailers = frame.into_trailers().unwrap_or_default();
                    return self.end(Some(trailers));
                }
                None => return self.end(None),
            }
        }
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

    /// Ends an answer, with what follows its body.
    fn end(&self, trailers: Option<HeaderMap>) {
        match trailers {
            Some(trailers) => {
                self.link.fields(self.id, true, |encoder, out| write(encoder, &trailers, out));
            }
            None => {
                self.link.data(self.id, |_, _| true);
            }
        }
    }
}

/// The body of a replica's answer on its way.
struct Passing<'a> {
    stream: &'a Open,
    reply: Reply,
    taker: Taker<'a>,
    /// Resolves when an event stream should end.
    cut: Option<Ended>,
    /// Set while the replica is waited for. A stream may be quiet for as long as it likes.
    alarm: Option<Alarm>,
}

enum End {
    Whole,
    Drained,
}

enum Failed {
    Replica,
    Client,
}

impl From<Broken> for Failed {
    fn from(_: Broken) -> Self {
        Self::Replica
    }
}

impl Passing<'_> {
    async fn run(&mut self, flight: &mut Flight) -> Result<End, Failed> {
        loop {
            let mut taken = Ok(Taken::Here);
            let Open { link, id } = self.stream;
            let sent = link.data(*id, |most, out| {
                taken = self.reply.take(most, out);
                matches!(taken, Ok(Taken::All)) && !self.reply.has_trailers()
            });
            flight.sent(sent as u64);
            let goes_on = match taken? {
                Taken::All => {
                    if self.reply.has_trailers() {
                        let trailers = self.reply.trailers()?;
                        self.stream.end(trailers);
                    }
                    return Ok(End::Whole);
                }
                Taken::Here => poll_fn(|cx| self.poll_replica(cx)).await?,
                Taken::Enough => poll_fn(|cx| self.poll_client(cx)).await?,
            };
            if !goes_on {
                return Ok(End::Drained);
            }
        }
    }

    /// Resolves when there is more of the answer; false if the stream should end.
    fn poll_replica(&mut self, cx: &mut Context<'_>) -> Poll<Result<bool, Failed>> {
        if self.is_cut(cx) {
            return Poll::Ready(Ok(false));
        }
        if let Poll::Ready(more) = self.reply.poll_more(cx) {
            self.alarm = None;
            return Poll::Ready(more.map(|()| true).map_err(Failed::from));
        }
        if self.cut.is_some() {
            return Poll::Pending;
        }
        let worker = &self.stream.link.service.worker;
        let alarm = self.alarm.get_or_insert_with(|| {
            let alarm = worker.fast.timers.alarm(cx);
            alarm.set(worker.shared.limits.idle);
            alarm
        });
        if alarm.went_off() { Poll::Ready(Err(Failed::Replica)) } else { Poll::Pending }
    }

    /// Resolves when the client takes more of it; false if the stream should end.
    fn poll_client(&mut self, cx: &mut Context<'_>) -> Poll<Result<bool, Failed>> {
        if self.is_cut(cx) {
            return Poll::Ready(Ok(false));
        }
        let room = ready!(self.taker.poll_room(cx));
        Poll::Ready(room.map(|()| true).map_err(|Stalled| Failed::Client))
    }

    fn is_cut(&mut self, cx: &mut Context<'_>) -> bool {
        self.cut.as_mut().is_some_and(|cut| Pin::new(cut).poll(cx).is_ready())
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

/// The request in the form that is common to both protocols, or what stands for a refused one.
fn request(asked: &Asked, body: ClientBody) -> Request<ClientBody> {
    let mut request = Request::new(body);
    *request.version_mut() = Version::HTTP_2;
    if let Err(refusal) = fill(asked, &mut request) {
        request.headers_mut().clear();
        *request.method_mut() = Method::from_bytes(REFUSED.as_bytes()).unwrap_or(Method::TRACE);
        *request.uri_mut() = format!("/{}", refusal.status()).parse().unwrap_or_default();
    }
    request
}

fn fill(asked: &Asked, request: &mut Request<ClientBody>) -> Result<(), Refusal> {
    if let Some(refusal) = asked.refused {
        return Err(refusal);
    }
    let odd = Refusal::Malformed;
    let text = &asked.text[..];
    let mut lines = Lines::new();
    let head = parse(text, &mut lines)?.ok_or(odd)?;
    *request.method_mut() = Method::from_bytes(head.method.of(text)).map_err(|_| odd)?;
    let target = PathAndQuery::try_from(head.target.of(text)).map_err(|_| odd)?;
    *request.uri_mut() = Uri::from(target);
    for line in head.lines() {
        let (name, value) = (line.name(text), line.value(text));
        // It was only said for us.
        if name == b"transfer-encoding" {
            continue;
        }
        let name = HeaderName::from_bytes(name).map_err(|_| odd)?;
        request.headers_mut().append(name, HeaderValue::from_bytes(value).map_err(|_| odd)?);
    }
    Ok(())
}

fn write(encoder: &mut Encoder, fields: &HeaderMap, into: &mut Vec<u8>) {
    for (name, value) in fields {
        encoder.field(name.as_str().as_bytes(), value.as_bytes(), into);
    }
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
