//! The task of one connection: reads frames, sends what its streams have written, and keeps the time.

use std::future::poll_fn;
use std::io::ErrorKind;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};

use super::frame::{self, Code, HEAD, Head, LARGEST, PREFACE, setting};
use super::link::Link;
use super::receive::Receiver;
use super::{FIRST_WINDOW, GOODBYE, LEAVE, PING, PONG, ROOM, STREAM_WINDOW, STREAMS, WINDOW};
use crate::fast::{Alarm, Buffer, held};
use crate::strict::MAX_HEAD;
use crate::worker::Worker;

pub struct Connection<S> {
    link: Rc<Link>,
    stream: S,
    /// What the client sent and nobody has used yet.
    input: Option<Buffer>,
    receiver: Receiver,
    alarm: Alarm,
    /// The client said that it speaks HTTP/2.
    greeted: bool,
    goodbye: Goodbye,
    /// When something was last read; since when the client takes nothing of what waits for it; since when a frame or a
    /// head is incomplete while nothing else is under way. Milliseconds of the worker's timers.
    read: u64,
    untaken_since: Option<u64>,
    partial_since: Option<u64>,
    /// Since when no request is under way.
    quiet_since: Option<u64>,
    /// The client was asked for a sign of life.
    pinged: bool,
    /// Something was written and may not be on its way.
    unflushed: bool,
    /// No room is kept for the next request.
    tidy: bool,
}

/// How far the connection is from its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Goodbye {
    No,
    /// The client was told, at this time; what it sent before it heard of that is still answered.
    Said(u64),
    /// Nothing new is answered any more.
    Last,
}

/// How the connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The client is not there any more.
    Left,
    /// All was said.
    Well,
    Fault(Code),
}

/// With more than this waiting to be sent nothing is read: some frames are answered, whoever reads the answers.
const CROWDED: usize = 2 * ROOM;
/// An idle connection keeps its buffers for so long.
const TIDY: Duration = Duration::from_secs(1);
/// How long the last words to a client may take.
const LINGER: Duration = Duration::from_secs(1);

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<S> {
    pub async fn open(link: Rc<Link>, stream: S) -> Self {
        let fast = &link.service.worker.fast;
        let alarm = poll_fn(|cx| Poll::Ready(fast.timers.alarm(cx))).await;
        let now = fast.timers.now();
        {
            let out = &mut link.state.borrow_mut().out;
            let settings = [
                (setting::MAX_CONCURRENT_STREAMS, STREAMS),
                (setting::INITIAL_WINDOW_SIZE, STREAM_WINDOW),
                (setting::MAX_HEADER_LIST_SIZE, MAX_HEAD as u32),
            ];
            frame::settings(&settings, out);
            frame::window_update(0, WINDOW - FIRST_WINDOW, out);
        }
        Self {
            link,
            stream,
            input: None,
            receiver: Receiver::default(),
            alarm,
            greeted: false,
            goodbye: Goodbye::No,
            read: now,
            untaken_since: None,
            partial_since: None,
            quiet_since: None,
            pinged: false,
            unflushed: false,
            tidy: true,
        }
    }

    /// Until one side ends it. What the client has to hear of that was sent, if it took it.
    pub async fn serve(&mut self) -> End {
        let end = poll_fn(|cx| self.poll(cx)).await;
        self.link.state.borrow_mut().remove_all();
        self.link.service.worker.fast.buffers.drop(&mut self.input);
        if let End::Fault(code) = end {
            let mut state = self.link.state.borrow_mut();
            let last = state.last;
            frame::goaway(last, code, &mut state.out);
        }
        if end != End::Left {
            self.alarm.set(LINGER);
            poll_fn(|cx| match self.alarm.went_off() {
                true => Poll::Ready(()),
                false => self.poll_end(cx),
            })
            .await;
        }
        end
    }

    /// Sends what there is, and the end of the stream.
    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if ready!(self.poll_send(cx)).is_ok() {
            // It ends one way or the other.
            let _ = ready!(Pin::new(&mut self.stream).poll_shutdown(cx));
        }
        Poll::Ready(())
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        self.link.state.borrow_mut().listen(cx);
        loop {
            let more = match self.read(cx) {
                Ok(more) => more,
                Err(end) => return Poll::Ready(end),
            };
            let due = match self.look_at_clock() {
                Ok(due) => due,
                Err(end) => return Poll::Ready(end),
            };
            self.alarm.set(due);
            match self.poll_send(cx) {
                Poll::Ready(Ok(())) if self.goodbye == Goodbye::Last && self.is_done() => {
                    return Poll::Ready(End::Well);
                }
                Poll::Ready(Ok(())) if more => {}
                Poll::Ready(Err(_)) => return Poll::Ready(End::Left),
                Poll::Ready(Ok(())) | Poll::Pending => break,
            }
        }
        self.link.state.borrow_mut().give_turns();
        Poll::Pending
    }

    fn is_done(&self) -> bool {
        self.link.state.borrow().open() == 0
    }

    /// Takes all frames that came, as far as there is room for answers; whether there may be more of them.
    fn read(&mut self, cx: &mut Context<'_>) -> Result<bool, End> {
        loop {
            while self.take_frame()? {
                if self.link.state.borrow().waiting() >= CROWDED {
                    return Ok(true);
                }
            }
            let fast = &self.link.service.worker.fast;
            match fast.buffers.poll_fill(&mut self.stream, &mut self.input, cx) {
                Poll::Ready(Ok(1..)) => {
                    self.read = fast.timers.now();
                    self.pinged = false;
                }
                Poll::Ready(Ok(0) | Err(_)) => return Err(End::Left),
                Poll::Pending => {
                    fast.buffers.shrink(&mut self.input);
                    return Ok(false);
                }
            }
        }
    }

    /// Takes one frame, if it came whole.
    fn take_frame(&mut self) -> Result<bool, End> {
        let buffers = &self.link.service.worker.fast.buffers;
        let bytes = held(&self.input);
        if !self.greeted {
            let came = bytes.len().min(PREFACE.len());
            if bytes[..came] != PREFACE[..came] {
                return Err(End::Fault(Code::Protocol));
            }
            self.greeted = came == PREFACE.len();
            if self.greeted {
                buffers.consume(&mut self.input, PREFACE.len());
            }
            return Ok(self.greeted);
        }
        let Some(head) = Head::read(bytes) else { return Ok(false) };
        if head.length > LARGEST {
            return Err(End::Fault(Code::FrameSize));
        }
        let whole = HEAD + head.length;
        let Some(content) = bytes.get(HEAD..whole) else { return Ok(false) };
        self.receiver.take(&self.link, head, content).map_err(End::Fault)?;
        buffers.consume(&mut self.input, whole);
        if !self.receiver.in_block() {
            self.partial_since = None;
        }
        Ok(true)
    }

    /// Sends what waits, all of it.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        let mut state = self.link.state.borrow_mut();
        let state = &mut *state;
        self.unflushed |= state.waiting() > 0;
        while state.waiting() > 0 {
            match Pin::new(&mut self.stream).poll_write(cx, state.unsent()) {
                Poll::Ready(Ok(n @ 1..)) => state.sent(n),
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(ErrorKind::WriteZero.into())),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => return Poll::Pending,
            }
            self.untaken_since = None;
        }
        if self.unflushed {
            ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
            self.unflushed = false;
        }
        self.untaken_since = None;
        Poll::Ready(Ok(()))
    }

    /// Does what is due, and says how long it is until something else may be.
    fn look_at_clock(&mut self) -> Result<Duration, End> {
        let link = self.link.clone();
        let Worker { fast, shared, .. } = &*link.service.worker;
        let now = fast.timers.now();
        if fast.timers.stopping() || shared.leaving() {
            self.say_goodbye(now);
        }
        let (open, waiting) = {
            let state = link.state.borrow();
            (state.open() > 0, state.waiting() > 0 || self.unflushed)
        };
        let mut clock = Clock { now, next: shared.limits.idle };
        // A client that does not take what it is sent is as good as gone.
        if waiting && clock.is_late(shared.limits.idle, *self.untaken_since.get_or_insert(now)) {
            return Err(End::Left);
        }
        let partial =
            !self.greeted || self.receiver.in_block() || (!open && !held(&self.input).is_empty());
        if !partial {
            self.partial_since = None;
        } else if clock.is_late(shared.limits.head, *self.partial_since.get_or_insert(now)) {
            return Err(End::Fault(Code::EnhanceYourCalm));
        }
        if let Goodbye::Said(said) = self.goodbye
            && (self.receiver.heard_goodbye || clock.is_late(LEAVE, said))
        {
            self.say_last_word();
        }
        self.receiver.forget(now, &mut link.state.borrow_mut());
        if open {
            (self.quiet_since, self.tidy) = (None, false);
            let limit = if self.pinged { PING + PONG } else { PING };
            match clock.is_late(limit, self.read) {
                true if self.pinged => return Err(End::Left),
                true => {
                    self.pinged = true;
                    frame::ping([0; 8], false, &mut link.state.borrow_mut().out);
                    clock.look_within(PONG);
                }
                false => {}
            }
            return Ok(clock.next);
        }
        let quiet = *self.quiet_since.get_or_insert(now);
        if self.goodbye == Goodbye::No && clock.is_late(shared.limits.idle, quiet) {
            self.say_goodbye(now);
            clock.look_within(LEAVE);
        }
        if !self.tidy && !waiting && clock.is_late(TIDY, quiet) {
            self.tidy = true;
            link.state.borrow_mut().tidy();
            self.receiver.tidy();
        }
        Ok(clock.next)
    }

    /// Tells the client to go. What it sends before it hears of that is still answered (RFC 9113, 6.8).
    fn say_goodbye(&mut self, now: u64) {
        if self.goodbye != Goodbye::No {
            return;
        }
        self.goodbye = Goodbye::Said(now);
        let out = &mut self.link.state.borrow_mut().out;
        frame::goaway(u32::MAX >> 1, Code::NoError, out);
        frame::ping(GOODBYE, false, out);
    }

    /// Tells the client which of its requests are answered: others it may send again, to somebody else.
    fn say_last_word(&mut self) {
        self.goodbye = Goodbye::Last;
        let mut state = self.link.state.borrow_mut();
        let last = state.last;
        self.receiver.last = Some(last);
        frame::goaway(last, Code::NoError, &mut state.out);
    }
}

/// The time at a look, and how long it is until the next.
struct Clock {
    now: u64,
    next: Duration,
}

impl Clock {
    /// Whether `limit` is over for what began at `since`; if not, it is looked at again when it is.
    fn is_late(&mut self, limit: Duration, since: u64) -> bool {
        let left = limit.saturating_sub(Duration::from_millis(self.now.saturating_sub(since)));
        if !left.is_zero() {
            self.look_within(left);
        }
        left.is_zero()
    }

    fn look_within(&mut self, time: Duration) {
        self.next = self.next.min(time);
    }
}
