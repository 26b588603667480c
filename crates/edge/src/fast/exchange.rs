//! One request and its answer: a replica is chosen, both bodies pass at the same time, and whoever leaves is
//! noticed.

use std::future::poll_fn;
use std::mem::take;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use domain::route::Reason;
use http::StatusCode;
use tokio::io::{AsyncRead, AsyncWrite};

use super::buffers::{Buffer, SIZE, held};
use super::connection::{After, Connection};
use super::outbox::{Outbox, poll_write};
use super::pages::{self, Failed};
use super::response::{self, Answer, Asked, Body};
use super::upload::Upload;
use super::upstreams::Upstream;
use crate::attempts::Attempts;
use crate::closing::Ended;
use crate::facts::Flight;
use crate::limits::Cut;
use crate::live::Target;
use crate::pick::others;
use crate::replica::{self, Replica};
use crate::strict::Framing;

/// A request that the fast path answers.
pub struct Request {
    /// As the replica gets it.
    pub head: Vec<u8>,
    /// Where the request's id lies in `head`.
    pub id: Range<usize>,
    pub is_head: bool,
    /// It may be sent again when nothing came back.
    pub repeatable: bool,
    /// The client wants the connection to end.
    pub close: bool,
    pub upload: Upload,
    /// `None` if there never was a whole request.
    pub flight: Option<Flight>,
}

pub struct Exchange<'c, 'a, S> {
    connection: &'c mut Connection<'a, S>,
    request: Request,
    upstream: Option<Upstream>,
    /// What the replica sent and nobody has used yet.
    answer: Option<Buffer>,
    out: Outbox,
    body: Body,
    /// Something was written to the client and may not be on its way.
    unflushed: bool,
    /// The final head of the answer was read.
    answered: bool,
    /// Since when nothing went to the replica, as far as the timers know.
    since: u64,
    /// Since when the client is waited for.
    waiting: Option<u64>,
    /// Resolves when the stream should end.
    cut: Option<Ended>,
}

/// Why there is no answer of a replica.
enum Failure {
    Replica(Reason),
    Client(Trouble),
}

/// The client's fault.
enum Trouble {
    Left,
    /// Its body is not wanted as it comes.
    Cut(Cut),
}

impl Trouble {
    fn reason(&self) -> Reason {
        match self {
            Self::Left => Reason::ClientLeft,
            Self::Cut(Cut::TooLarge) => Reason::BodyTooLarge,
            Self::Cut(Cut::TooSlow) => Reason::SlowClient,
            Self::Cut(Cut::Malformed) => Reason::MalformedBody,
        }
    }
}

/// How waiting for the first bytes of an answer ended.
enum Began {
    Answer,
    /// The connection ended without a byte of an answer.
    Unanswered,
    Hangs,
    Late,
    Client(Trouble),
}

/// How an answer ended.
enum End {
    Whole,
    /// The replica did not send all of it.
    Broken,
    /// The client did not take it.
    Slow,
    Client(Trouble),
}

impl<'c, 'a, S: AsyncRead + AsyncWrite + Unpin> Exchange<'c, 'a, S> {
    pub fn new(connection: &'c mut Connection<'a, S>, request: Request) -> Self {
        let head = connection.fast().buffers.head();
        Self {
            connection,
            request,
            upstream: None,
            answer: None,
            out: Outbox::new(head),
            body: Body::Done,
            unflushed: false,
            answered: false,
            since: 0,
            waiting: None,
            cut: None,
        }
    }

    /// For the answer to a head that did not come to its end in time; the connection ends with it.
    pub fn late(connection: &'c mut Connection<'a, S>) -> Self {
        let head = connection.worker.ids.request_id_digits().to_vec();
        let request = Request {
            id: 0..head.len(),
            head,
            is_head: false,
            repeatable: false,
            close: true,
            upload: Upload::new(Framing::Length(1), None, Duration::MAX),
            flight: None,
        };
        Self::new(connection, request)
    }

    /// Once.
    pub async fn run(&mut self) -> After {
        if self.request.flight.is_none() {
            return self.error(StatusCode::REQUEST_TIMEOUT).await;
        }
        let after = match self.begin().await {
            Ok(()) => self.pass().await,
            Err(Failure::Client(trouble)) => self.trouble(trouble).await,
            Err(Failure::Replica(reason)) => self.unreachable(reason).await,
        };
        let buffers = &self.connection.fast().buffers;
        buffers.give_head(take(&mut self.request.head));
        buffers.give_head(take(&mut self.out.head));
        buffers.drop(&mut self.answer);
        after
    }

    /// Sends the request until a replica begins to answer. It goes out a second time only if it was never
    /// written, or if it is a GET or HEAD without a body that got no byte of an answer.
    async fn begin(&mut self) -> Result<(), Failure> {
        let none = || Failure::Replica(Reason::NoReplica);
        let route = self.request.flight.as_ref().map(|flight| flight.route().clone());
        let route = route.ok_or_else(none)?;
        let Target::Replicas(replicas) = &route.target else { return Err(none()) };
        let worker = self.connection.worker;
        let mut attempts = Attempts::default();
        loop {
            let replica = attempts.pick(replicas, || worker.ids.next()).ok_or_else(none)?;
            let upstream = match self.pooled(replica, &attempts) {
                Some(upstream) => upstream,
                None => match Box::pin(worker.fast.upstreams.connect(replica)).await {
                    Ok((upstream, took)) => {
                        self.connected(replica, Some(took));
                        upstream
                    }
                    Err(fault) => {
                        let missed = self.missed(&mut attempts, replicas, replica, fault);
                        if Box::pin(missed).await {
                            continue;
                        }
                        return Err(Failure::Replica(Reason::Connect));
                    }
                },
            };
            let reused = upstream.reused();
            if reused {
                self.connected(replica, None);
            }
            self.upstream = Some(upstream);
            self.request.upload.restart();
            self.since = worker.fast.timers.now();
            let can_move = self.request.repeatable && replicas.len() > 1;
            let moves = || can_move && replica.is_hanging() && others(replicas, replica);
            self.watch(can_move);
            let reason = match poll_fn(|cx| self.poll_begin(cx, can_move, moves)).await {
                Began::Answer => return Ok(()),
                Began::Client(trouble) => return Err(Failure::Client(trouble)),
                Began::Late => return Err(Failure::Replica(Reason::Timeout)),
                Began::Hangs => Reason::Timeout,
                Began::Unanswered => Reason::Closed,
            };
            let written = self.request.upload.head() > 0;
            if !written && reused {
                // The connection had died before anything was written: as good as not having been there.
                continue;
            }
            let may = self.request.repeatable || !written;
            if !may {
                return Err(Failure::Replica(reason));
            }
            if !Box::pin(self.broke(&mut attempts, replica)).await {
                return Err(Failure::Replica(reason));
            }
        }
    }

    fn pooled(&self, replica: &Arc<Replica>, attempts: &Attempts) -> Option<Upstream> {
        if attempts.fresh() {
            return None;
        }
        let fast = self.connection.fast();
        fast.upstreams.take(replica, !self.request.repeatable, fast.timers.now())
    }

    async fn missed(
        &mut self,
        attempts: &mut Attempts,
        replicas: &[Arc<Replica>],
        replica: &Replica,
        fault: replica::Fault,
    ) -> bool {
        let Some(flight) = &mut self.request.flight else { return false };
        attempts.missed(self.connection.worker, replicas, replica, fault, flight).await
    }

    async fn broke(&self, attempts: &mut Attempts, replica: &Replica) -> bool {
        let Some(flight) = &self.request.flight else { return false };
        attempts.broke(self.connection.worker, replica, flight).await
    }

    fn connected(&mut self, replica: &Replica, took: Option<Duration>) {
        if let Some(flight) = &mut self.request.flight {
            flight.connected(replica.address, took);
        }
    }

    /// Sets the alarm for what is waited for before the answer begins.
    fn watch(&self, can_move: bool) {
        let limits = &self.connection.worker.shared.limits;
        let upload = &self.request.upload;
        self.connection.alarm.set(match () {
            // Now and then it is asked whether the replica hangs.
            () if can_move => Duration::ZERO,
            () if upload.received() => limits.answer,
            () => upload.patience().min(limits.answer),
        });
    }

    /// How long this has been so, as far as the timers know.
    fn elapsed(&self, since: u64) -> Duration {
        Duration::from_millis(self.connection.fast().timers.now().saturating_sub(since))
    }

    fn poll_begin(
        &mut self,
        cx: &mut Context<'_>,
        can_move: bool,
        moves: impl Fn() -> bool,
    ) -> Poll<Began> {
        if let Err(trouble) = self.poll_upload(cx).and_then(|()| self.poll_out(cx)) {
            return Poll::Ready(Began::Client(trouble));
        }
        match self.poll_replica(cx) {
            Poll::Ready(true) => return Poll::Ready(Began::Answer),
            Poll::Ready(false) => return Poll::Ready(Began::Unanswered),
            Poll::Pending => {}
        }
        if self.client_left(cx) {
            return Poll::Ready(Began::Client(Trouble::Left));
        }
        if !self.connection.alarm.went_off() {
            return Poll::Pending;
        }
        if self.is_too_slow() {
            return Poll::Ready(Began::Client(Trouble::Cut(Cut::TooSlow)));
        }
        let limit = self.connection.worker.shared.limits.answer;
        if self.waiting.is_none() && self.elapsed(self.since) >= limit {
            return Poll::Ready(Began::Late);
        }
        if moves() {
            return Poll::Ready(Began::Hangs);
        }
        self.watch(can_move);
        Poll::Pending
    }

    /// Whether the client did not send enough of its body for too long.
    fn is_too_slow(&self) -> bool {
        self.waiting.is_some_and(|since| self.elapsed(since) >= self.request.upload.patience())
    }

    /// Passes the answer on, once the replica has begun to send it.
    async fn pass(&mut self) -> After {
        let answer = loop {
            match self.read_head() {
                Ok(Some(answer)) if answer.status >= 200 => break answer,
                Ok(Some(_)) => {}
                Ok(None) if held(&self.answer).len() < SIZE => {
                    match poll_fn(|cx| self.poll_begin(cx, false, || false)).await {
                        Began::Answer => {}
                        Began::Client(trouble) => return self.trouble(trouble).await,
                        Began::Late => return self.unreachable(Reason::Timeout).await,
                        _ => return self.unreachable(Reason::Closed).await,
                    }
                }
                _ => return self.unreachable(Reason::Garbled).await,
            }
        };
        self.body = answer.body;
        let whole = self.is_all_here();
        if let Some(flight) = &mut self.request.flight {
            if whole {
                flight.answered_whole(answer.status);
            } else {
                flight.answered(answer.status);
            }
            if answer.events {
                flight.streaming();
                self.cut = Some(self.connection.worker.ended(flight.service()));
            }
        }
        self.answered = true;
        self.request.upload.answered();
        if self.follow().is_err() {
            return self.broken(Reason::Garbled);
        }
        self.connection.alarm.set(self.connection.worker.shared.limits.idle);
        match poll_fn(|cx| self.poll_pass(cx)).await {
            End::Whole => self.finish(answer.keep),
            End::Broken => self.broken(Reason::BrokenOff),
            End::Slow => self.broken(Reason::SlowClient),
            End::Client(trouble) => {
                if let Some(flight) = &mut self.request.flight {
                    flight.because(trouble.reason());
                }
                After::Close
            }
        }
    }

    /// Whether all of the answer's body is in the buffer already.
    fn is_all_here(&self) -> bool {
        match &self.body {
            Body::Done => true,
            Body::Length(length) => held(&self.answer).len() as u64 >= *length,
            Body::Chunked(_) | Body::UntilClose => false,
        }
    }

    /// Reads a head from what the replica sent and writes it for the client; an interim one too.
    fn read_head(&mut self) -> Result<Option<Answer>, response::Garbled> {
        let fast = self.connection.fast();
        let request = &mut self.request;
        // Another edge took over, or this one stops: the client's next connection is the other's.
        request.close |= fast.timers.stopping() || self.connection.worker.shared.leaving();
        let asked = Asked {
            id: &request.head[request.id.clone()],
            head: request.is_head,
            close: request.close,
            date: &|into| fast.dates.write(into),
        };
        let before = self.out.head.len();
        let read = response::read(held(&self.answer), asked, &mut self.out.head)?;
        if let Some(answer) = &read {
            fast.buffers.consume(&mut self.answer, answer.length);
            if answer.status == 100 {
                // The client did not ask for it.
                self.out.head.truncate(before);
            }
        }
        Ok(read)
    }

    fn poll_pass(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        if let Err(trouble) = self.poll_upload(cx) {
            return Poll::Ready(End::Client(trouble));
        }
        loop {
            if let Err(trouble) = self.poll_out(cx) {
                return Poll::Ready(End::Client(trouble));
            }
            if !self.out.is_empty() || self.unflushed {
                break;
            }
            if matches!(self.body, Body::Done) {
                return Poll::Ready(End::Whole);
            }
            if self.is_cut(cx) && self.between() {
                self.end_chunks();
                continue;
            }
            match self.poll_replica(cx) {
                Poll::Ready(true) if self.follow().is_ok() => {
                    self.connection.alarm.set(self.connection.worker.shared.limits.idle);
                }
                Poll::Ready(false) if matches!(self.body, Body::UntilClose) => self.end_chunks(),
                Poll::Ready(_) => return Poll::Ready(End::Broken),
                Poll::Pending => break,
            }
        }
        if self.client_left(cx) {
            return Poll::Ready(End::Client(Trouble::Left));
        }
        if !self.connection.alarm.went_off() {
            return Poll::Pending;
        }
        if !self.out.is_empty() || self.unflushed {
            return Poll::Ready(End::Slow);
        }
        // An event stream may be quiet for as long as it likes.
        if self.cut.is_none() {
            return Poll::Ready(End::Broken);
        }
        self.connection.alarm.set(self.connection.worker.shared.limits.idle);
        Poll::Pending
    }

    /// Looks at what the replica sent of the body: what may go to the client, and whether that is all.
    fn follow(&mut self) -> Result<(), ()> {
        let bytes = held(&self.answer);
        if bytes.is_empty() && !matches!(self.body, Body::Done) {
            return Ok(());
        }
        let (taken, over) = match &mut self.body {
            Body::Done => (0, true),
            Body::Length(left) => {
                let taken = (*left).min(bytes.len() as u64);
                *left -= taken;
                (taken as usize, *left == 0)
            }
            Body::Chunked(chunks) => chunks.advance(bytes).map_err(|_| ())?,
            Body::UntilClose => {
                chunk_line(bytes.len(), &mut self.out.head);
                self.out.tail = b"\r\n";
                (bytes.len(), false)
            }
        };
        self.out.body = taken;
        if let Some(flight) = &mut self.request.flight {
            flight.sent(taken as u64);
        }
        if over {
            self.body = Body::Done;
            // Before the last bytes go out, so that no client can ask for facts that lack its own answer.
            if let Some(flight) = &mut self.request.flight {
                flight.count();
            }
        }
        Ok(())
    }

    /// Ends a body of chunks by ourselves. The replica's connection is of no use any more.
    fn end_chunks(&mut self) {
        self.out.head.extend_from_slice(b"0\r\n\r\n");
        self.body = Body::Done;
        self.upstream = None;
        if let Some(flight) = &mut self.request.flight {
            flight.count();
        }
    }

    fn is_cut(&mut self, cx: &mut Context<'_>) -> bool {
        self.cut.as_mut().is_some_and(|cut| Pin::new(cut).poll(cx).is_ready())
    }

    fn between(&self) -> bool {
        match &self.body {
            Body::Chunked(chunks) => chunks.between(),
            Body::UntilClose => true,
            Body::Length(_) | Body::Done => false,
        }
    }

    /// The answer is over and was whole.
    fn finish(&mut self, keep: bool) -> After {
        let upload = &self.request.upload;
        let fast = self.connection.fast();
        let sent = upload.is_complete(self.request.head.len());
        if let Some(upstream) = self.upstream.take()
            && keep
            && sent
            && held(&self.answer).is_empty()
        {
            fast.upstreams.give_back(upstream, fast.timers.now());
        }
        self.request.flight = None;
        self.after()
    }

    fn after(&mut self) -> After {
        let fast = self.connection.fast();
        if !self.request.upload.received() {
            return After::Linger;
        }
        // What the replica did not want to read is no next request.
        fast.buffers.consume(&mut self.connection.input, self.request.upload.ready);
        match (self.request.close, held(&self.connection.input).is_empty()) {
            (false, _) => After::Keep,
            (true, true) => After::Close,
            (true, false) => After::Linger,
        }
    }

    fn broken(&mut self, reason: Reason) -> After {
        if let Some(flight) = &mut self.request.flight {
            flight.broken(reason);
        }
        After::Close
    }

    /// The client's fault, before the answer.
    async fn trouble(&mut self, trouble: Trouble) -> After {
        if matches!(trouble, Trouble::Cut(_)) {
            return self.unreachable(trouble.reason()).await;
        }
        if let Some(flight) = &mut self.request.flight {
            flight.failed(trouble.reason());
            flight.count();
        }
        After::Close
    }

    /// The edge answers itself.
    async fn unreachable(&mut self, reason: Reason) -> After {
        if let Some(flight) = &mut self.request.flight {
            flight.failed(reason);
            flight.count();
        }
        self.upstream = None;
        self.request.close |= !self.request.upload.received();
        let status = StatusCode::from_u16(reason.status());
        self.error(status.unwrap_or(StatusCode::BAD_GATEWAY)).await
    }

    /// Writes an error page.
    async fn error(&mut self, status: StatusCode) -> After {
        let request = &self.request;
        let failed = Failed {
            head: &request.head,
            id: &request.head[request.id.clone()],
            is_head: request.is_head,
            close: request.close,
        };
        pages::write(status, &failed, &mut self.out.head);
        self.body = Body::Done;
        self.request.upload.give_up();
        self.connection.alarm.set(self.connection.worker.shared.limits.idle);
        match poll_fn(|cx| self.poll_pass(cx)).await {
            End::Whole => self.after(),
            End::Broken | End::Slow | End::Client(_) => After::Close,
        }
    }

    /// Sends the request on as far as it goes. An error if the client left or sends no body.
    fn poll_upload(&mut self, cx: &mut Context<'_>) -> Result<(), Trouble> {
        let Some(upstream) = &mut self.upstream else { return Ok(()) };
        let (connection, request) = (&mut *self.connection, &mut self.request);
        let (buffers, timers) = (&connection.worker.fast.buffers, &connection.worker.fast.timers);
        let (head, upload) = (&request.head, &mut request.upload);
        while !upload.is_over(head.len()) {
            if !upload.received() && held(&connection.input).len() > upload.ready {
                let waited =
                    self.waiting.take().map_or(0, |since| timers.now().saturating_sub(since));
                let followed =
                    upload.follow(held(&connection.input), Duration::from_millis(waited));
                let came = followed.map_err(Trouble::Cut)?;
                if let Some(flight) = &mut request.flight {
                    flight.received(came as u64);
                }
            }
            let parts = [&head[upload.head()..], &held(&connection.input)[..upload.ready]];
            if parts.iter().all(|part| part.is_empty()) {
                match buffers.poll_fill(&mut connection.stream, &mut connection.input, cx) {
                    Poll::Ready(Ok(1..)) => {}
                    Poll::Ready(Ok(0) | Err(_)) => return Err(Trouble::Left),
                    Poll::Pending => {
                        self.waiting.get_or_insert(timers.now());
                        return Ok(());
                    }
                }
            } else {
                match poll_write(&mut upstream.stream, parts, cx) {
                    Poll::Ready(Ok(n)) => {
                        let body = upload.sent(n, head.len());
                        buffers.consume(&mut connection.input, body);
                    }
                    Poll::Ready(Err(_)) => upload.give_up(),
                    Poll::Pending => return Ok(()),
                }
            }
            self.since = timers.now();
            if self.answered {
                connection.alarm.set(connection.worker.shared.limits.idle);
            }
        }
        Ok(())
    }

    /// Writes what is there for the client, as far as it goes. An error if the client left.
    fn poll_out(&mut self, cx: &mut Context<'_>) -> Result<(), Trouble> {
        let connection = &mut *self.connection;
        while !self.out.is_empty() {
            match self.out.poll_write(&mut connection.stream, held(&self.answer), cx) {
                Poll::Ready(Ok(body)) => {
                    connection.worker.fast.buffers.consume(&mut self.answer, body);
                    connection.alarm.set(connection.worker.shared.limits.idle);
                    self.unflushed = true;
                }
                Poll::Ready(Err(_)) => return Err(Trouble::Left),
                Poll::Pending => return Ok(()),
            }
        }
        if self.unflushed {
            match Pin::new(&mut connection.stream).poll_flush(cx) {
                Poll::Ready(Ok(())) => self.unflushed = false,
                Poll::Ready(Err(_)) => return Err(Trouble::Left),
                Poll::Pending => {}
            }
        }
        Ok(())
    }

    /// Reads from the replica; false is the end of its connection.
    fn poll_replica(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        let Some(upstream) = &mut self.upstream else { return Poll::Ready(false) };
        let buffers = &self.connection.worker.fast.buffers;
        let read = buffers.poll_fill(&mut upstream.stream, &mut self.answer, cx);
        read.map(|read| matches!(read, Ok(1..)))
    }

    fn client_left(&mut self, cx: &mut Context<'_>) -> bool {
        // As long as a body is being read, its reader sees it.
        self.request.upload.received() && self.connection.poll_left(cx)
    }
}

fn chunk_line(length: usize, into: &mut Vec<u8>) {
    let digits = b"0123456789abcdef";
    let mut shift = (usize::BITS - length.leading_zeros()).div_ceil(4) * 4;
    while shift > 0 {
        shift -= 4;
        into.push(digits[length >> shift & 15]);
    }
    into.extend_from_slice(b"\r\n");
}
