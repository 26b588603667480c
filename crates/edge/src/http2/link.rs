//! What the task of a connection and those of its streams share: the streams, the windows, and what is to be sent.
//!
//! A stream's task writes its frames behind those that wait to be sent, and the connection's task sends them. No
//! stream may write more than its windows and the room allow; those that have to wait take turns, a frame each.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http::HeaderMap;
use tokio::task::JoinHandle;

use super::frame::{self, Code, LARGEST, LARGEST_WINDOW, flag, kind};
use super::hpack::Encoder;
use super::{FIRST_WINDOW, ROOM, STREAM_WINDOW, WINDOW};
use crate::proxy::Connection;

/// One connection, as its streams see it.
pub struct Link {
    pub service: Rc<Connection>,
    pub state: RefCell<State>,
}

pub struct State {
    /// Frames to be sent; the first `written` bytes are.
    pub out: Vec<u8>,
    pub written: usize,
    pub encoder: Encoder,
    /// In the order of their numbers.
    streams: Vec<Stream>,
    /// The highest number of a stream that the client opened.
    pub last: u32,
    /// Streams that we closed before the client did: what it had sent before it heard of that is no fault.
    cut: VecDeque<u32>,
    /// What the client takes, on the connection and on a new stream, and in a frame.
    window: i64,
    first_window: i64,
    largest: usize,
    /// What the client may still send, and what of it was used and not yet given back.
    receivable: i64,
    used: u32,
    /// Streams that have something to send and wait for their turn.
    turns: VecDeque<(u32, Waker)>,
    task: Option<Waker>,
    /// How many more of its requests the client may give up before one was answered.
    patience: u32,
}

/// One stream whose request is not answered to its end.
struct Stream {
    id: u32,
    task: Option<JoinHandle<()>>,
    window: i64,
    /// Waits for the window to open.
    sender: Option<Waker>,
    /// It may send a frame before those that wait.
    turn: bool,
    /// The end was sent.
    answered: bool,
    /// `None` once the whole request came.
    upload: Option<Box<Upload>>,
    /// The end of the request came.
    ended: bool,
}

/// The body of a request on its way.
struct Upload {
    pieces: VecDeque<Bytes>,
    trailers: Option<HeaderMap>,
    /// What the client may still send, and what of it was used and not yet given back.
    receivable: i64,
    used: u32,
    /// How much must still come, if that is known.
    left: Option<u64>,
    reader: Option<Waker>,
    /// Nobody reads it any more.
    unread: bool,
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

impl Link {
    pub fn new(service: Rc<Connection>) -> Self {
        let state = State {
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
            task: None,
            patience: PATIENCE,
        };
        Self { service, state: RefCell::new(state) }
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
        state.streams[at].answered |= ends;
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
        if length == 0 && !ends {
            state.out.truncate(begin);
            return 0;
        }
        state.window -= length as i64;
        let stream = &mut state.streams[at];
        stream.window -= length as i64;
        stream.turn = false;
        stream.answered |= ends;
        state.wake();
        length
    }

    /// Resolves when the stream may send some of its answer's body.
    pub fn poll_room(&self, id: u32, cx: &Context<'_>) -> Poll<()> {
        let mut state = self.state.borrow_mut();
        let Some(at) = state.at(id) else { return Poll::Pending };
        if state.room(at) > 0 {
            return Poll::Ready(());
        }
        let stream = &mut state.streams[at];
        if stream.window <= 0 {
            stream.sender = Some(cx.waker().clone());
            if std::mem::take(&mut stream.turn) {
                // For somebody else.
                state.wake();
            }
            return Poll::Pending;
        }
        stream.turn = false;
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
        if let Some(piece) = upload.pieces.pop_front() {
            let length = piece.len() as u32;
            upload.used += length;
            if !stream.ended && upload.used >= STREAM_WINDOW / GIVE_BACK {
                frame::window_update(id, upload.used, &mut state.out);
                upload.receivable += i64::from(std::mem::take(&mut upload.used));
            }
            state.give_back(length);
            state.wake();
            return Poll::Ready(Some(Ok(Piece::Data(piece))));
        }
        if !stream.ended {
            upload.reader = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let trailers = upload.trailers.take();
        stream.upload = None;
        Poll::Ready(trailers.map(|trailers| Ok(Piece::Trailers(trailers))))
    }

    /// Whether the body came to its end, and all of it was read. Never of a request that was taken back: what was
    /// read of it must not be taken for the whole.
    pub fn is_read(&self, id: u32) -> bool {
        let state = self.state.borrow();
        let Some(at) = state.at(id) else { return false };
        let Stream { upload, ended, .. } = &state.streams[at];
        let more = |upload: &Upload| !upload.pieces.is_empty() || upload.trailers.is_some();
        *ended && !upload.as_deref().is_some_and(more)
    }

    /// Nobody will read the body any more.
    pub fn leave_unread(&self, id: u32) {
        let mut state = self.state.borrow_mut();
        let Some(at) = state.at(id) else { return };
        let Some(upload) = &mut state.streams[at].upload else { return };
        upload.unread = true;
        let held = upload.pieces.drain(..).map(|piece| piece.len() as u32).sum();
        state.give_back(held);
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
            state.patience = PATIENCE.min(state.patience + 1);
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

/// A piece of a request's body.
pub enum Piece {
    Data(Bytes),
    Trailers(HeaderMap),
}

/// The client took the request back.
#[derive(Debug)]
pub struct Gone;

impl State {
    fn at(&self, id: u32) -> Option<usize> {
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

    fn wake(&self) {
        if let Some(task) = &self.task {
            task.wake_by_ref();
        }
    }

    /// How much the stream at `at` may send now.
    fn room(&self, at: usize) -> usize {
        let stream = &self.streams[at];
        let turn = stream.turn || self.turns.is_empty();
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
        let given = self.streams.iter().filter(|stream| stream.turn).count();
        let room = ROOM.saturating_sub(self.waiting()).min(self.window as usize);
        let frames = room.div_ceil(LARGEST);
        for _ in given..frames {
            let Some((id, waker)) = self.turns.pop_front() else { return };
            if let Some(at) = self.at(id) {
                self.streams[at].turn = true;
                waker.wake();
            }
        }
    }

    /// Makes several frames of the block of fields that begins at `begin` and is too large for one.
    fn split(&mut self, begin: usize, stream: u32, flags: u8) {
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
                pieces: VecDeque::new(),
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
        upload.pieces.push_back(Bytes::copy_from_slice(data));
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
    fn give_back(&mut self, bytes: u32) {
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

    /// The client took its request back.
    pub fn taken_back(&mut self, id: u32) -> Result<(), Fault> {
        let Some(at) = self.at(id) else { return Ok(()) };
        self.remove(at);
        self.try_patience()
    }

    /// Ends a stream with a fault of the client's.
    pub fn reset(&mut self, id: u32, code: Code) -> Result<(), Fault> {
        match self.at(id) {
            Some(at) => self.cut_off(at, code),
            None => frame::reset(id, code, &mut self.out),
        }
        self.try_patience()
    }

    /// One that has the work of a request begun and does not wait for its answer, again and again, is sent away
    /// (CVE-2023-44487), whether it takes the request back or has us do it (CVE-2025-8671).
    fn try_patience(&mut self) -> Result<(), Fault> {
        self.patience = self.patience.saturating_sub(1);
        if self.patience == 0 { Err(Fault::Connection(Code::EnhanceYourCalm)) } else { Ok(()) }
    }

    /// Closes a stream before the client has.
    fn cut_off(&mut self, at: usize, code: Code) {
        let id = self.streams[at].id;
        frame::reset(id, code, &mut self.out);
        if self.cut.len() >= CUT {
            self.cut.pop_front();
        }
        self.cut.push_back(id);
        self.remove(at);
    }

    fn remove(&mut self, at: usize) {
        let mut stream = self.streams.remove(at);
        if let Some(task) = stream.task.take() {
            task.abort();
        }
        if let Some(mut upload) = stream.upload.take() {
            if let Some(reader) = upload.reader.take() {
                reader.wake();
            }
            self.give_back(upload.pieces.iter().map(|piece| piece.len() as u32).sum());
        }
        if stream.turn {
            self.wake();
        }
    }

    /// Ends all streams, without a word.
    pub fn remove_all(&mut self) {
        while !self.streams.is_empty() {
            self.remove(self.streams.len() - 1);
        }
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
