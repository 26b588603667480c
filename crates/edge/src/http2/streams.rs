//! The streams of one connection: what each may send, what came of its request, and whose turn it is.
//!
//! No stream may write more than its windows and the room allow. Those that have to wait take turns, a frame each, and
//! while anybody waits or has a turn, nobody else writes.

use std::collections::VecDeque;
use std::task::{Context, Waker};

use bytes::BytesMut;
use http::HeaderMap;
use tokio::task::JoinHandle;

use super::frame::{self, Code, LARGEST, LARGEST_WINDOW, flag, kind};
use super::hpack::Encoder;
use super::{FIRST_WINDOW, ROOM, STREAM_WINDOW, WINDOW};

/// All of them, and what waits to be sent for them.
pub struct State {
    /// Frames to be sent; the first `written` bytes are.
    pub out: Vec<u8>,
    written: usize,
    pub encoder: Encoder,
    /// In the order of their numbers.
    pub streams: Vec<Stream>,
    /// The highest number of a stream that the client opened.
    pub last: u32,
    /// Streams that we closed before the client did: what it had sent before it heard of that is no fault.
    cut: VecDeque<u32>,
    /// What the client takes, on the connection and on a new stream, and in a frame.
    pub window: i64,
    first_window: i64,
    pub largest: usize,
    /// What the client may still send, and what of it was used and not yet given back.
    receivable: i64,
    used: u32,
    /// Streams that have something to send and wait for their turn.
    pub turns: VecDeque<(u32, Waker)>,
    /// Streams that have one.
    given: usize,
    task: Option<Waker>,
    /// How many more of its requests the client may give up before they were answered. Each answer adds one, and in time
    /// all of it comes back.
    patience: u32,
}

/// One stream whose request is not answered to its end.
pub struct Stream {
    pub id: u32,
    pub task: Option<JoinHandle<()>>,
    pub window: i64,
    /// Waits for the window to open.
    pub sender: Option<Waker>,
    /// It may send a frame before those that wait.
    turn: bool,
    /// The head of the answer was sent.
    pub begun: bool,
    /// The end was sent.
    pub answered: bool,
    /// `None` if there is no body, and once it was read to its end.
    pub upload: Option<Box<Upload>>,
    /// The end of the request came.
    pub ended: bool,
}

/// The body of a request on its way.
pub struct Upload {
    /// What came and was not read yet.
    pub data: BytesMut,
    pub trailers: Option<HeaderMap>,
    /// What the client may still send, and what of it was used and not yet given back.
    pub receivable: i64,
    pub used: u32,
    /// How much must still come, if that is known.
    pub left: Option<u64>,
    pub reader: Option<Waker>,
    /// Nobody reads it any more.
    pub unread: bool,
}

/// What went wrong, and how far that goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    Stream(u32, Code),
    Connection(Code),
}

/// Streams that we closed early, kept in mind.
const CUT: usize = 256;
/// See [`State::patience`]. Browsers give up whole pages of requests at once.
const PATIENCE: u32 = 256;
/// A window is given back when so much of it was used.
const GIVE_BACK: u32 = 2;

impl Default for State {
    fn default() -> Self {
        Self {
            out: Vec::new(),
            written: 0,
            encoder: Encoder::default(),
            streams: Vec::new(),
            last: 0,
            cut: VecDeque::new(),
            window: FIRST_WINDOW.into(),
            first_window: FIRST_WINDOW.into(),
            largest: LARGEST,
            receivable: WINDOW.into(),
            used: 0,
            turns: VecDeque::new(),
            given: 0,
            task: None,
            patience: PATIENCE,
        }
    }
}

impl State {
    pub fn at(&self, id: u32) -> Option<usize> {
        // Most often it is the newest.
        if let Some(stream) = self.streams.last()
            && stream.id == id
        {
            return Some(self.streams.len() - 1);
        }
        self.streams.binary_search_by_key(&id, |stream| stream.id).ok()
    }

    pub fn open(&self) -> usize {
        self.streams.len()
    }

    pub fn is_open(&self, id: u32) -> bool {
        self.at(id).is_some()
    }

    /// Whether the client may not have heard yet that we closed this stream.
    pub fn was_cut(&self, id: u32) -> bool {
        self.cut.contains(&id)
    }

    /// Bytes that wait to be sent.
    pub fn waiting(&self) -> usize {
        self.out.len() - self.written
    }

    pub fn unsent(&self) -> &[u8] {
        &self.out[self.written..]
    }

    /// So much of it was sent. While the client takes less than the streams write there is always a rest: what is gone
    /// must not stay in front of it for ever.
    pub fn sent(&mut self, bytes: usize) {
        self.written += bytes;
        if self.waiting() == 0 || self.written >= ROOM {
            self.out.drain(..self.written);
            self.written = 0;
        }
    }

    /// Keeps no room for the next answer.
    pub fn tidy(&mut self) {
        self.out = Vec::new();
        self.streams = Vec::new();
    }

    /// The connection's task, to be woken when there is something to send.
    pub fn listen(&mut self, cx: &Context<'_>) {
        match &mut self.task {
            Some(task) => task.clone_from(cx.waker()),
            task => *task = Some(cx.waker().clone()),
        }
    }

    pub fn wake(&self) {
        if let Some(task) = &self.task {
            task.wake_by_ref();
        }
    }

    /// How much the stream at `at` may send now.
    pub fn room(&self, at: usize) -> usize {
        let stream = &self.streams[at];
        let turn = stream.turn || (self.turns.is_empty() && self.given == 0);
        if !turn || self.waiting() >= ROOM {
            return 0;
        }
        let window = stream.window.min(self.window).max(0) as usize;
        window.min(self.largest).min(LARGEST)
    }

    /// Lets those go on that waited for room, as many as there is room for.
    pub fn give_turns(&mut self) {
        if self.window <= 0 || self.turns.is_empty() {
            return;
        }
        let room = ROOM.saturating_sub(self.waiting()).min(self.window as usize);
        let frames = room.div_ceil(LARGEST);
        while self.given < frames {
            let Some((id, waker)) = self.turns.pop_front() else { return };
            if let Some(at) = self.at(id) {
                self.streams[at].turn = true;
                self.given += 1;
                waker.wake();
            }
        }
    }

    /// Whether the stream at `at` had a turn; it has none any more.
    pub fn end_turn(&mut self, at: usize) -> bool {
        let had = std::mem::take(&mut self.streams[at].turn);
        self.given -= usize::from(had);
        had
    }

    /// Makes several frames of the block of fields that begins at `begin` and is too large for one.
    pub fn split(&mut self, begin: usize, stream: u32, flags: u8) {
        let block = self.out.split_off(begin).split_off(frame::HEAD);
        let mut pieces = block.chunks(self.largest).peekable();
        let mut head = frame::Head { length: 0, kind: kind::HEADERS, flags, stream };
        while let Some(piece) = pieces.next() {
            head.length = piece.len();
            if pieces.peek().is_none() {
                head.flags |= flag::END_HEADERS;
            }
            head.write(&mut self.out);
            self.out.extend_from_slice(piece);
            (head.kind, head.flags) = (kind::CONTINUATION, 0);
        }
    }

    /// Opens a stream. `left` is how long its body will be, if it has one and says so.
    pub fn begin(&mut self, id: u32, ended: bool, left: Option<u64>) {
        let upload = (!ended).then(|| {
            Box::new(Upload {
                data: BytesMut::new(),
                trailers: None,
                receivable: STREAM_WINDOW.into(),
                used: 0,
                left,
                reader: None,
                unread: false,
            })
        });
        self.streams.push(Stream {
            id,
            task: None,
            window: self.first_window,
            sender: None,
            turn: false,
            begun: false,
            answered: false,
            upload,
            ended,
        });
    }

    /// `task` answers the stream that was opened last.
    pub fn answers(&mut self, task: JoinHandle<()>) {
        if let Some(stream) = self.streams.last_mut() {
            stream.task = Some(task);
        }
    }

    /// Takes a frame of a body: `framed` bytes on the wire, of which `data` is not padding.
    pub fn receive(&mut self, id: u32, data: &[u8], framed: u32, ends: bool) -> Result<(), Fault> {
        self.receivable -= i64::from(framed);
        if self.receivable < 0 {
            return Err(Fault::Connection(Code::FlowControl));
        }
        let taken = self.take(id, data, framed, ends);
        // What nobody will read is used already.
        self.give_back(taken.map_or(framed, |taken| framed - taken));
        taken.map(|_| ())
    }

    /// Gives `data` to the stream's reader; how many bytes that will use later.
    fn take(&mut self, id: u32, data: &[u8], framed: u32, ends: bool) -> Result<u32, Fault> {
        let fault = |code| Fault::Stream(id, code);
        let Some(at) = self.at(id) else {
            return if self.was_cut(id) { Ok(0) } else { Err(fault(Code::StreamClosed)) };
        };
        let Stream { upload, ended, .. } = &mut self.streams[at];
        let Some(upload) = upload.as_mut().filter(|_| !*ended) else {
            return Err(fault(Code::StreamClosed));
        };
        upload.receivable -= i64::from(framed);
        if upload.receivable < 0 {
            return Err(fault(Code::FlowControl));
        }
        if let Some(left) = &mut upload.left {
            // Not as long as it said (RFC 9113, 8.1.1).
            *left = left.checked_sub(data.len() as u64).ok_or(fault(Code::Protocol))?;
            if ends && *left > 0 {
                return Err(fault(Code::Protocol));
            }
        }
        *ended = ends;
        if let Some(reader) = upload.reader.take() {
            reader.wake();
        }
        let length = data.len() as u32;
        upload.used += framed - length;
        if upload.unread || data.is_empty() {
            return Ok(0);
        }
        upload.data.extend_from_slice(data);
        Ok(length)
    }

    /// Whether the client sent all of its request.
    pub fn has_ended(&self, id: u32) -> bool {
        self.at(id).is_some_and(|at| self.streams[at].ended)
    }

    /// Takes what follows a body.
    pub fn trailers(&mut self, id: u32, trailers: HeaderMap) -> Result<(), Fault> {
        let Some(at) = self.at(id) else { return Ok(()) };
        let stream = &mut self.streams[at];
        stream.ended = true;
        let Some(upload) = &mut stream.upload else { return Ok(()) };
        if upload.left.is_some_and(|left| left > 0) {
            return Err(Fault::Stream(id, Code::Protocol));
        }
        upload.trailers = (!trailers.is_empty()).then_some(trailers);
        if let Some(reader) = upload.reader.take() {
            reader.wake();
        }
        Ok(())
    }

    /// Lets the client send as many bytes more, on the connection.
    pub fn give_back(&mut self, bytes: u32) {
        self.used += bytes;
        if self.used >= WINDOW / GIVE_BACK {
            frame::window_update(0, self.used, &mut self.out);
            self.receivable += i64::from(std::mem::take(&mut self.used));
        }
    }

    /// The client takes `more` bytes, of a stream or (0) all together.
    pub fn widen(&mut self, id: u32, more: u32) -> Result<(), Fault> {
        let grown =
            |window: i64| Some(window + i64::from(more)).filter(|window| *window <= LARGEST_WINDOW);
        if id == 0 {
            self.window = grown(self.window).ok_or(Fault::Connection(Code::FlowControl))?;
            return Ok(());
        }
        let Some(at) = self.at(id) else { return Ok(()) };
        let stream = &mut self.streams[at];
        stream.window = grown(stream.window).ok_or(Fault::Stream(id, Code::FlowControl))?;
        stream.wake_sender();
        Ok(())
    }

    /// The client takes `window` bytes on each stream that it has not widened.
    pub fn resize_windows(&mut self, window: i64) -> Result<(), Fault> {
        let by = window - self.first_window;
        self.first_window = window;
        for stream in &mut self.streams {
            stream.window += by;
            if stream.window > LARGEST_WINDOW {
                return Err(Fault::Connection(Code::FlowControl));
            }
            stream.wake_sender();
        }
        Ok(())
    }

    pub fn resize_frames(&mut self, largest: usize) {
        self.largest = largest;
    }

    /// Takes a frame of a body that nobody will answer.
    pub fn ignore(&mut self, framed: u32) -> Result<(), Fault> {
        self.receivable -= i64::from(framed);
        if self.receivable < 0 {
            return Err(Fault::Connection(Code::FlowControl));
        }
        self.give_back(framed);
        Ok(())
    }

    /// The client took its request back.
    pub fn taken_back(&mut self, id: u32) -> Result<(), Code> {
        let Some(at) = self.at(id) else { return Ok(()) };
        let begun = self.streams[at].begun;
        self.remove(at);
        if begun { Ok(()) } else { self.try_patience() }
    }

    /// Ends a stream with a fault of the client's.
    pub fn reset(&mut self, id: u32, code: Code) -> Result<(), Code> {
        match self.at(id) {
            Some(at) => self.cut_off(at, code),
            None => {
                frame::reset(id, code, &mut self.out);
                self.remember_cut(id);
            }
        }
        self.try_patience()
    }

    /// One that has the work of a request begun and does not wait for its answer, again and again, is sent away
    /// (CVE-2023-44487), whether it takes the request back or has us do it (CVE-2025-8671).
    fn try_patience(&mut self) -> Result<(), Code> {
        self.patience = self.patience.saturating_sub(1);
        if self.patience == 0 { Err(Code::EnhanceYourCalm) } else { Ok(()) }
    }

    /// An answer was waited for.
    pub fn add_patience(&mut self) {
        self.patience = PATIENCE.min(self.patience + 1);
    }

    /// Enough time went by.
    pub fn restore_patience(&mut self) {
        self.patience = PATIENCE;
    }

    /// Closes a stream before the client has.
    pub fn cut_off(&mut self, at: usize, code: Code) {
        let id = self.streams[at].id;
        frame::reset(id, code, &mut self.out);
        self.remember_cut(id);
        self.remove(at);
    }

    fn remember_cut(&mut self, id: u32) {
        if self.cut.len() >= CUT {
            self.cut.pop_front();
        }
        self.cut.push_back(id);
    }

    pub fn remove(&mut self, at: usize) {
        // It is for somebody else.
        if self.end_turn(at) {
            self.wake();
        }
        let mut stream = self.streams.remove(at);
        self.turns.retain(|(waiting, _)| *waiting != stream.id);
        if let Some(task) = stream.task.take() {
            task.abort();
        }
        if let Some(mut upload) = stream.upload.take() {
            if let Some(reader) = upload.reader.take() {
                reader.wake();
            }
            self.give_back(upload.data.len() as u32);
        }
    }

    /// Ends all streams, without a word.
    pub fn remove_all(&mut self) {
        while !self.streams.is_empty() {
            self.remove(self.streams.len() - 1);
        }
    }
}

impl Upload {
    /// Gives back to the client what it may send anew, if that is worth a frame.
    pub fn give_back(&mut self, id: u32, out: &mut Vec<u8>) -> bool {
        let worth = self.used >= STREAM_WINDOW / GIVE_BACK;
        if worth {
            frame::window_update(id, self.used, out);
            self.receivable += i64::from(std::mem::take(&mut self.used));
        }
        worth
    }
}

impl Stream {
    fn wake_sender(&mut self) {
        if self.window > 0
            && let Some(sender) = self.sender.take()
        {
            sender.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_sent_takes_no_room_though_there_is_always_more() {
        let mut state = State::default();
        let frame = [7; LARGEST];
        for _ in 0..1000 {
            while state.waiting() < ROOM {
                state.out.extend_from_slice(&frame);
            }
            state.sent(LARGEST / 2);
            assert_eq!(state.unsent()[0], 7);
        }
        assert!(state.out.capacity() < 8 * ROOM, "{} bytes", state.out.capacity());
    }

    #[test]
    fn a_stream_that_ends_leaves_its_place_and_its_turn_to_others() {
        let mut state = State::default();
        for id in [1, 3, 5] {
            state.begin(id, true, None);
            state.turns.push_back((id, Waker::noop().clone()));
        }
        state.remove(0);
        assert_eq!(state.turns.len(), 2);
        state.window = 1;
        state.give_turns();
        let has_turn = |state: &State, id| state.at(id).is_some_and(|at| state.streams[at].turn);
        assert!(has_turn(&state, 3) && !has_turn(&state, 5), "one frame is one turn");
        state.remove(0);
        state.give_turns();
        assert!(has_turn(&state, 5) && state.turns.is_empty());
    }
    #[test]
    fn whoever_had_its_turn_waits_until_the_others_had_theirs() {
        let mut state = State { window: LARGEST_WINDOW, ..State::default() };
        for id in [1, 3, 5] {
            state.begin(id, true, None);
            state.turns.push_back((id, Waker::noop().clone()));
        }
        state.give_turns();
        for at in 0..3 {
            assert!(state.room(at) > 0);
            state.end_turn(at);
            assert_eq!(state.room(at) > 0, at == 2, "stream {at} goes on");
        }
    }
}
