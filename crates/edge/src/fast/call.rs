//! A request without a body that came over HTTP/2, on its way to a replica: with the connections and the framing of
//! the fast path.

use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use domain::route::Reason;

use super::admit::Admitted;
use super::buffers::{Buffer, SIZE, held};
use super::outbox::poll_write;
use super::reply::Reply;
use super::response::{Answer, Head, read_with};
use super::timers::Alarm;
use super::upstreams::Upstream;
use crate::attempts::Attempts;
use crate::facts::Flight;
use crate::live::Target;
use crate::pick::others;
use crate::replica::Replica;
use crate::worker::Worker;

/// An answer whose head was passed on.
pub struct Answered {
    pub status: u16,
    /// It is an event stream.
    pub events: bool,
    pub reply: Reply,
}

/// Sends the request to a replica and reads the head of the answer, which `pass` gets; the reason if none answered.
pub async fn carry(
    worker: &Rc<Worker>,
    admitted: &Admitted,
    flight: &mut Flight,
    pass: &dyn Fn(&Head, &[u8], &Answer),
) -> Result<Answered, Reason> {
    let route = flight.route().clone();
    let Target::Replicas(replicas) = &route.target else { return Err(Reason::NoReplica) };
    let Admitted { head, is_head, repeatable, .. } = admitted;
    let call = Call { worker, replicas, head, is_head: *is_head, repeatable: *repeatable, pass };
    call.send(flight).await
}

struct Call<'a> {
    worker: &'a Rc<Worker>,
    replicas: &'a [Arc<Replica>],
    /// As the replica gets it.
    head: &'a [u8],
    is_head: bool,
    /// It may be sent again when nothing came back.
    repeatable: bool,
    pass: &'a dyn Fn(&Head, &[u8], &Answer),
}

/// The request under way on one connection.
struct Attempt {
    upstream: Upstream,
    /// How much of the head was written.
    written: usize,
    /// The replica takes no more of it; it may have answered all the same.
    deaf: bool,
    /// What the replica sent and nobody has used yet.
    buffer: Option<Buffer>,
    /// It sent something.
    heard: bool,
    /// Since when it is waited for, as far as the timers know.
    since: u64,
}

/// How an attempt ended.
enum End {
    Answer(Answer),
    /// The connection ended without a byte of an answer.
    Unanswered,
    Hangs,
    Failed(Reason),
}

impl Call<'_> {
    /// It goes out a second time only if it was never written, or if it is a GET or HEAD that got no byte of an
    /// answer.
    async fn send(&self, flight: &mut Flight) -> Result<Answered, Reason> {
        let timers = &self.worker.fast.timers;
        let alarm = poll_fn(|cx| Poll::Ready(timers.alarm(cx))).await;
        let mut attempts = Attempts::default();
        loop {
            let random = || self.worker.ids.next();
            let replica = attempts.pick(self.replicas, random).ok_or(Reason::NoReplica)?;
            let upstream = match self.pooled(replica, &attempts) {
                Some(upstream) => upstream,
                // Seldom: a request that finds a connection needs no room for this.
                None => match Box::pin(self.worker.fast.upstreams.connect(replica)).await {
                    Ok((upstream, took)) => {
                        flight.connected(replica.address, Some(took));
                        upstream
                    }
                    Err(fault) => {
                        let (worker, replicas) = (self.worker, self.replicas);
                        let missed = attempts.missed(worker, replicas, replica, fault, flight);
                        if Box::pin(missed).await {
                            continue;
                        }
                        return Err(Reason::Connect);
                    }
                },
            };
            let reused = upstream.reused();
            if reused {
                flight.connected(replica.address, None);
            }
            let mut attempt = Attempt {
                upstream,
                written: 0,
                deaf: false,
                buffer: None,
                heard: false,
                since: timers.now(),
            };
            self.watch(&alarm);
            let end = poll_fn(|cx| self.poll(&mut attempt, replica, &alarm, cx)).await;
            let reason = match end {
                End::Answer(answer) => {
                    let Attempt { upstream, buffer, written, .. } = attempt;
                    let Answer { status, body, keep, events, .. } = answer;
                    let keep = keep && written == self.head.len();
                    let reply = Reply::new(self.worker, upstream, buffer, body, keep);
                    return Ok(Answered { status, events, reply });
                }
                End::Failed(reason) => {
                    self.worker.fast.buffers.drop(&mut attempt.buffer);
                    return Err(reason);
                }
                End::Hangs => Reason::Timeout,
                End::Unanswered => Reason::Closed,
            };
            let written = attempt.written > 0;
            if !written && reused {
                // The connection had died before anything was written: as good as not having been there.
                continue;
            }
            let lost = written && !self.repeatable;
            if lost {
                return Err(reason);
            }
            if !Box::pin(attempts.broke(self.worker, replica, flight)).await {
                return Err(reason);
            }
        }
    }

    fn pooled(&self, replica: &Arc<Replica>, attempts: &Attempts) -> Option<Upstream> {
        let fast = &self.worker.fast;
        let kept = || fast.upstreams.take(replica, !self.repeatable, fast.timers.now());
        if attempts.fresh() { None } else { kept() }
    }

    /// Sets the alarm for what is waited for.
    fn watch(&self, alarm: &Alarm) {
        // Now and then it is asked whether the replica hangs.
        let limit = self.worker.shared.limits.answer;
        alarm.set(if self.can_move() { Duration::ZERO } else { limit });
    }

    fn can_move(&self) -> bool {
        self.repeatable && self.replicas.len() > 1
    }

    fn poll(
        &self,
        attempt: &mut Attempt,
        replica: &Arc<Replica>,
        alarm: &Alarm,
        cx: &mut Context<'_>,
    ) -> Poll<End> {
        while attempt.written < self.head.len() && !attempt.deaf {
            let rest = &self.head[attempt.written..];
            match poll_write(&mut attempt.upstream.stream, [rest], cx) {
                Poll::Ready(Ok(n)) => attempt.written += n,
                Poll::Ready(Err(_)) => attempt.deaf = true,
                Poll::Pending => break,
            }
        }
        if let Poll::Ready(end) = self.poll_answer(attempt, cx) {
            return Poll::Ready(end);
        }
        if !alarm.went_off() {
            return Poll::Pending;
        }
        let timers = &self.worker.fast.timers;
        let waited = Duration::from_millis(timers.now().saturating_sub(attempt.since));
        if waited >= self.worker.shared.limits.answer {
            return Poll::Ready(End::Failed(Reason::Timeout));
        }
        if self.can_move()
            && !attempt.heard
            && replica.is_hanging()
            && others(self.replicas, replica)
        {
            return Poll::Ready(End::Hangs);
        }
        self.watch(alarm);
        Poll::Pending
    }

    fn poll_answer(&self, attempt: &mut Attempt, cx: &mut Context<'_>) -> Poll<End> {
        let buffers = &self.worker.fast.buffers;
        loop {
            match buffers.poll_fill(&mut attempt.upstream.stream, &mut attempt.buffer, cx) {
                Poll::Ready(Ok(1..)) => attempt.heard = true,
                Poll::Ready(_) if attempt.heard => return Poll::Ready(End::Failed(Reason::Closed)),
                Poll::Ready(_) => return Poll::Ready(End::Unanswered),
                Poll::Pending => return Poll::Pending,
            }
            while !held(&attempt.buffer).is_empty() {
                match read_with(held(&attempt.buffer), self.is_head, self.pass) {
                    Ok(Some(answer)) => {
                        buffers.consume(&mut attempt.buffer, answer.length);
                        // An interim answer is for us; the final one follows it.
                        if answer.status >= 200 {
                            return Poll::Ready(End::Answer(answer));
                        }
                    }
                    Ok(None) if held(&attempt.buffer).len() < SIZE => break,
                    _ => return Poll::Ready(End::Failed(Reason::Garbled)),
                }
            }
        }
    }
}
