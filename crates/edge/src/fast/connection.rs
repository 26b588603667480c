//! One client connection on the fast path: reads a head, has it answered, and again.

use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};

use super::admit::{Admitted, admit};
use super::buffers::{Buffer, held};
use super::exchange::{Exchange, Request};
use super::timers::Alarm;
use super::upload::Upload;
use super::{Fast, Outcome};
use crate::accept::Arrival;
use crate::lines::Lines;
use crate::strict::{Head, MAX_HEAD, head_length, parse};
use crate::worker::Worker;

pub struct Connection<'a, S> {
    pub worker: &'a Rc<Worker>,
    arrival: &'a Arrival,
    pub stream: S,
    /// What the client sent and nobody has used yet.
    pub input: Option<Buffer>,
    pub alarm: Alarm,
    /// How much of an incomplete head was looked at.
    seen: usize,
}

/// What becomes of the connection after an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum After {
    Keep,
    Close,
    /// The client may still be sending: closing at once would reset the connection, and it might lose the answer.
    Linger,
}

#[allow(clippy::large_enum_variant, reason = "a box would be an allocation for each request")]
enum Heard {
    Request(Request),
    Unusual,
    /// A head did not come to its end in time.
    Late,
    Closed,
}

const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES: usize = 256 * 1024;

impl<'a, S: AsyncRead + AsyncWrite + Unpin> Connection<'a, S> {
    pub async fn open(worker: &'a Rc<Worker>, arrival: &'a Arrival, stream: S) -> Self {
        let alarm = poll_fn(|cx| Poll::Ready(worker.fast.timers.alarm(cx))).await;
        Self { worker, arrival, stream, input: None, alarm, seen: 0 }
    }

    pub fn fast(&self) -> &'a Fast {
        &self.worker.fast
    }

    pub async fn serve(mut self) -> Outcome<S> {
        let after = loop {
            self.alarm.set(self.worker.shared.limits.idle);
            // Nothing large is awaited in the arms, so that an idle connection keeps no room for it.
            let mut exchange = match poll_fn(|cx| self.poll_request(cx)).await {
                Heard::Request(request) => Exchange::new(&mut self, request),
                Heard::Late => Exchange::late(&mut self),
                Heard::Closed => break After::Close,
                Heard::Unusual => {
                    let unread = held(&self.input).to_vec();
                    return Outcome::Unusual { stream: self.stream, unread };
                }
            };
            let after = exchange.run().await;
            if after != After::Keep {
                break after;
            }
        };
        // Over TCP the end of the stream is sent when it is dropped; TLS has to say more.
        if after == After::Linger || self.arrival.presented.is_some() {
            self.shutdown(after == After::Linger).await;
        }
        Outcome::Closed
    }

    fn poll_request(&mut self, cx: &mut Context<'_>) -> Poll<Heard> {
        loop {
            self.skip_empty_lines();
            if !held(&self.input).is_empty() {
                if let Some(heard) = self.look() {
                    return Poll::Ready(heard);
                }
            } else if self.fast().timers.stopping() {
                return Poll::Ready(Heard::Closed);
            }
            match self.fast().buffers.poll_fill(&mut self.stream, &mut self.input, cx) {
                Poll::Ready(Ok(1..)) => {}
                Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(Heard::Closed),
                Poll::Pending => break,
            }
        }
        if !self.alarm.went_off() {
            self.worker.fast.buffers.shrink(&mut self.input);
            return Poll::Pending;
        }
        Poll::Ready(if held(&self.input).is_empty() { Heard::Closed } else { Heard::Late })
    }

    /// Before a request line some clients send an empty one (RFC 9112, 2.2).
    fn skip_empty_lines(&mut self) {
        while held(&self.input).starts_with(b"\r\n") {
            self.worker.fast.buffers.consume(&mut self.input, 2);
        }
    }

    /// Looks at a head, which may be incomplete.
    fn look(&mut self) -> Option<Heard> {
        let bytes = held(&self.input);
        let too_large = || (bytes.len() >= MAX_HEAD).then_some(Heard::Unusual);
        // One that comes byte by byte is not read over and over.
        if self.seen > 0 && head_length(bytes, self.seen).is_none() {
            self.seen = bytes.len();
            return too_large();
        }
        match parse(bytes, &mut Lines::new()) {
            Ok(Some(head)) => {
                self.seen = 0;
                Some(self.admit(&head).map_or(Heard::Unusual, Heard::Request))
            }
            Ok(None) => {
                if self.seen == 0 {
                    self.alarm.set(self.worker.shared.limits.head);
                }
                self.seen = bytes.len();
                too_large()
            }
            Err(_) => Some(Heard::Unusual),
        }
    }

    /// Takes a plain request on; `None` if it is for hyper.
    fn admit(&mut self, head: &Head) -> Option<Request> {
        let (admitted, flight) =
            admit(self.worker, self.arrival, head, held(&self.input), "HTTP/1.1")?;
        let Admitted { head: out, id, is_head, repeatable, close } = admitted;
        let idle = self.worker.shared.limits.idle;
        let upload = Upload::new(head.framing, flight.route().max_body, idle);
        self.fast().buffers.consume(&mut self.input, head.length);
        Some(Request { head: out, id, is_head, repeatable, close, upload, flight: Some(flight) })
    }

    /// Whether the client left, as far as can be seen. Reads ahead, but never more than one buffer.
    pub fn poll_left(&mut self, cx: &mut Context<'_>) -> bool {
        if !held(&self.input).is_empty() {
            return false;
        }
        let polled = self.worker.fast.buffers.poll_fill(&mut self.stream, &mut self.input, cx);
        matches!(polled, Poll::Ready(Ok(0) | Err(_)))
    }

    /// Ends the connection; the client has some time to end it too if it should `linger`.
    async fn shutdown(&mut self, linger: bool) {
        self.alarm.set(LINGER);
        let buffers = &self.worker.fast.buffers;
        buffers.drop(&mut self.input);
        let mut left = LINGER_BYTES;
        let mut closed = false;
        let mut poll_end = |cx: &mut Context<'_>| {
            if !closed {
                // It ends one way or the other.
                let _ = ready!(Pin::new(&mut self.stream).poll_shutdown(cx));
                closed = true;
            }
            while linger && left > 0 {
                match ready!(buffers.poll_fill(&mut self.stream, &mut self.input, cx)) {
                    Ok(n @ 1..) => {
                        buffers.consume(&mut self.input, n);
                        left = left.saturating_sub(n);
                    }
                    Ok(0) | Err(_) => break,
                }
            }
            Poll::Ready(())
        };
        let alarm = &self.alarm;
        poll_fn(|cx| if alarm.went_off() { Poll::Ready(()) } else { poll_end(cx) }).await;
    }
}
