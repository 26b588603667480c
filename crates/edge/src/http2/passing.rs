//! The body of a replica's answer on its way to a client.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use super::link::Link;
use super::taker::{Stalled, Taker};
use crate::closing::Ended;
use crate::facts::Flight;
use crate::fast::{Broken, Reply, Taken};
use crate::patience::Patience;

/// Read no faster than the client takes it.
pub struct Passing<'a> {
    link: &'a Link,
    stream: u32,
    reply: Reply,
    taker: Taker<'a>,
    /// Resolves when an event stream should end.
    cut: Option<Ended>,
    /// With the replica. A stream may be quiet for as long as it likes.
    patience: Patience,
}

/// How an answer ended.
pub enum End {
    Whole,
    /// The time of its slot was over.
    Drained,
}

pub enum Failed {
    /// It did not send all of it.
    Replica,
    /// It did not take it.
    Client,
}

impl From<Broken> for Failed {
    fn from(_: Broken) -> Self {
        Self::Replica
    }
}

impl<'a> Passing<'a> {
    /// `reply` goes to `stream`, until `cut` resolves.
    pub fn new(link: &'a Link, stream: u32, reply: Reply, cut: Option<Ended>) -> Self {
        let taker = Taker::new(link, stream);
        let patience = Patience::new(&link.service.worker);
        Self { link, stream, reply, taker, cut, patience }
    }

    /// To the end, with what follows the body.
    pub async fn run(&mut self, flight: &mut Flight) -> Result<End, Failed> {
        loop {
            let mut taken = Ok(Taken::Here);
            let sent = self.link.data(self.stream, |most, out| {
                taken = self.reply.take(most, out);
                matches!(taken, Ok(Taken::All)) && !self.reply.has_trailers()
            });
            flight.sent(sent as u64);
            let goes_on = match taken? {
                Taken::All => {
                    if self.reply.has_trailers() {
                        self.link.end(self.stream, self.reply.trailers()?.as_ref());
                    }
                    return Ok(End::Whole);
                }
                Taken::Here => poll_fn(|cx| self.poll_replica(cx)).await?,
                Taken::Enough => poll_fn(|cx| self.poll_client(cx)).await?,
            };
            if !goes_on {
                return Ok(End::Drained);
            }
        }
    }

    /// Resolves when there is more of the answer; false if the stream should end.
    fn poll_replica(&mut self, cx: &mut Context<'_>) -> Poll<Result<bool, Failed>> {
        if self.is_cut(cx) {
            return Poll::Ready(Ok(false));
        }
        if let Poll::Ready(more) = self.reply.poll_more(cx) {
            self.patience.restore();
            return Poll::Ready(more.map(|()| true).map_err(Failed::from));
        }
        match self.cut.is_none() && self.patience.is_over(cx) {
            true => Poll::Ready(Err(Failed::Replica)),
            false => Poll::Pending,
        }
    }

    /// Resolves when the client takes more of it; false if the stream should end.
    fn poll_client(&mut self, cx: &mut Context<'_>) -> Poll<Result<bool, Failed>> {
        if self.is_cut(cx) {
            return Poll::Ready(Ok(false));
        }
        let room = ready!(self.taker.poll_room(cx));
        Poll::Ready(room.map(|()| true).map_err(|Stalled| Failed::Client))
    }

    fn is_cut(&mut self, cx: &mut Context<'_>) -> bool {
        self.cut.as_mut().is_some_and(|cut| Pin::new(cut).poll(cx).is_ready())
    }
}
