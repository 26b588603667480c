//! The client at the other end of a stream: how fast it takes the answer, and whether it still does.

use std::task::{Context, Poll};

use super::link::Link;
use crate::fast::Alarm;

/// A client that stops a single stream for ever looks well as a connection: it loses that answer alone.
pub struct Taker<'a> {
    link: &'a Link,
    stream: u32,
    /// Set while the client is waited for.
    alarm: Option<Alarm>,
}

/// The client did not take any of the answer for the idle limit.
#[derive(Debug)]
pub struct Stalled;

impl<'a> Taker<'a> {
    pub fn new(link: &'a Link, stream: u32) -> Self {
        Self { link, stream, alarm: None }
    }

    /// Resolves when the client takes some more.
    pub fn poll_room(&mut self, cx: &Context<'_>) -> Poll<Result<(), Stalled>> {
        let polled = self.link.poll_room(self.stream, cx);
        if polled.is_ready() {
            self.alarm = None;
            return Poll::Ready(Ok(()));
        }
        let worker = &self.link.service.worker;
        let alarm = self.alarm.get_or_insert_with(|| {
            let alarm = worker.fast.timers.alarm(cx);
            alarm.set(worker.shared.limits.idle);
            alarm
        });
        if alarm.went_off() { Poll::Ready(Err(Stalled)) } else { Poll::Pending }
    }
}
