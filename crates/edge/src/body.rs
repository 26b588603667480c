//! Bodies on their way: to a replica, and back to the client, frame by frame and never collected.

use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::HeaderMap;
use http_body_util::Full;
use hyper::body::{Body, Frame, Incoming, SizeHint};

use domain::route::Reason;

use crate::closing::Ended;
use crate::facts::Flight;
use crate::files::{FileBody, Gzipped};
use crate::guard::Busy;
use crate::http2;
use crate::limits::Limited;
use crate::patience::Patience;
use crate::pool::Lease;
use crate::replica::Load;
use crate::upstream_h2;
use crate::worker::Worker;

pub type BodyError = Box<dyn std::error::Error + Send + Sync>;

/// The body of a request, as it comes from a client.
pub enum ClientBody {
    Http1(Incoming),
    Http2(http2::Body),
}

impl Body for ClientBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.get_mut() {
            Self::Http1(body) => Pin::new(body).poll_frame(cx).map_err(Into::into),
            Self::Http2(body) => Pin::new(body).poll_frame(cx).map_err(Into::into),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Http1(body) => body.is_end_stream(),
            Self::Http2(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Http1(body) => body.size_hint(),
            Self::Http2(body) => body.size_hint(),
        }
    }
}

/// The body of a request to a replica.
pub enum Outgoing {
    Empty,
    Client(Box<Limited>),
}

impl Body for Outgoing {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.get_mut() {
            Self::Empty => Poll::Ready(None),
            Self::Client(body) => Pin::new(body.as_mut()).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Client(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Client(body) => body.size_hint(),
        }
    }
}

/// The body of an answer to a client, and what ends with it.
pub struct Answer {
    content: Content,
    flight: Option<Flight>,
    busy: Option<Busy>,
    /// Ends a stream early, when its slot lost the traffic and the time is over.
    cut: Option<Ended>,
    /// With the replica; a stream may be quiet for as long as it likes. What the client does not take is not asked for,
    /// and not waited for here.
    patience: Option<Patience>,
}

/// What an answer of a replica keeps until its end.
pub enum Held {
    Connection(Lease),
    /// A stream of a shared connection, as a weight on the replica.
    Stream {
        _load: Load,
    },
}

enum Content {
    Bytes(Full<Bytes>),
    Upstream(Incoming, Option<Held>),
    /// The trailers of a call that was ended early.
    Trailers(Option<HeaderMap>),
    File(FileBody),
    Gzipped(Box<Gzipped>),
}

impl Answer {
    fn new(content: Content, flight: Option<Flight>) -> Self {
        Self::patient(content, flight, None)
    }

    fn patient(content: Content, flight: Option<Flight>, patience: Option<Patience>) -> Self {
        let mut answer = Self { content, flight, busy: None, cut: None, patience };
        if answer.is_end_stream() {
            answer.finish();
        }
        answer
    }

    /// Counted at once: to a HEAD the bytes are never sent.
    pub fn bytes(bytes: impl Into<Bytes>, mut flight: Option<Flight>) -> Self {
        if let Some(flight) = &mut flight {
            flight.count();
        }
        Self::new(Content::Bytes(Full::new(bytes.into())), flight)
    }

    pub fn upstream(worker: &Rc<Worker>, body: Incoming, held: Held, flight: Flight) -> Self {
        let patience = Patience::new(worker);
        Self::patient(Content::Upstream(body, Some(held)), Some(flight), Some(patience))
    }

    pub fn file(body: FileBody, flight: Flight) -> Self {
        Self::new(Content::File(body), Some(flight))
    }

    /// A file that is compressed on its way: how long it will be is not known.
    pub fn gzipped(body: Gzipped, flight: Flight) -> Self {
        Self::new(Content::Gzipped(Box::new(body)), Some(flight))
    }

    /// Keeps the connection marked as busy until the answer is over.
    pub fn keeping(mut self, busy: Busy) -> Self {
        self.busy = Some(busy);
        self
    }

    /// An endless stream: counted now, and ended when `cut` resolves.
    pub fn stream(mut self, cut: Ended) -> Self {
        if let Some(flight) = &mut self.flight {
            flight.streaming();
            self.cut = Some(cut);
        }
        self
    }

    /// A call that may last: ended when `cut` resolves, in a way that its client understands.
    pub fn call(mut self, cut: Ended) -> Self {
        if self.flight.is_some() {
            self.cut = Some(cut);
        }
        self
    }

    /// Everything was read: count it, and let the connection serve the next request.
    fn finish(&mut self) {
        self.cut = None;
        if let Some(mut flight) = self.flight.take() {
            flight.count();
        }
        if let Content::Upstream(_, held) = &mut self.content
            && let Some(Held::Connection(lease)) = held.take()
        {
            lease.give_back();
        }
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        if let Some(cut) = &mut this.cut
            && Pin::new(cut).poll(cx).is_ready()
        {
            // The connection to the replica is in the middle of an answer: closed, not given back.
            if let Some(mut flight) = this.flight.take() {
                flight.because(Reason::Drained);
            }
            this.cut = None;
            this.content = match &this.content {
                Content::Upstream(_, Some(Held::Stream { .. })) => {
                    Content::Trailers(Some(upstream_h2::unavailable()))
                }
                _ => Content::Bytes(Full::default()),
            };
        }
        let mut polled = match &mut this.content {
            Content::Bytes(full) => Pin::new(full).poll_frame(cx).map_err(|never| match never {}),
            Content::Upstream(body, _) => Pin::new(body).poll_frame(cx).map_err(Into::into),
            Content::Trailers(trailers) => {
                Poll::Ready(trailers.take().map(|trailers| Ok(Frame::trailers(trailers))))
            }
            Content::File(file) => file
                .poll_next(cx)
                .map(|read| read.map(|read| read.map(Frame::data).map_err(Into::into))),
            Content::Gzipped(file) => file
                .poll_next(cx)
                .map(|read| read.map(|read| read.map(Frame::data).map_err(Into::into))),
        };
        if let Some(patience) = &mut this.patience {
            match &polled {
                Poll::Ready(_) => patience.restore(),
                Poll::Pending if this.cut.is_none() && patience.is_over(cx) => {
                    polled =
                        Poll::Ready(Some(Err(io::Error::from(io::ErrorKind::TimedOut).into())));
                }
                Poll::Pending => {}
            }
        }
        match &polled {
            Poll::Pending => {}
            Poll::Ready(Some(Err(_))) => {
                if let Some(flight) = &mut this.flight {
                    flight.broken(Reason::BrokenOff);
                }
            }
            Poll::Ready(Some(Ok(frame))) => {
                if let (Some(flight), Some(data)) = (&mut this.flight, frame.data_ref()) {
                    flight.sent(data.len() as u64);
                }
                // Nothing follows trailers, whether or not the body knows.
                if frame.is_trailers() || this.is_end_stream() {
                    this.finish();
                }
            }
            // Before the last bytes go out, so that no client can ask for facts that lack its own answer.
            Poll::Ready(None) => this.finish(),
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        match &self.content {
            Content::Bytes(full) => full.is_end_stream(),
            Content::Upstream(body, _) => body.is_end_stream(),
            Content::Trailers(trailers) => trailers.is_none(),
            Content::File(file) => file.left() == 0,
            // Known when it was asked for one piece too many.
            Content::Gzipped(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.content {
            Content::Bytes(full) => full.size_hint(),
            Content::Upstream(body, _) => body.size_hint(),
            Content::Trailers(_) => SizeHint::default(),
            Content::File(file) => SizeHint::with_exact(file.left()),
            Content::Gzipped(_) => SizeHint::default(),
        }
    }
}
