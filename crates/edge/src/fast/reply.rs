//! The body of a replica's answer for a client that speaks HTTP/2: its own framing is taken off.

use std::io;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use hyper::body::{Frame, SizeHint};

use super::buffers::{Buffer, held};
use super::response::Body;
use super::upstreams::Upstream;
use crate::headers::ends_in_answer;
use crate::lines::{Next, next};
use crate::strict::Part;
use crate::worker::Worker;

/// What is still to come. The connection to the replica is given back with the last byte; dropped before that,
/// it is closed.
pub struct Reply {
    worker: Rc<Worker>,
    upstream: Option<Upstream>,
    buffer: Option<Buffer>,
    body: Body,
    /// The connection may serve another request.
    keep: bool,
    /// The lines of the trailers, as far as they came.
    lines: Vec<u8>,
}

impl Reply {
    /// `buffer` holds what came behind the head.
    pub fn new(
        worker: &Rc<Worker>,
        upstream: Upstream,
        buffer: Option<Buffer>,
        body: Body,
        keep: bool,
    ) -> Self {
        let worker = worker.clone();
        let mut reply =
            Self { worker, upstream: Some(upstream), buffer, body, keep, lines: Vec::new() };
        if matches!(reply.body, Body::Done) {
            reply.finish();
        }
        reply
    }

    /// All of it, if it is here already.
    pub fn whole(&mut self) -> Option<Bytes> {
        match &self.body {
            Body::Done => Some(Bytes::new()),
            Body::Length(left) if *left <= held(&self.buffer).len() as u64 => self.take().ok(),
            _ => None,
        }
    }

    pub fn is_end(&self) -> bool {
        matches!(self.body, Body::Done) && self.lines.is_empty()
    }

    pub fn size_hint(&self) -> SizeHint {
        match &self.body {
            Body::Done => SizeHint::with_exact(0),
            Body::Length(left) => SizeHint::with_exact(*left),
            Body::Chunked(_) | Body::UntilClose => SizeHint::default(),
        }
    }

    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        loop {
            if matches!(self.body, Body::Done) {
                return Poll::Ready(self.trailers().transpose());
            }
            if !held(&self.buffer).is_empty() {
                let data = self.take()?;
                if !data.is_empty() {
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                continue;
            }
            let Some(upstream) = &mut self.upstream else { return Poll::Ready(Some(Err(early()))) };
            let buffers = &self.worker.fast.buffers;
            match ready!(buffers.poll_fill(&mut upstream.stream, &mut self.buffer, cx)) {
                Ok(1..) => {}
                Ok(0) if matches!(self.body, Body::UntilClose) => self.body = Body::Done,
                Ok(0) => return Poll::Ready(Some(Err(early()))),
                Err(error) => return Poll::Ready(Some(Err(error))),
            }
        }
    }

    /// What the buffer holds of the body; nothing if it holds framing only.
    fn take(&mut self) -> io::Result<Bytes> {
        let bytes = held(&self.buffer);
        let (taken, data, over) = match &mut self.body {
            Body::Done => (0, Bytes::new(), true),
            Body::Length(left) => {
                let taken = (*left).min(bytes.len() as u64) as usize;
                *left -= taken as u64;
                (taken, Bytes::copy_from_slice(&bytes[..taken]), *left == 0)
            }
            Body::Chunked(chunks) => {
                let (mut data, lines) = (Vec::with_capacity(bytes.len()), &mut self.lines);
                let sink = |part, bytes: &[u8]| match part {
                    Part::Data => data.extend_from_slice(bytes),
                    Part::Trailers => lines.extend_from_slice(bytes),
                };
                let (taken, over) = chunks.take(bytes, sink).map_err(|_| odd())?;
                (taken, data.into(), over)
            }
            Body::UntilClose => (bytes.len(), Bytes::copy_from_slice(bytes), false),
        };
        self.worker.fast.buffers.consume(&mut self.buffer, taken);
        if over {
            self.body = Body::Done;
            self.finish();
        }
        Ok(data)
    }

    /// The trailers, once, if there are any.
    fn trailers(&mut self) -> io::Result<Option<Frame<Bytes>>> {
        let lines = std::mem::take(&mut self.lines);
        let mut trailers = HeaderMap::new();
        let mut at = 0;
        while let Next::Field(line) = next(&lines, at).map_err(|_| odd())? {
            at = line.place().end;
            let name = HeaderName::from_bytes(line.name(&lines)).map_err(|_| odd())?;
            let value = HeaderValue::from_bytes(line.value(&lines)).map_err(|_| odd())?;
            if !ends_in_answer(name.as_str().as_bytes()) {
                trailers.append(name, value);
            }
        }
        Ok((!trailers.is_empty()).then(|| Frame::trailers(trailers)))
    }

    /// All was read: the connection serves the next request, if nothing is left on it.
    fn finish(&mut self) {
        let fast = &self.worker.fast;
        if let Some(upstream) = self.upstream.take()
            && self.keep
            && held(&self.buffer).is_empty()
        {
            fast.upstreams.give_back(upstream, fast.timers.now());
        }
        // An empty line alone says that there are no trailers.
        if self.lines == b"\r\n" {
            self.lines.clear();
        }
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        self.worker.fast.buffers.drop(&mut self.buffer);
    }
}

fn early() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "the replica did not send all of its answer")
}

fn odd() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "the replica's answer is oddly framed")
}
