//! A request's way to its replica: the head, and the body as the client sends it.

use std::time::Duration;

use crate::limits::{Cut, Meter};
use crate::strict::{Chunks, Framing};

/// What is still to go.
pub struct Upload {
    head: usize,
    rest: Rest,
    /// How many bytes at the start of the client's buffer belong to the body and may go.
    pub ready: usize,
    /// The replica does not take it any more, or the client's bytes are no body: nothing more is sent.
    given_up: bool,
    meter: Meter,
}

enum Rest {
    Length(u64),
    Chunked(Chunks),
}

impl Upload {
    /// Of a body of at most `max` bytes; `idle` is the client's time to send some of it.
    pub fn new(framing: Framing, max: Option<u64>, idle: Duration) -> Self {
        let rest = match framing {
            Framing::Length(length) => Rest::Length(length),
            Framing::Chunked => Rest::Chunked(Chunks::default()),
            Framing::Tunnel => Rest::Length(0),
        };
        Self { head: 0, rest, ready: 0, given_up: false, meter: Meter::new(max, idle) }
    }

    /// Whether all of the body was received.
    pub fn received(&self) -> bool {
        match &self.rest {
            Rest::Length(left) => *left == 0,
            Rest::Chunked(chunks) => chunks.ended(),
        }
    }

    /// How many bytes of the head were sent.
    pub fn head(&self) -> usize {
        self.head
    }

    /// Begins again with another replica; nothing of the body was sent to the one before.
    pub fn restart(&mut self) {
        self.head = 0;
    }

    pub fn give_up(&mut self) {
        self.given_up = true;
    }

    /// Whether nothing more will be sent, of a head of `length` bytes and its body.
    pub fn is_over(&self, length: usize) -> bool {
        self.given_up || self.is_complete(length)
    }

    /// Whether everything was sent.
    pub fn is_complete(&self, length: usize) -> bool {
        self.head == length && self.ready == 0 && self.received()
    }

    /// The replica began to answer.
    pub fn answered(&mut self) {
        self.meter.answered();
    }

    /// How long the client may still be waited for.
    pub fn patience(&self) -> Duration {
        self.meter.patience()
    }

    /// Looks at what the client's buffer holds behind the bytes that are ready, after it was `waited` for;
    /// how many of them are of the body.
    pub fn follow(&mut self, buffer: &[u8], waited: Duration) -> Result<usize, Cut> {
        let bytes = &buffer[self.ready..];
        // What frames the chunks is no part of the body, as a limit of its size means it.
        let (taken, data) = match &mut self.rest {
            Rest::Length(left) => {
                let taken = (*left).min(bytes.len() as u64);
                *left -= taken;
                (taken as usize, taken)
            }
            Rest::Chunked(chunks) => {
                let before = chunks.data();
                let (taken, _) = chunks.advance(bytes).map_err(|_| Cut::Malformed)?;
                (taken, chunks.data() - before)
            }
        };
        self.meter.came(data, waited)?;
        self.ready += taken;
        Ok(taken)
    }

    /// `n` bytes of head and body were written; how many of them were of the body.
    pub fn sent(&mut self, n: usize, length: usize) -> usize {
        let head = n.min(length - self.head);
        self.head += head;
        self.ready -= n - head;
        n - head
    }
}
