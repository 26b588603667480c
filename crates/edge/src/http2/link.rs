//! What the task of a connection and those of its streams share.
//!
//! A stream's task writes its frames behind those that wait to be sent, and the connection's task sends them.

use std::cell::RefCell;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::HeaderMap;

use super::frame::{self, Code, flag, kind};
use super::hpack::Encoder;
use super::streams::{State, Stream, Upload};
use crate::proxy::Connection;

/// Bytes of a request's body that are read at once.
const PIECE: usize = 64 * 1024;

/// One connection, as its streams see it.
pub struct Link {
    pub service: Rc<Connection>,
    pub state: RefCell<State>,
}

/// A piece of a request's body.
pub enum Piece {
    Data(Bytes),
    Trailers(HeaderMap),
}

/// The client took the request back, or the rest of its body is dropped.
#[derive(Debug)]
pub struct Gone;

impl Link {
    pub fn new(service: Rc<Connection>) -> Self {
        Self { service, state: RefCell::default() }
    }

    /// Writes the head of an answer, or what follows its body; `ends` the stream.
    pub fn fields(&self, id: u32, ends: bool, fill: impl FnOnce(&mut Encoder, &mut Vec<u8>)) {
        let mut state = self.state.borrow_mut();
        let state = &mut *state;
        let Some(at) = state.at(id) else { return };
        let begin = state.out.len();
        let flags = if ends { flag::END_STREAM } else { 0 };
        let (length, ()) = frame::write(kind::HEADERS, id, &mut state.out, |out| {
            state.encoder.begin(out);
            fill(&mut state.encoder, out);
            (flags | flag::END_HEADERS, ())
        });
        if length > state.largest {
            state.split(begin, id, flags);
        }
        let stream = &mut state.streams[at];
        (stream.begun, stream.answered) = (true, stream.answered | ends);
        state.wake();
    }

    /// Says something before the answer.
    pub fn interim(&self, id: u32, status: u16) {
        let mut state = self.state.borrow_mut();
        if state.at(id).is_none() {
            return;
        }
        let state = &mut *state;
        frame::write(kind::HEADERS, id, &mut state.out, |out| {
            state.encoder.begin(out);
            state.encoder.status(status, out);
            (flag::END_HEADERS, ())
        });
        state.wake();
    }

    /// Writes what `fill` appends as a frame of the answer's body. It is told how much that may be, and says whether
    /// the stream ends with it; how much it was.
    pub fn data(&self, id: u32, fill: impl FnOnce(usize, &mut Vec<u8>) -> bool) -> usize {
        let mut state = self.state.borrow_mut();
        let Some(at) = state.at(id) else { return 0 };
        let most = state.room(at);
        let begin = state.out.len();
        let (length, ends) = frame::write(kind::DATA, id, &mut state.out, |out| {
            let ends = fill(most, out);
            (if ends { flag::END_STREAM } else { 0 }, ends)
        });
        state.window -= length as i64;
        let stream = &mut state.streams[at];
        stream.window -= length as i64;
        stream.answered |= ends;
        let turn = state.end_turn(at);
        if length == 0 && !ends {
            state.out.truncate(begin);
        }
        if length > 0 || ends || turn {
            state.wake();
        }
        length
    }

    /// Ends an answer whose end was not written yet, with what follows its body.
    pub fn end(&self, id: u32, trailers: Option<&HeaderMap>) {
        match trailers {
            Some(trailers) => self.fields(id, true, |encoder, out| encoder.fields(trailers, out)),
            None => {
                self.data(id, |_, _| true);
            }
        }
    }

    /// Resolves when the stream may send some of its answer's body.
    pub fn poll_room(&self, id: u32, cx: &Context<'_>) -> Poll<()> {
        let mut state = self.state.borrow_mut();
        let Some(at) = state.at(id) else { return Poll::Pending };
        if state.room(at) > 0 {
            return Poll::Ready(());
        }
        // It is for somebody else.
        if state.end_turn(at) {
            state.wake();
        }
        let stream = &mut state.streams[at];
        if stream.window <= 0 {
            stream.sender = Some(cx.waker().clone());
            return Poll::Pending;
        }
        match state.turns.iter_mut().find(|(waiting, _)| *waiting == id) {
            Some((_, waker)) => waker.clone_from(cx.waker()),
            None => state.turns.push_back((id, cx.waker().clone())),
        }
        Poll::Pending
    }

    /// The next piece of a request's body.
    pub fn poll_piece(&self, id: u32, cx: &Context<'_>) -> Poll<Option<Result<Piece, Gone>>> {
        let mut state = self.state.borrow_mut();
        let state = &mut *state;
        let Some(at) = state.at(id) else { return Poll::Ready(Some(Err(Gone))) };
        let stream = &mut state.streams[at];
        let Some(upload) = &mut stream.upload else { return Poll::Ready(None) };
        if upload.unread {
            return Poll::Ready(Some(Err(Gone)));
        }
        if !upload.data.is_empty() {
            let piece = upload.data.split_to(upload.data.len().min(PIECE)).freeze();
            let length = piece.len() as u32;
            upload.used += length;
            if !stream.ended {
                upload.give_back(id, &mut state.out);
            }
            state.give_back(length);
            state.wake();
            return Poll::Ready(Some(Ok(Piece::Data(piece))));
        }
        if !stream.ended {
            upload.reader = Some(cx.waker().clone());
            // What came may have been padding alone.
            if upload.give_back(id, &mut state.out) {
                state.wake();
            }
            return Poll::Pending;
        }
        let trailers = upload.trailers.take();
        stream.upload = None;
        Poll::Ready(trailers.map(|trailers| Ok(Piece::Trailers(trailers))))
    }

    /// Whether the body came to its end, and all of it was read. Never of a request that was taken back or whose rest is
    /// dropped: what was read of it must not be taken for the whole.
    pub fn is_read(&self, id: u32) -> bool {
        let state = self.state.borrow();
        let Some(at) = state.at(id) else { return false };
        let Stream { upload, ended, .. } = &state.streams[at];
        let more =
            |upload: &Upload| upload.unread || !upload.data.is_empty() || upload.trailers.is_some();
        *ended && !upload.as_deref().is_some_and(more)
    }

    /// Resolves when an answered request has come to its end. At once if it was not answered: then nobody waits for that.
    pub fn poll_ended(&self, id: u32, cx: &Context<'_>) -> Poll<()> {
        let mut state = self.state.borrow_mut();
        let Some(at) = state.at(id) else { return Poll::Ready(()) };
        let Stream { answered: true, ended: false, upload: Some(upload), .. } =
            &mut state.streams[at]
        else {
            return Poll::Ready(());
        };
        upload.reader = Some(cx.waker().clone());
        Poll::Pending
    }

    /// Nobody will read the body any more: whoever still does hears that it is gone.
    pub fn leave_unread(&self, id: u32) {
        let mut state = self.state.borrow_mut();
        let Some(at) = state.at(id) else { return };
        let Some(upload) = &mut state.streams[at].upload else { return };
        upload.unread = true;
        if let Some(reader) = upload.reader.take() {
            reader.wake();
        }
        let held = std::mem::take(&mut upload.data);
        state.give_back(held.len() as u32);
        state.wake();
    }

    /// The stream's task is over, well or not.
    pub fn close(&self, id: u32) {
        let mut state = self.state.borrow_mut();
        let Some(at) = state.at(id) else { return };
        let Stream { answered, ended, .. } = state.streams[at];
        // It ends by itself.
        state.streams[at].task = None;
        if answered {
            state.add_patience();
        }
        match (answered, ended) {
            (true, true) => state.remove(at),
            // The rest of the request is not wanted (RFC 9113, 8.1).
            (true, false) => state.cut_off(at, Code::NoError),
            (false, _) => state.cut_off(at, Code::Internal),
        }
        state.wake();
    }

    /// Ends the stream at once: its client does not take the answer.
    pub fn give_up(&self, id: u32) {
        let mut state = self.state.borrow_mut();
        let Some(at) = state.at(id) else { return };
        state.cut_off(at, Code::Cancel);
        state.wake();
    }
}
