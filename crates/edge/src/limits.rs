//! What one client may take: connections, the size of a body, and the time that it needs to send it.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;
use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use hyper::body::{Body, Frame, SizeHint};
use tokio::time::{Instant, Sleep, sleep_until};

use crate::body::{BodyError, ClientBody};
use crate::facts::Meter as Counted;

/// The open connections of one worker, counted by client address. As many entries as connections at most.
#[derive(Default)]
pub struct Addresses(RefCell<HashMap<IpAddr, usize>>);

/// One counted connection. Dropping it takes it off the count.
pub struct Place {
    addresses: Rc<Addresses>,
    network: IpAddr,
}

impl Addresses {
    /// A place for one more connection from `peer`, if it has fewer than `limit`.
    pub fn place(self: &Rc<Self>, peer: IpAddr, limit: usize) -> Option<Place> {
        let network = network(peer);
        let mut open = self.0.borrow_mut();
        let count = open.entry(network).or_default();
        // A limit of none would leave an entry behind; one connection is always possible.
        if *count >= limit.max(1) {
            return None;
        }
        *count += 1;
        Some(Place { addresses: self.clone(), network })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self.addresses.0.borrow_mut();
        let Entry::Occupied(mut count) = open.entry(self.network) else { return };
        *count.get_mut() -= 1;
        if *count.get() == 0 {
            count.remove();
        }
    }
}

/// What stands for one client: an IPv4 address, or the 64-bit network that an IPv6 client has to itself.
fn network(peer: IpAddr) -> IpAddr {
    match peer.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6((u128::from(v6) >> 64 << 64).into()),
        v4 => v4,
    }
}

/// Why the rest of a body is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    TooLarge,
    TooSlow,
    Malformed,
}

impl Cut {
    pub fn status(self) -> StatusCode {
        match self {
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::TooSlow => StatusCode::REQUEST_TIMEOUT,
            Self::Malformed => StatusCode::BAD_REQUEST,
        }
    }

    /// Whether the edge gives this status because it cut a body, and not because of a replica.
    pub fn is_behind(status: StatusCode) -> bool {
        [Self::TooLarge, Self::TooSlow, Self::Malformed].iter().any(|cut| status == cut.status())
    }
}

impl fmt::Display for Cut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TooLarge => "the body is larger than its route allows",
            Self::TooSlow => "the body came too slowly",
            Self::Malformed => "the body is malformed",
        })
    }
}

impl std::error::Error for Cut {}

/// Whether a body of this length is within what a route takes.
pub fn fits(length: u64, max: Option<u64>) -> bool {
    max.is_none_or(|max| length <= max)
}

/// As long as nothing was answered, this many bytes must come for each idle time that is spent waiting for
/// the client. Waiting for the replica does not count.
const PROGRESS: u64 = 8 * 1024;

/// Measures one body on its way to a replica: its size, and whether it makes progress.
#[derive(Debug)]
pub struct Meter {
    left: u64,
    idle: Duration,
    needed: u64,
    came: u64,
    waited: Duration,
}

impl Meter {
    /// A meter of a body of at most `max` bytes; `idle` is the client's time for [`PROGRESS`] bytes.
    pub fn new(max: Option<u64>, idle: Duration) -> Self {
        let left = max.unwrap_or(u64::MAX);
        Self { left, idle, needed: PROGRESS, came: 0, waited: Duration::ZERO }
    }

    /// From the answer on client and replica may be talking: any byte is progress.
    pub fn answered(&mut self) {
        self.needed = 1;
    }

    /// Bytes of the body came, after the client was waited for.
    pub fn came(&mut self, bytes: u64, waited: Duration) -> Result<(), Cut> {
        self.left = self.left.checked_sub(bytes).ok_or(Cut::TooLarge)?;
        self.came += bytes;
        self.waited += waited;
        if self.came >= self.needed {
            (self.came, self.waited) = (0, Duration::ZERO);
        }
        if self.waited >= self.idle { Err(Cut::TooSlow) } else { Ok(()) }
    }

    /// How long the client may still be waited for.
    pub fn patience(&self) -> Duration {
        self.idle.saturating_sub(self.waited)
    }
}

/// What a request's owner and its body tell each other.
#[derive(Debug, Default)]
pub struct Progress {
    cut: Cell<Option<Cut>>,
    answered: Cell<bool>,
}

impl Progress {
    /// Why the body was cut off, if it was.
    pub fn cut(&self) -> Option<Cut> {
        self.cut.get()
    }

    /// The replica began to answer.
    pub fn answered(&self) {
        self.answered.set(true);
    }
}

/// A client's body within its limits.
pub struct Limited {
    body: ClientBody,
    meter: Meter,
    counted: Counted,
    progress: Rc<Progress>,
    /// HTTP/2 watches over its connections itself, and a stream may be silent in one direction.
    may_be_silent: bool,
    waiting: Option<Instant>,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Limited {
    pub fn new(
        body: ClientBody,
        meter: Meter,
        counted: Counted,
        progress: Rc<Progress>,
        http2: bool,
    ) -> Self {
        Self { body, meter, counted, progress, may_be_silent: http2, waiting: None, timer: None }
    }

    fn expired(&mut self, cx: &mut Context<'_>) -> bool {
        let now = Instant::now();
        let since = *self.waiting.get_or_insert(now);
        let due = since + self.meter.patience();
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(due)));
        if due < timer.deadline() {
            timer.as_mut().reset(due);
        }
        // A later end is only looked at when the earlier one fires: no timer is moved for each piece.
        while timer.as_mut().poll(cx).is_ready() {
            if Instant::now() >= due {
                return true;
            }
            timer.as_mut().reset(due);
        }
        false
    }

    fn cut(&self, cut: Cut) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        self.progress.cut.set(Some(cut));
        Poll::Ready(Some(Err(cut.into())))
    }
}

impl Body for Limited {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        if this.progress.answered.get() {
            this.meter.answered();
        }
        let silent = this.may_be_silent && this.progress.answered.get();
        match Pin::new(&mut this.body).poll_frame(cx) {
            Poll::Pending if silent => Poll::Pending,
            Poll::Pending if this.expired(cx) => this.cut(Cut::TooSlow),
            Poll::Pending => Poll::Pending,
            Poll::Ready(Some(Ok(frame))) => {
                let waited = this.waiting.take().map_or(Duration::ZERO, |since| since.elapsed());
                let waited = if silent { Duration::ZERO } else { waited };
                let bytes = frame.data_ref().map_or(0, Bytes::len) as u64;
                this.counted.received(bytes);
                match this.meter.came(bytes, waited) {
                    Ok(()) => Poll::Ready(Some(Ok(frame))),
                    Err(cut) => this.cut(cut),
                }
            }
            Poll::Ready(Some(Err(error))) if is_malformed(&error) => this.cut(Cut::Malformed),
            Poll::Ready(end) => Poll::Ready(end),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Whether what came is no body. A client that left has not sent one either, but nothing is wrong with it.
fn is_malformed(error: &BodyError) -> bool {
    let source = error.source().and_then(|source| source.downcast_ref::<io::Error>());
    let kind = source.map(io::Error::kind);
    matches!(kind, Some(io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput))
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDLE: Duration = Duration::from_secs(10);

    #[test]
    fn an_address_has_its_number_of_places_and_gets_them_back() {
        let addresses = Rc::new(Addresses::default());
        let place = |peer: &str| addresses.place(peer.parse().unwrap(), 2);
        let held = [place("1.2.3.4"), place("::ffff:1.2.3.4")];
        assert!(held.iter().all(Option::is_some) && place("1.2.3.4").is_none());
        assert!(place("1.2.3.5").is_some());
        drop(held);
        assert!(place("1.2.3.4").is_some());
        let network = [place("2001:db8::1"), place("2001:db8::ffff:1")];
        assert!(network.iter().all(Option::is_some) && place("2001:db8::2").is_none());
        assert!(place("2001:db8:0:1::1").is_some());
        drop(network);
        assert!(addresses.0.borrow().is_empty());
    }

    #[test]
    fn a_body_is_cut_at_its_first_byte_too_many() {
        let mut meter = Meter::new(Some(10), IDLE);
        assert_eq!(meter.came(10, Duration::ZERO), Ok(()));
        assert_eq!(meter.came(1, Duration::ZERO), Err(Cut::TooLarge));
        assert!(fits(10, Some(10)) && !fits(11, Some(10)) && fits(u64::MAX, None));
    }

    #[test]
    fn a_body_that_trickles_is_cut_and_one_that_flows_is_not() {
        let second = Duration::from_secs(1);
        let mut trickle = Meter::new(None, IDLE);
        let came = (1..20).find(|_| trickle.came(1, second).is_err());
        assert_eq!(came, Some(10));
        let mut flow = Meter::new(None, IDLE);
        assert!((0..100).all(|_| flow.came(2_000, second).is_ok()));
        let mut talk = Meter::new(None, IDLE);
        talk.answered();
        assert!((0..100).all(|_| talk.came(1, 9 * second).is_ok()));
        assert_eq!(talk.patience(), IDLE);
    }
}
