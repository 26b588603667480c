//! What becomes of each frame that a client sends (RFC 9113, 5 and 6).

use std::rc::Rc;
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};

use super::answer::answer;
use super::frame::{self, Code, Head, LARGEST, LARGEST_WINDOW, flag, kind, setting};
use super::head::{Asked, Reader, Scratch, is_name, is_value};
use super::hpack::Decoder;
use super::link::Link;
use super::streams::{Fault, State};
use super::{BLOCK, GOODBYE, STREAMS};
use crate::strict::{MAX_FIELDS, MAX_HEAD};

/// What a connection knows of its client besides the streams.
#[derive(Default)]
pub struct Receiver {
    decoder: Decoder,
    scratch: Scratch,
    /// The client said how it wants to be spoken to.
    settled: bool,
    block: Option<Block>,
    /// No stream after this one is answered.
    pub last: Option<u32>,
    /// The client heard that it should go.
    pub heard_goodbye: bool,
    /// Frames that asked for nothing, since the last one that did and since this time.
    idle_frames: u32,
    counted_since: u64,
}

/// Fields of which more are to come.
struct Block {
    stream: u32,
    ends: bool,
    bytes: Vec<u8>,
}

/// So many frames that ask for nothing are no accident (CVE-2019-9512, 9515 and 9518).
const IDLE_FRAMES: u32 = 10_000;
const IDLE_TIME: Duration = Duration::from_secs(60);

impl Receiver {
    /// Whether a block of fields began and has not ended.
    pub fn in_block(&self) -> bool {
        self.block.is_some()
    }

    /// Keeps no room for the next request.
    pub fn tidy(&mut self) {
        self.scratch = Scratch::default();
    }

    /// Forgets what was long ago: over time there may be many frames that asked for nothing, and requests that were given
    /// up.
    pub fn forget(&mut self, now: u64, state: &mut State) {
        if now >= self.counted_since + IDLE_TIME.as_millis() as u64 {
            (self.counted_since, self.idle_frames) = (now, 0);
            state.restore_patience();
        }
    }

    /// Takes one frame. A fault of a stream is dealt with; that of the connection comes back.
    pub fn take(&mut self, link: &Rc<Link>, head: Head, content: &[u8]) -> Result<(), Code> {
        match self.handle(link, head, content) {
            Ok(()) => Ok(()),
            Err(Fault::Stream(id, code)) => link.state.borrow_mut().reset(id, code),
            Err(Fault::Connection(code)) => Err(code),
        }
    }

    fn handle(&mut self, link: &Rc<Link>, head: Head, content: &[u8]) -> Result<(), Fault> {
        if self.is_misplaced(head) {
            return Err(Fault::Connection(Code::Protocol));
        }
        match head.kind {
            kind::DATA => self.data(&mut link.state.borrow_mut(), head, content),
            kind::HEADERS => self.headers(link, head, content),
            kind::CONTINUATION => self.continuation(link, head, content),
            kind::PRIORITY => self.priority(head, content),
            kind::RST_STREAM => {
                number(content)?;
                let mut state = link.state.borrow_mut();
                self.not_idle(&state, head.stream)?;
                state.taken_back(head.stream).map_err(Fault::Connection)
            }
            kind::SETTINGS => self.settings(&mut link.state.borrow_mut(), head, content),
            kind::PUSH_PROMISE => Err(Fault::Connection(Code::Protocol)),
            kind::PING => self.ping(&mut link.state.borrow_mut(), head, content),
            kind::GOAWAY if content.len() < 8 => Err(Fault::Connection(Code::FrameSize)),
            kind::WINDOW_UPDATE => {
                self.window_update(&mut link.state.borrow_mut(), head.stream, content)
            }
            // A client that says goodbye goes when it has its answers. Whatever else there may be is for others
            // (RFC 9113, 5.5).
            _ => self.idle(true),
        }
    }

    /// Whether a frame of this kind cannot come now, or not there.
    fn is_misplaced(&self, head: Head) -> bool {
        let Head { kind, flags, stream, .. } = head;
        let expected = match &self.block {
            Some(block) => kind == kind::CONTINUATION && block.stream == stream,
            None => kind != kind::CONTINUATION,
        };
        let greets = kind == kind::SETTINGS && flags & flag::ACK == 0;
        let placed = match kind {
            kind::SETTINGS | kind::PING | kind::GOAWAY => stream == 0,
            kind::WINDOW_UPDATE => true,
            kind::DATA..=kind::CONTINUATION => stream != 0,
            _ => true,
        };
        !expected || !(self.settled || greets) || !placed
    }

    fn data(&mut self, state: &mut State, head: Head, content: &[u8]) -> Result<(), Fault> {
        let data = frame::unpadded(head.flags, content).map_err(Fault::Connection)?;
        self.idle(data.is_empty() && !head.ends())?;
        self.not_idle(state, head.stream)?;
        if self.is_ignored(head.stream) {
            return state.ignore(content.len() as u32);
        }
        state.receive(head.stream, data, content.len() as u32, head.ends())
    }

    fn headers(&mut self, link: &Rc<Link>, head: Head, content: &[u8]) -> Result<(), Fault> {
        let Head { flags, stream, .. } = head;
        let block = frame::unpadded(flags, content).map_err(Fault::Connection)?;
        let block = without_priority(flags, stream, block)?;
        if flags & flag::END_HEADERS == 0 {
            self.block = Some(Block { stream, ends: head.ends(), bytes: block.to_vec() });
            return Ok(());
        }
        self.fields(link, stream, head.ends(), block)
    }

    fn continuation(&mut self, link: &Rc<Link>, head: Head, content: &[u8]) -> Result<(), Fault> {
        self.idle(content.is_empty())?;
        let Some(mut block) = self.block.take() else { return Ok(()) };
        if block.bytes.len() + content.len() > BLOCK {
            return Err(Fault::Connection(Code::EnhanceYourCalm));
        }
        block.bytes.extend_from_slice(content);
        if head.flags & flag::END_HEADERS == 0 {
            self.block = Some(block);
            return Ok(());
        }
        self.fields(link, block.stream, block.ends, &block.bytes)
    }

    fn priority(&mut self, head: Head, content: &[u8]) -> Result<(), Fault> {
        self.idle(true)?;
        let fault = |code| Fault::Stream(head.stream, code);
        let priority: [u8; 5] = content.try_into().map_err(|_| fault(Code::FrameSize))?;
        match depends_on(&priority) == head.stream {
            true => Err(fault(Code::Protocol)),
            false => Ok(()),
        }
    }

    fn window_update(&self, state: &mut State, stream: u32, content: &[u8]) -> Result<(), Fault> {
        let more = number(content)? & (u32::MAX >> 1);
        self.not_idle(state, stream)?;
        match (stream, more) {
            (0, 0) => Err(Fault::Connection(Code::Protocol)),
            (_, 0) => Err(Fault::Stream(stream, Code::Protocol)),
            _ => state.widen(stream, more),
        }
    }

    /// A stream that the client never opened has nothing to say but its head.
    fn not_idle(&self, state: &State, stream: u32) -> Result<(), Fault> {
        let idle = stream > state.last && !self.is_ignored(stream);
        if idle { Err(Fault::Connection(Code::Protocol)) } else { Ok(()) }
    }

    /// A stream that the client opened before it heard that it would not be answered.
    fn is_ignored(&self, stream: u32) -> bool {
        self.last.is_some_and(|last| stream > last)
    }

    fn idle(&mut self, idle: bool) -> Result<(), Fault> {
        self.idle_frames += u32::from(idle);
        match self.idle_frames {
            IDLE_FRAMES.. => Err(Fault::Connection(Code::EnhanceYourCalm)),
            _ => Ok(()),
        }
    }

    /// A whole block of fields: the head of a request, or what follows its body.
    fn fields(&mut self, link: &Rc<Link>, id: u32, ends: bool, block: &[u8]) -> Result<(), Fault> {
        let unreadable = |_| Fault::Connection(Code::Compression);
        let (known, open, ended, cut) = {
            let state = link.state.borrow();
            (id <= state.last, state.is_open(id), state.has_ended(id), state.was_cut(id))
        };
        if ended {
            self.decoder.decode(block, |_, _| {}).map_err(unreadable)?;
            return Err(Fault::Stream(id, Code::StreamClosed));
        }
        if open {
            let mut trailers = Trailers::default();
            self.decoder
                .decode(block, |name, value| trailers.add(name, value))
                .map_err(unreadable)?;
            let fault = Fault::Stream(id, Code::Protocol);
            let trailers = trailers.finish().filter(|_| ends).ok_or(fault)?;
            return link.state.borrow_mut().trailers(id, trailers);
        }
        let unanswered = cut || self.is_ignored(id);
        if unanswered || known || id.is_multiple_of(2) {
            self.decoder.decode(block, |_, _| {}).map_err(unreadable)?;
            return match (unanswered, known) {
                (true, _) => Ok(()),
                (false, true) => Err(Fault::Connection(Code::StreamClosed)),
                (false, false) => Err(Fault::Connection(Code::Protocol)),
            };
        }
        let text = link.service.worker.fast.buffers.head();
        let mut reader = Reader::new(&mut self.scratch, text);
        self.decoder.decode(block, |name, value| reader.field(name, value)).map_err(unreadable)?;
        let asked = reader.finish(ends);
        let mut state = link.state.borrow_mut();
        state.last = id;
        if state.open() >= STREAMS as usize {
            return Err(Fault::Stream(id, Code::RefusedStream));
        }
        let asked: Asked = asked.map_err(|_| Fault::Stream(id, Code::Protocol))?;
        self.idle_frames = 0;
        state.begin(id, ends, asked.length);
        state.answers(tokio::task::spawn_local(answer(link.clone(), id, asked)));
        Ok(())
    }

    fn settings(&mut self, state: &mut State, head: Head, content: &[u8]) -> Result<(), Fault> {
        let heard = head.flags & flag::ACK != 0;
        if !content.len().is_multiple_of(6) || (heard && !content.is_empty()) {
            return Err(Fault::Connection(Code::FrameSize));
        }
        self.idle(true)?;
        if heard {
            return Ok(());
        }
        self.settled = true;
        for entry in content.chunks_exact(6) {
            let name = u16::from_be_bytes([entry[0], entry[1]]);
            let value = u32::from_be_bytes([entry[2], entry[3], entry[4], entry[5]]);
            let size = value as usize;
            match name {
                setting::HEADER_TABLE_SIZE => state.encoder.resize(size),
                setting::ENABLE_PUSH if value > 1 => return Err(Fault::Connection(Code::Protocol)),
                setting::INITIAL_WINDOW_SIZE if i64::from(value) > LARGEST_WINDOW => {
                    return Err(Fault::Connection(Code::FlowControl));
                }
                setting::INITIAL_WINDOW_SIZE => state.resize_windows(value.into())?,
                setting::MAX_FRAME_SIZE if !(LARGEST..1 << 24).contains(&size) => {
                    return Err(Fault::Connection(Code::Protocol));
                }
                setting::MAX_FRAME_SIZE => state.resize_frames(size),
                _ => {}
            }
        }
        frame::settings_heard(&mut state.out);
        Ok(())
    }

    fn ping(&mut self, state: &mut State, head: Head, content: &[u8]) -> Result<(), Fault> {
        let content = content.try_into().map_err(|_| Fault::Connection(Code::FrameSize))?;
        self.idle(true)?;
        if head.flags & flag::ACK == 0 {
            frame::ping(content, true, &mut state.out);
        } else if content == GOODBYE {
            self.heard_goodbye = true;
        }
        Ok(())
    }
}

/// The fields behind a body.
#[derive(Default)]
struct Trailers {
    fields: HeaderMap,
    size: usize,
    malformed: bool,
}

impl Trailers {
    fn add(&mut self, name: &[u8], value: &[u8]) {
        self.size += name.len() + value.len();
        // More than a head may have is not kept.
        if self.malformed || self.size > MAX_HEAD || self.fields.len() >= MAX_FIELDS {
            return;
        }
        if !is_name(name) || !is_value(value) {
            self.malformed = true;
            return;
        }
        match (HeaderName::from_bytes(name), HeaderValue::from_bytes(value)) {
            (Ok(name), Ok(value)) => {
                self.fields.append(name, value);
            }
            _ => self.malformed = true,
        }
    }

    fn finish(self) -> Option<HeaderMap> {
        (!self.malformed).then_some(self.fields)
    }
}

/// What stands behind the priority of a HEADERS frame. Priorities are not used (RFC 9113, 5.3.2), but one that
/// depends on itself is still a mistake.
fn without_priority(flags: u8, stream: u32, block: &[u8]) -> Result<&[u8], Fault> {
    if flags & flag::PRIORITY == 0 {
        return Ok(block);
    }
    let (priority, block) =
        block.split_first_chunk::<5>().ok_or(Fault::Connection(Code::FrameSize))?;
    match depends_on(priority) == stream {
        true => Err(Fault::Connection(Code::Protocol)),
        false => Ok(block),
    }
}

fn depends_on(priority: &[u8; 5]) -> u32 {
    let [a, b, c, d, _] = *priority;
    u32::from_be_bytes([a, b, c, d]) & (u32::MAX >> 1)
}

fn number(content: &[u8]) -> Result<u32, Fault> {
    let bytes = content.try_into().map_err(|_| Fault::Connection(Code::FrameSize))?;
    Ok(u32::from_be_bytes(bytes))
}
