//! The client at the other end of a stream: how fast it takes the answer, and whether it still does.

use std::task::{Context, Poll};

use super::link::Link;
use crate::patience::Patience;

/// A client that stops a single stream for ever looks well as a connection: it loses that answer alone.
pub struct Taker<'a> {
    link: &'a Link,
    stream: u32,
    patience: Patience,
}

/// The client did not take any of the answer for the idle limit.
#[derive(Debug)]
pub struct Stalled;

impl<'a> Taker<'a> {
    pub fn new(link: &'a Link, stream: u32) -> Self {
        Self { link, stream, patience: Patience::new(&link.service.worker) }
    }

    /// Resolves when the client takes some more.
    pub fn poll_room(&mut self, cx: &Context<'_>) -> Poll<Result<(), Stalled>> {
        if self.link.poll_room(self.stream, cx).is_ready() {
            self.patience.restore();
            return Poll::Ready(Ok(()));
        }
        if self.patience.is_over(cx) { Poll::Ready(Err(Stalled)) } else { Poll::Pending }
    }
}
