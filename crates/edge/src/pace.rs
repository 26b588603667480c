//! The pace of clients that speak HTTP/2: one that does not read an answer loses it, and nothing else.
//!
//! HTTP/2 lets a client stop a single stream for ever while its connection looks well. hyper does not look
//! at a body again before there is room for it, so the time is kept beside it, and an answer that is late is
//! dropped from outside: its stream is reset, its replica is free.

use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, Response};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::service::{Service, service_fn};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use crate::body::{Answer, BodyError};
use crate::http2::admit;
use crate::proxy::{Connection, handle};

/// The answers of one connection under way; as hyper's executor, it runs them.
#[derive(Clone, Default)]
pub struct Paces {
    all: Rc<RefCell<Vec<Weak<Pace>>>>,
    /// The request that hyper is about to run.
    next: Rc<Cell<Option<Rc<Pace>>>>,
}

/// One answer.
#[derive(Default)]
struct Pace {
    /// Since when the client has not taken what is ready for it; `None` while nothing is.
    since: Cell<Option<Instant>>,
    cut: Notify,
}

/// An answer whose pace is kept.
pub struct Paced {
    answer: Answer,
    pace: Rc<Pace>,
}

/// A task that ends with its owner.
pub struct Watch(pub JoinHandle<()>);

impl Drop for Watch {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// After this many answers the list is cleared of those that are over.
const MANY: usize = 256;

impl Paces {
    /// The service of one connection. hyper calls it for a request, and hands what comes of it to the
    /// executor before it calls it again.
    pub fn serve(
        &self,
        connection: Rc<Connection>,
    ) -> impl Service<
        Request<Incoming>,
        Response = Response<Paced>,
        Error = Infallible,
        Future: 'static,
    > + use<> {
        let paces = self.clone();
        service_fn(move |request| {
            let pace = paces.begin();
            let answer = handle(connection.clone(), admit(request));
            async move {
                let response = answer.await?;
                pace.since.set(Some(Instant::now()));
                Ok(response.map(|answer| Paced { answer, pace }))
            }
        })
    }

    fn begin(&self) -> Rc<Pace> {
        let pace = Rc::new(Pace::default());
        let mut all = self.all.borrow_mut();
        if all.len() >= MANY {
            all.retain(|pace| pace.strong_count() > 0);
        }
        all.push(Rc::downgrade(&pace));
        self.next.set(Some(pace.clone()));
        pace
    }

    /// Cuts answers that nobody reads for `limit`, found out at most half of it later.
    pub fn watch(&self, limit: Duration) -> impl Future<Output = ()> + use<> {
        let all = self.all.clone();
        async move {
            loop {
                tokio::time::sleep(limit / 2).await;
                for pace in all.borrow().iter().filter_map(Weak::upgrade) {
                    if pace.since.get().is_some_and(|since| since.elapsed() >= limit) {
                        pace.cut.notify_one();
                    }
                }
            }
        }
    }
}

impl<F: Future + 'static> hyper::rt::Executor<F> for Paces {
    fn execute(&self, task: F) {
        let pace = self.next.take();
        tokio::task::spawn_local(async move {
            let Some(pace) = pace else {
                task.await;
                return;
            };
            tokio::select! {
                _ = task => {}
                () = pace.cut.notified() => tracing::debug!("a client does not read its answer"),
            }
        });
    }
}

impl Body for Paced {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.answer).poll_frame(cx);
        this.pace.since.set(polled.is_ready().then(Instant::now));
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.answer.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.answer.size_hint()
    }
}
