//! The body of a replica's answer without the framing of HTTP/1, for a client that speaks HTTP/2.

use std::rc::Rc;
use std::task::{Context, Poll, ready};

use http::{HeaderMap, HeaderName, HeaderValue};

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

/// The replica did not send all of its answer, or framed it oddly.
#[derive(Debug)]
pub struct Broken;

/// How far [`Reply::take`] came.
#[derive(Debug, PartialEq, Eq)]
pub enum Taken {
    /// All of the body.
    All,
    /// All that is here; more will come.
    Here,
    /// As much as was wanted.
    Enough,
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
        if reply.is_over() {
            reply.finish();
        }
        reply
    }

    /// Whether all of the body was taken.
    pub fn is_over(&self) -> bool {
        matches!(self.body, Body::Done)
    }

    /// Whether all of it is here already.
    pub fn is_here(&self) -> bool {
        match &self.body {
            Body::Done => true,
            Body::Length(left) => *left <= held(&self.buffer).len() as u64,
            Body::Chunked(_) | Body::UntilClose => false,
        }
    }

    /// Resolves when there is something to [`Reply::take`]; only to be asked when there is nothing.
    pub fn poll_more(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        let Some(upstream) = &mut self.upstream else { return Poll::Ready(Err(Broken)) };
        let buffers = &self.worker.fast.buffers;
        match ready!(buffers.poll_fill(&mut upstream.stream, &mut self.buffer, cx)) {
            Ok(1..) => {}
            Ok(0) if matches!(self.body, Body::UntilClose) => self.body = Body::Done,
            Ok(0) | Err(_) => return Poll::Ready(Err(Broken)),
        }
        Poll::Ready(Ok(()))
    }

    /// Appends what is here of the body, at most `most` bytes.
    pub fn take(&mut self, most: usize, into: &mut Vec<u8>) -> Result<Taken, Broken> {
        let bytes = held(&self.buffer);
        let (taken, over) = match &mut self.body {
            Body::Done => return Ok(Taken::All),
            Body::Length(left) => {
                let taken = (*left).min(bytes.len().min(most) as u64) as usize;
                *left -= taken as u64;
                into.extend_from_slice(&bytes[..taken]);
                (taken, *left == 0)
            }
            Body::Chunked(chunks) => {
                let lines = &mut self.lines;
                let sink = |part, bytes: &[u8]| match part {
                    Part::Data => into.extend_from_slice(bytes),
                    Part::Trailers => lines.extend_from_slice(bytes),
                };
                chunks.take(bytes, most, sink).map_err(|_| Broken)?
            }
            Body::UntilClose => {
                let taken = bytes.len().min(most);
                into.extend_from_slice(&bytes[..taken]);
                (taken, false)
            }
        };
        self.worker.fast.buffers.consume(&mut self.buffer, taken);
        if over {
            self.body = Body::Done;
            self.finish();
            return Ok(Taken::All);
        }
        Ok(if held(&self.buffer).is_empty() { Taken::Here } else { Taken::Enough })
    }

    /// What follows the body, once, if anything does.
    pub fn trailers(&mut self) -> Result<Option<HeaderMap>, Broken> {
        let lines = std::mem::take(&mut self.lines);
        let mut trailers = HeaderMap::new();
        let mut at = 0;
        while let Next::Field(line) = next(&lines, at).map_err(|_| Broken)? {
            at = line.place().end;
            let name = HeaderName::from_bytes(line.name(&lines)).map_err(|_| Broken)?;
            let value = HeaderValue::from_bytes(line.value(&lines)).map_err(|_| Broken)?;
            if !ends_in_answer(name.as_str().as_bytes()) {
                trailers.append(name, value);
            }
        }
        Ok((!trailers.is_empty()).then_some(trailers))
    }

    /// Whether something follows the body.
    pub fn has_trailers(&self) -> bool {
        !self.lines.is_empty()
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
