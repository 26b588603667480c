//! What is about to be written to a client: a head, bytes of the replica's buffer, and what closes a chunk.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::AsyncWrite;

/// The parts, in their order. How many bytes of the buffer may go is `body`.
#[derive(Default)]
pub struct Outbox {
    pub head: Vec<u8>,
    written: usize,
    pub body: usize,
    pub tail: &'static [u8],
}

impl Outbox {
    /// With `head` as the place for heads.
    pub fn new(head: Vec<u8>) -> Self {
        Self { head, ..Self::default() }
    }

    pub fn is_empty(&self) -> bool {
        self.written == self.head.len() && self.body == 0 && self.tail.is_empty()
    }

    /// Writes some of it; `buffer` begins with the body's bytes. How many of these were written.
    pub fn poll_write(
        &mut self,
        stream: &mut (impl AsyncWrite + Unpin),
        buffer: &[u8],
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        let parts = [&self.head[self.written..], &buffer[..self.body], self.tail];
        let polled = poll_write(stream, parts, cx);
        let Poll::Ready(Ok(mut n)) = polled else { return polled };
        let head = n.min(self.head.len() - self.written);
        n -= head;
        self.written += head;
        if self.written == self.head.len() {
            self.head.clear();
            self.written = 0;
        }
        let body = n.min(self.body);
        self.body -= body;
        self.tail = &self.tail[n - body..];
        Poll::Ready(Ok(body))
    }
}

/// Writes as much of `parts` as goes. Writing nothing of something is an error.
pub fn poll_write<const N: usize>(
    stream: &mut (impl AsyncWrite + Unpin),
    parts: [&[u8]; N],
    cx: &mut Context<'_>,
) -> Poll<io::Result<usize>> {
    let stream = Pin::new(stream);
    let mut slices = [IoSlice::new(&[]); N];
    let mut count = 0;
    for part in parts.into_iter().filter(|part| !part.is_empty()) {
        slices[count] = IoSlice::new(part);
        count += 1;
    }
    let polled = match &slices[..count] {
        [one] => stream.poll_write(cx, one),
        all if stream.is_write_vectored() => stream.poll_write_vectored(cx, all),
        all => stream.poll_write(cx, all.first().map_or(&[], |first| first)),
    };
    match polled {
        Poll::Ready(Ok(0)) => Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
        polled => polled,
    }
}
