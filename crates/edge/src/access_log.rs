//! The access log: one JSON object per request and line, on standard output, written by a thread of its own.
//!
//! Traffic never waits for whoever reads it: workers put lines into a bounded queue, and what does not fit is
//! counted and left out. The query is left out on purpose: tokens, searches and names of people stand there,
//! and a log is read by more people than an answer.

use std::io::{self, Write};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, SystemTime};

use domain::route::{LogStatus, Reason};

use crate::live::Route;

/// Where lines go to. Shared by all workers.
pub struct AccessLog {
    queue: SyncSender<Message>,
    counts: Arc<Counts>,
    /// Says that everything before [`AccessLog::close`] is written.
    closed: Mutex<Receiver<()>>,
}

#[derive(Default)]
struct Counts {
    written: AtomicU64,
    dropped: AtomicU64,
}

/// Lines that may wait. One takes half a kilobyte or so.
const QUEUE: usize = 8 * 1024;
/// Bytes that are written at once, at most.
const BATCH: usize = 64 * 1024;
/// How long a stop waits for the reader of the log.
const CLOSE: Duration = Duration::from_secs(2);

enum Message {
    Ended(Box<Ended>),
    Close,
}

/// What a request said of itself, as bytes of whatever kind. Long ones are cut.
struct Said {
    text: Vec<u8>,
    ends: [u16; FIELDS.len()],
    /// `HTTP/1.1` and its like.
    protocol: &'static str,
}

/// The parts of a request that the log tells, as they came.
#[derive(Clone, Copy, Default)]
pub struct Parts<'a> {
    pub request_id: &'a [u8],
    /// The whole `traceparent`; the log tells the trace id in it.
    pub traceparent: &'a [u8],
    pub client: &'a [u8],
    pub method: &'a [u8],
    pub host: &'a [u8],
    /// Its query, if it has one, is cut off.
    pub path: &'a [u8],
    pub user_agent: &'a [u8],
}

const FIELDS: [(&str, usize); 7] = [
    ("request_id", 128),
    ("trace_id", 32),
    ("client", 64),
    ("method", 32),
    ("host", 255),
    ("path", 2048),
    ("user_agent", 256),
];

/// One request that will be written when it ends.
pub struct Line {
    log: Arc<AccessLog>,
    said: Said,
    pub upstream: Option<SocketAddr>,
    pub connect: Option<Duration>,
}

struct Ended {
    said: Said,
    upstream: Option<SocketAddr>,
    connect: Option<Duration>,
    route: Option<Arc<Route>>,
    status: u16,
    reason: Option<Reason>,
    received: u64,
    sent: u64,
    took: Duration,
    at: SystemTime,
}

impl AccessLog {
    /// Starts the thread that writes to `out`.
    pub fn start(out: impl Write + Send + 'static) -> io::Result<Arc<Self>> {
        let (queue, lines) = sync_channel(QUEUE);
        let (closing, closed) = sync_channel(1);
        let counts = Arc::new(Counts::default());
        let writer = Writer { out, lines, counts: counts.clone(), broken: false };
        thread::Builder::new().name("edge-log".into()).spawn(move || {
            writer.run();
            // A stop that did not wait so long does not hear it.
            let _ = closing.try_send(());
        })?;
        Ok(Arc::new(Self { queue, counts, closed: Mutex::new(closed) }))
    }

    /// Writes what waits, as far as its reader takes it within two seconds.
    pub fn close(&self) {
        let closed = self.closed.lock().unwrap_or_else(PoisonError::into_inner);
        // A full queue is one whose reader hangs: nothing to wait for.
        if self.queue.try_send(Message::Close).is_ok() && closed.recv_timeout(CLOSE).is_err() {
            tracing::warn!("the reader of the access log hangs: its last lines are lost");
        }
    }

    pub fn status(&self) -> LogStatus {
        let counts = &self.counts;
        LogStatus { written: counts.written.load(Relaxed), dropped: counts.dropped.load(Relaxed) }
    }
}

impl Said {
    fn new(protocol: &'static str, parts: Parts<'_>) -> Self {
        let path = parts.path.split(|byte| *byte == b'?').next().unwrap_or_default();
        let trace = parts.traceparent.split(|byte| *byte == b'-').nth(1).unwrap_or_default();
        let Parts { request_id, client, method, host, user_agent, .. } = parts;
        let fields = [request_id, trace, client, method, host, path, user_agent];
        let mut text =
            Vec::with_capacity(fields.iter().map(|field| field.len()).sum::<usize>().min(1024));
        let ends = std::array::from_fn(|at| {
            text.extend_from_slice(&fields[at][..fields[at].len().min(FIELDS[at].1)]);
            text.len() as u16
        });
        Self { text, ends, protocol }
    }

    fn fields(&self) -> impl Iterator<Item = (&'static str, &[u8])> {
        FIELDS.iter().enumerate().map(|(at, (name, _))| {
            let from = if at == 0 { 0 } else { self.ends[at - 1] };
            (*name, &self.text[usize::from(from)..usize::from(self.ends[at])])
        })
    }
}

impl Line {
    pub fn new(log: Arc<AccessLog>, protocol: &'static str, parts: Parts<'_>) -> Self {
        let said = Said::new(protocol, parts);
        Self { log, said, upstream: None, connect: None }
    }

    /// The request is over. Bytes are those of its body and of its answer's.
    pub fn end(
        self,
        route: Option<&Arc<Route>>,
        status: u16,
        reason: Option<Reason>,
        (received, sent): (u64, u64),
        took: Duration,
    ) {
        let Self { log, said, upstream, connect } = self;
        let (route, at) = (route.cloned(), SystemTime::now());
        let ended =
            Ended { said, upstream, connect, route, status, reason, received, sent, took, at };
        if log.queue.try_send(Message::Ended(Box::new(ended))).is_err() {
            log.counts.dropped.fetch_add(1, Relaxed);
        }
    }
}

struct Writer<W> {
    out: W,
    lines: Receiver<Message>,
    counts: Arc<Counts>,
    broken: bool,
}

impl<W: Write> Writer<W> {
    fn run(mut self) {
        let mut batch = Vec::with_capacity(BATCH);
        let mut open = true;
        while open {
            let Ok(first) = self.lines.recv() else { return };
            let mut next = Some(first);
            let mut count = 0;
            while let Some(message) = next {
                match message {
                    Message::Ended(ended) => {
                        ended.write(&mut batch);
                        count += 1;
                    }
                    Message::Close => open = false,
                }
                next = (open && batch.len() < BATCH).then(|| self.lines.try_recv().ok()).flatten();
            }
            self.write(&batch, count);
            batch.clear();
        }
    }

    fn write(&mut self, batch: &[u8], lines: u64) {
        let written = self.out.write_all(batch).and_then(|()| self.out.flush());
        let Err(error) = written else {
            self.counts.written.fetch_add(lines, Relaxed);
            self.broken = false;
            return;
        };
        self.counts.dropped.fetch_add(lines, Relaxed);
        if !std::mem::replace(&mut self.broken, true) {
            tracing::error!(%error, "the access log cannot be written: lines are lost until it can be again");
        }
    }
}

impl Ended {
    fn write(&self, line: &mut Vec<u8>) {
        let begun = self.at.checked_sub(self.took).unwrap_or(self.at);
        let time = jiff::Timestamp::try_from(begun).unwrap_or_default();
        // Writing into memory cannot fail.
        let _ = write!(line, "{{\"time\":\"{time:.3}\"");
        for (name, value) in self.said.fields().filter(|(_, value)| !value.is_empty()) {
            text(line, name, value);
        }
        text(line, "protocol", self.said.protocol.as_bytes());
        let _ = write!(line, ",\"status\":{}", self.status);
        if let Some(reason) = self.reason {
            text(line, "reason", reason.as_str().as_bytes());
        }
        let _ = write!(
            line,
            ",\"bytes_in\":{},\"bytes_out\":{},\"duration_ms\":{:.3}",
            self.received,
            self.sent,
            self.took.as_secs_f64() * 1e3
        );
        if let Some(connect) = self.connect {
            let _ = write!(line, ",\"connect_ms\":{:.3}", connect.as_secs_f64() * 1e3);
        }
        if let Some(upstream) = self.upstream {
            let _ = write!(line, ",\"upstream\":\"{upstream}\"");
        }
        if let Some(route) = &self.route {
            let key = &route.service.key;
            text(line, "environment", key.environment.as_str().as_bytes());
            text(line, "slot", key.slot.as_str().as_bytes());
            text(line, "release", key.release.as_str().as_bytes());
            text(line, "service", key.service.as_str().as_bytes());
            text(line, "route", route.prefix.as_bytes());
        }
        line.extend_from_slice(b"}\n");
    }
}

/// Writes one more member, whatever its bytes are. Every control character is escaped, those beyond ASCII
/// and the ones that turn the direction of writing too: a log is looked at in terminals.
fn text(line: &mut Vec<u8>, name: &str, value: &[u8]) {
    let _ = write!(line, ",\"{name}\":\"");
    for c in String::from_utf8_lossy(value).chars() {
        match c {
            '"' | '\\' => {
                line.extend_from_slice(&[b'\\', c as u8]);
            }
            ' '..='~' => line.push(c as u8),
            c if c.is_control() || is_invisible(c) => {
                let _ = write!(line, "\\u{:04x}", u32::from(c));
            }
            c => line.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    line.push(b'"');
}

fn is_invisible(c: char) -> bool {
    matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Default)]
    struct Out(Arc<Mutex<Vec<u8>>>);

    impl Write for Out {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn line(log: &Arc<AccessLog>, parts: Parts<'_>) {
        let line = Line::new(log.clone(), "HTTP/1.1", parts);
        line.end(None, 404, Some(Reason::UnknownHost), (1, 2), Duration::from_micros(1_500));
    }

    #[test]
    fn no_bytes_of_a_client_can_end_a_line_or_a_string() {
        let (out, every) = (Out::default(), (0..=255).collect::<Vec<u8>>());
        let log = AccessLog::start(out.clone()).unwrap();
        let hostile = [
            &every[..],
            b"\"}\n{\"status\":200",
            "\u{9b}31m\u{202e}\u{2028}\u{feff}".as_bytes(),
            b"\\",
            b"\xf0\x9f",
        ];
        for bytes in hostile {
            let path = [b"/", bytes].concat();
            line(
                &log,
                Parts {
                    host: bytes,
                    path: &path,
                    user_agent: bytes,
                    method: bytes,
                    ..Parts::default()
                },
            );
        }
        log.close();
        let text = String::from_utf8(out.0.lock().unwrap().clone()).unwrap();
        assert_eq!(text.lines().count(), hostile.len());
        for line in text.lines() {
            assert!(line.chars().all(|c| !c.is_control() && !is_invisible(c)), "{line:?}");
            let value: serde_json::Value = serde_json::from_str(line).unwrap();
            assert_eq!((&value["status"], &value["reason"]), (&404.into(), &"unknown_host".into()));
        }
        assert_eq!(log.status(), LogStatus { written: hostile.len() as u64, dropped: 0 });
    }

    #[test]
    fn a_line_tells_the_path_without_its_query_and_cuts_what_is_long() {
        let out = Out::default();
        let log = AccessLog::start(out.clone()).unwrap();
        let (agent, traceparent) =
            ("a".repeat(9000), "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
        line(
            &log,
            Parts {
                path: b"/reset?token=secret",
                user_agent: agent.as_bytes(),
                traceparent: traceparent.as_bytes(),
                ..Parts::default()
            },
        );
        log.close();
        let value: serde_json::Value = serde_json::from_slice(&out.0.lock().unwrap()).unwrap();
        assert_eq!(value["path"], "/reset");
        assert_eq!(value["user_agent"].as_str().unwrap().len(), 256);
        assert_eq!(value["trace_id"], "0af7651916cd43dd8448eb211c80319c");
        assert_eq!((&value["duration_ms"], &value["bytes_out"]), (&1.5.into(), &2.into()));
        assert!(value.get("connect_ms").is_none() && value.get("environment").is_none());
    }

    #[test]
    fn a_reader_that_does_not_read_holds_nobody_up_and_the_lost_lines_are_counted() {
        struct Stuck(Receiver<()>);
        impl Write for Stuck {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                // Until the test ends, which drops the other end.
                let _ = self.0.recv();
                Ok(bytes.len())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let (_holds, held) = sync_channel(1);
        let log = AccessLog::start(Stuck(held)).unwrap();
        for _ in 0..2 * QUEUE {
            line(&log, Parts::default());
        }
        let status = log.status();
        assert!(status.dropped > 0 && status.dropped <= 2 * QUEUE as u64, "{status:?}");
        assert_eq!(status.written, 0);
    }
}
