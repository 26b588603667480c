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
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::service::{Service, service_fn};
use tokio::task::AbortHandle;

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
    /// How often it was seen that the client has not taken what is ready for it; `None` while nothing is.
    untaken: Cell<Option<u32>>,
    /// What carries it. Gone with it.
    task: RefCell<Option<AbortHandle>>,
}

/// An answer whose pace is kept.
pub struct Paced {
    answer: Answer,
    pace: Rc<Pace>,
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
            // On the heap: it is large, and each place that it passes would copy it.
            let answer = Box::pin(handle(connection.clone(), admit(request)));
            async move {
                let response = answer.await?;
                pace.untaken.set(Some(0));
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

    /// Cuts answers that nobody reads for `limit`, found out at most half of it later. Never ends.
    pub fn watch(&self, limit: Duration) -> impl Future<Output = ()> + use<> {
        // The first look may come right after the answer was ready.
        const LOOKS: u32 = 3;
        let all = self.all.clone();
        async move {
            loop {
                tokio::time::sleep(limit / 2).await;
                // Ending a task drops its pace, but not its place in the list.
                for pace in all.borrow().iter().filter_map(Weak::upgrade) {
                    let Some(untaken) = pace.untaken.get() else { continue };
                    pace.untaken.set(Some(untaken + 1));
                    if untaken + 1 >= LOOKS
                        && let Some(task) = &*pace.task.borrow()
                    {
                        tracing::debug!("a client does not read its answer");
                        task.abort();
                    }
                }
            }
        }
    }
}

impl<F> hyper::rt::Executor<F> for Paces
where
    F: Future<Output: 'static> + 'static,
{
    fn execute(&self, task: F) {
        let pace = self.next.take();
        let task = tokio::task::spawn_local(task);
        if let Some(pace) = pace {
            pace.task.replace(Some(task.abort_handle()));
        }
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
        this.pace.untaken.set(polled.is_ready().then_some(0));
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.answer.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.answer.size_hint()
    }
}
