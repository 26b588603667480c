//! One worker's buffers: lent to whoever has bytes in its hands, and given back when it has none.
//!
//! A connection that waits holds no buffer, so thousands of idle ones cost next to nothing, and the few
//! buffers in use stay warm.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, ReadBuf};

/// Larger than any head, so that a head that does not fit is too large.
pub const SIZE: usize = 64 * 1024;

/// Buffers kept for the next use; more than these were a peak.
const KEPT: usize = 64;
/// Heads are small: one that had to grow beyond this is not kept.
const HEAD_KEPT: usize = 8 * 1024;

#[derive(Default)]
pub struct Buffers {
    free: RefCell<Vec<Buffer>>,
    heads: RefCell<Vec<Vec<u8>>>,
}

/// Bytes that were read and not yet used.
pub struct Buffer {
    bytes: Box<[u8]>,
    start: usize,
    end: usize,
}

impl Buffers {
    fn take(&self) -> Buffer {
        let fresh = || Buffer { bytes: vec![0; SIZE].into(), start: 0, end: 0 };
        self.free.borrow_mut().pop().unwrap_or_else(fresh)
    }

    fn copy(&self, bytes: &[u8]) -> Buffer {
        let mut buffer = self.take();
        buffer.bytes[..bytes.len()].copy_from_slice(bytes);
        buffer.end = bytes.len();
        buffer
    }

    /// Keeps what is in `slot` in as little room as it needs: it may be long until more comes.
    pub fn shrink(&self, slot: &mut Option<Buffer>) {
        let Some(buffer) = slot.take_if(|buffer| buffer.bytes.len() == SIZE) else { return };
        let bytes: Box<[u8]> = buffer.bytes().into();
        *slot = Some(Buffer { start: 0, end: bytes.len(), bytes });
        self.give(buffer);
    }

    fn give(&self, mut buffer: Buffer) {
        (buffer.start, buffer.end) = (0, 0);
        let mut free = self.free.borrow_mut();
        if free.len() < KEPT && buffer.bytes.len() == SIZE {
            free.push(buffer);
        }
    }

    /// An empty place to write a head into.
    pub fn head(&self) -> Vec<u8> {
        self.heads.borrow_mut().pop().unwrap_or_else(|| Vec::with_capacity(1024))
    }

    pub fn give_head(&self, mut head: Vec<u8>) {
        let mut heads = self.heads.borrow_mut();
        if heads.len() < KEPT && (1..=HEAD_KEPT).contains(&head.capacity()) {
            head.clear();
            heads.push(head);
        }
    }

    /// Reads more into `slot`, which gets a buffer for as long as it has bytes; 0 is the end of the stream.
    /// There is room unless `slot` holds [`SIZE`] bytes.
    pub fn poll_fill(
        &self,
        stream: &mut (impl AsyncRead + Unpin),
        slot: &mut Option<Buffer>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        let mut buffer = match slot.take() {
            Some(buffer) if buffer.bytes.len() == SIZE => buffer,
            Some(small) => self.copy(small.bytes()),
            None => self.take(),
        };
        let polled = buffer.poll_fill(stream, cx);
        if buffer.is_empty() {
            self.give(buffer);
        } else {
            *slot = Some(buffer);
        }
        polled
    }

    /// Uses up all there is.
    pub fn drop(&self, slot: &mut Option<Buffer>) {
        if let Some(buffer) = slot.take() {
            self.give(buffer);
        }
    }

    /// Uses up `n` bytes of `slot`.
    pub fn consume(&self, slot: &mut Option<Buffer>, n: usize) {
        let Some(buffer) = slot else { return };
        buffer.start += n;
        if buffer.is_empty()
            && let Some(buffer) = slot.take()
        {
            self.give(buffer);
        }
    }
}

impl Buffer {
    fn is_empty(&self) -> bool {
        self.start == self.end
    }

    pub fn bytes(&self) -> &[u8] {
        &self.bytes[self.start..self.end]
    }

    fn poll_fill(
        &mut self,
        stream: &mut (impl AsyncRead + Unpin),
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        if self.start > 0 && self.end == self.bytes.len() {
            self.bytes.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        let mut room = ReadBuf::new(&mut self.bytes[self.end..]);
        ready!(Pin::new(stream).poll_read(cx, &mut room))?;
        let n = room.filled().len();
        self.end += n;
        Poll::Ready(Ok(n))
    }
}

/// The bytes in `slot`.
pub fn held(slot: &Option<Buffer>) -> &[u8] {
    slot.as_ref().map_or(&[], Buffer::bytes)
}
