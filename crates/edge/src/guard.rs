//! Stands between a client's socket and hyper: lets whole, checked request heads through, one at a time,
//! follows each body to its end, and keeps the time.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};

use crate::config::Limits;
use crate::strict::{Chunks, Framing, MAX_HEAD, Refusal, check, head_length};

/// The reading and writing side of one client connection, as hyper gets it: over TCP, or over TLS.
pub struct Guard<S> {
    stream: S,
    state: Arc<State>,
    phase: Phase,
    /// Bytes read and not yet given to hyper: part of a head, or what came behind a message.
    held: Vec<u8>,
    /// How many bytes of `held` are checked and may go.
    passed: usize,
    /// How many bytes of an incomplete head were searched for its end.
    seen: usize,
    head_limit: Duration,
    idle_limit: Duration,
    waiting: Option<Instant>,
    reading: Option<Pin<Box<Sleep>>>,
    writing: Option<Pin<Box<Sleep>>>,
}

/// What the connection's owner and its requests say to its guard, and the other way round.
#[derive(Default)]
pub struct State {
    /// Requests that are being answered: meanwhile the silence of the client is no idleness.
    pub busy: AtomicU32,
    /// A request was answered since the guard last looked.
    pub served: AtomicBool,
    /// A head was refused: the connection ends with the answer to it.
    pub refused: AtomicBool,
}

/// Marks the connection as busy while a request is answered.
pub struct Busy(Arc<State>);

impl Busy {
    pub fn on(state: Arc<State>) -> Self {
        state.busy.fetch_add(1, Ordering::Relaxed);
        Self(state)
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.served.store(true, Ordering::Relaxed);
        self.0.busy.fetch_sub(1, Ordering::Relaxed);
    }
}

enum Phase {
    Head,
    Length(u64),
    Chunked(Chunks),
    Tunnel,
    Refused,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Guard<S> {
    /// A guard of `stream`, from which `held` was read already: the start of a request, or nothing.
    pub fn new(stream: S, held: Vec<u8>, state: Arc<State>, limits: &Limits) -> Self {
        Self {
            stream,
            state,
            phase: Phase::Head,
            held,
            passed: 0,
            seen: 0,
            head_limit: limits.head,
            idle_limit: limits.idle,
            waiting: None,
            reading: None,
            writing: None,
        }
    }

    /// Looks at the head at the start of `bytes`: how many bytes may go to hyper, 0 while it is incomplete.
    /// A refused head yields nothing and leaves its stand-in in `held`.
    fn inspect(&mut self, bytes: &[u8]) -> usize {
        let Some(length) = head_length(bytes, self.seen) else {
            self.seen = bytes.len();
            if bytes.len() >= MAX_HEAD {
                self.refuse(Refusal::HeadTooLarge);
            }
            return 0;
        };
        self.seen = 0;
        if length > MAX_HEAD {
            self.refuse(Refusal::HeadTooLarge);
            return 0;
        }
        match check(&bytes[..length]) {
            Ok(framing) => {
                self.phase = match framing {
                    Framing::Length(0) => Phase::Head,
                    Framing::Length(length) => Phase::Length(length),
                    Framing::Chunked => Phase::Chunked(Chunks::default()),
                    Framing::Tunnel => Phase::Tunnel,
                };
                length
            }
            Err(refusal) => {
                self.refuse(refusal);
                0
            }
        }
    }

    fn refuse(&mut self, refusal: Refusal) {
        self.state.refused.store(true, Ordering::Relaxed);
        self.phase = Phase::Refused;
        self.held = refusal.stand_in();
        self.passed = self.held.len();
    }

    /// How many of `bytes`, which follow a head, belong to its body.
    fn follow(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let (taken, ended) = match &mut self.phase {
            Phase::Length(left) => {
                let taken = (*left).min(bytes.len() as u64);
                *left -= taken;
                (taken as usize, *left == 0)
            }
            Phase::Chunked(chunks) => chunks
                .advance(bytes)
                .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "odd chunked body"))?,
            Phase::Tunnel => (bytes.len(), false),
            Phase::Head | Phase::Refused => (0, false),
        };
        if ended {
            self.phase = Phase::Head;
        }
        Ok(taken)
    }

    /// Checks what `held` begins with, as far as it can go to hyper.
    fn pass_held(&mut self) -> io::Result<()> {
        if self.passed > 0 || self.held.is_empty() {
            return Ok(());
        }
        // Empty lines before a request are ignored, as RFC 9112 asks.
        if matches!(self.phase, Phase::Head) && self.seen == 0 {
            let empty = self.held.chunks(2).take_while(|pair| *pair == b"\r\n").count() * 2;
            self.held.drain(..empty);
        }
        let held = std::mem::take(&mut self.held);
        let passed = match self.phase {
            Phase::Head => self.inspect(&held),
            _ => self.follow(&held)?,
        };
        if !matches!(self.phase, Phase::Refused) {
            (self.held, self.passed) = (held, passed);
        }
        Ok(())
    }

    /// Gives checked bytes from `held`; false if there are none.
    fn give(&mut self, buf: &mut ReadBuf<'_>) -> bool {
        let n = self.passed.min(buf.remaining());
        if n == 0 {
            return false;
        }
        buf.put_slice(&self.held[..n]);
        self.passed -= n;
        if n == self.held.len() {
            // An idle connection holds no memory here.
            self.held = Vec::new();
        } else {
            self.held.drain(..n);
        }
        true
    }

    /// Nothing to read: how long may that be? An error or the end of the stream when it was too long.
    fn wait(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let now = Instant::now();
        let busy = self.state.busy.load(Ordering::Relaxed) > 0;
        let served = self.state.served.swap(false, Ordering::Relaxed);
        let between = matches!(self.phase, Phase::Head) && self.held.is_empty();
        if between && (busy || served) {
            self.waiting = Some(now);
        }
        // While a request is answered, whoever takes its body keeps the time, and has an answer to give.
        if busy && matches!(self.phase, Phase::Length(_) | Phase::Chunked(_)) {
            self.waiting = None;
            return Poll::Pending;
        }
        let since = *self.waiting.get_or_insert(now);
        let partial = matches!(self.phase, Phase::Head) && !self.held.is_empty();
        let limit = if partial { self.head_limit } else { self.idle_limit };
        let due = since + limit;
        let timer = self.reading.get_or_insert_with(|| Box::pin(sleep_until(due)));
        // A later end is only looked at when the earlier one fires: no timer is moved for each request.
        if due < timer.deadline() {
            timer.as_mut().reset(due);
        }
        while timer.as_mut().poll(cx).is_ready() {
            if Instant::now() >= due {
                return Poll::Ready(self.expire(between, partial));
            }
            timer.as_mut().reset(due);
        }
        Poll::Pending
    }

    fn expire(&mut self, between: bool, partial: bool) -> io::Result<()> {
        self.waiting = None;
        self.reading = None;
        if partial {
            self.refuse(Refusal::TooSlow);
        } else if !between {
            return Err(io::ErrorKind::TimedOut.into());
        }
        Ok(())
    }

    /// Reads behind what is in `buf`; how many bytes came.
    fn poll_fill(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<usize>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        Poll::Ready(Ok(buf.filled().len() - before))
    }

    fn poll_some(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            self.pass_held()?;
            if self.give(buf) {
                return Poll::Ready(Ok(()));
            }
            if matches!(self.phase, Phase::Refused) {
                return Poll::Pending;
            }
            let Poll::Ready(read) = self.poll_fill(cx, buf) else {
                if matches!(self.phase, Phase::Tunnel) {
                    return Poll::Pending;
                }
                ready!(self.wait(cx))?;
                if matches!(self.phase, Phase::Refused) {
                    continue;
                }
                return Poll::Ready(Ok(()));
            };
            let n = read?;
            if n == 0 {
                return Poll::Ready(Ok(()));
            }
            // The head's time runs from its first byte; everything else starts to wait anew.
            if !matches!(self.phase, Phase::Head) || self.held.is_empty() {
                self.waiting = matches!(self.phase, Phase::Head).then(Instant::now);
            }
            if self.sort(n, buf)? {
                return Poll::Ready(Ok(()));
            }
        }
    }

    /// Sorts `n` bytes just read into `buf`: what may go stays there, the rest is held.
    fn sort(&mut self, n: usize, buf: &mut ReadBuf<'_>) -> io::Result<bool> {
        let before = buf.filled().len() - n;
        let fresh = &buf.filled()[before..];
        if !self.held.is_empty() || fresh.starts_with(b"\r\n") {
            self.held.extend_from_slice(fresh);
            buf.set_filled(before);
            return Ok(false);
        }
        let keep = match self.phase {
            Phase::Head => self.inspect(fresh),
            _ => self.follow(fresh)?,
        };
        if keep < n && !matches!(self.phase, Phase::Refused) {
            self.held.extend_from_slice(&fresh[keep..]);
        }
        buf.set_filled(before + keep);
        Ok(keep > 0)
    }

    /// An answer that the client does not read ends the connection after the idle limit.
    fn stalled<T>(
        &mut self,
        cx: &mut Context<'_>,
        outcome: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if outcome.is_ready() {
            self.writing = None;
            return outcome;
        }
        let due = Instant::now() + self.idle_limit;
        let timer = self.writing.get_or_insert_with(|| Box::pin(sleep_until(due)));
        ready!(timer.as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Guard<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.get_mut().poll_some(cx, buf)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Guard<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let outcome = Pin::new(&mut this.stream).poll_write(cx, bytes);
        this.stalled(cx, outcome)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let outcome = Pin::new(&mut this.stream).poll_write_vectored(cx, bytes);
        this.stalled(cx, outcome)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let outcome = Pin::new(&mut this.stream).poll_flush(cx);
        this.stalled(cx, outcome)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let outcome = Pin::new(&mut this.stream).poll_shutdown(cx);
        this.stalled(cx, outcome)
    }
}
