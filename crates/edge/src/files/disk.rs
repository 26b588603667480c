//! Work that would hold a worker up, on a few threads of its own: reads that the disk must answer, and the
//! compression of what is large.
//!
//! All workers share the threads, and what waits for them is bounded. When no more may wait, the work is done
//! in place: a slow answer is better than a queue that grows, and than none.

use std::io;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::{Context, Poll, ready};
use std::thread;

use bytes::Bytes;
use tokio::sync::oneshot;

/// A disk answers a handful of reads at once; more threads would only wait in the kernel.
const THREADS: usize = 4;
/// Pieces that may wait for a thread. Each is held by one answer that waits for it.
const QUEUE: usize = 64;

type Job = Box<dyn FnOnce() + Send>;
type Piece = Option<io::Result<Bytes>>;

/// What comes in pieces, some of which take long.
pub trait Source: Send + 'static {
    /// The next piece, if it can be had without waiting; never an empty one. Changes nothing otherwise.
    fn at_once(&mut self) -> Poll<Piece>;
    /// The next piece, however long it takes; never an empty one.
    fn wait(&mut self) -> Piece;
}

/// The pieces of a source, one at a time: the next is begun when it is asked for.
pub struct Pieces<S>(State<S>);

enum State<S> {
    Here(Box<S>),
    Away(oneshot::Receiver<(Box<S>, Piece)>),
    Over,
}

impl<S: Source> Pieces<S> {
    pub fn new(source: S) -> Self {
        Self(State::Here(Box::new(source)))
    }

    /// The next piece; never an empty one.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Piece> {
        if let State::Here(source) = &mut self.0 {
            if let Poll::Ready(piece) = source.at_once() {
                return Poll::Ready(self.came(piece));
            }
            let State::Here(mut source) = std::mem::replace(&mut self.0, State::Over) else {
                return Poll::Ready(None);
            };
            let (sender, receiver) = oneshot::channel();
            // What is in place when the queue is full comes back with its piece, too.
            let job: Job = Box::new(move || {
                let piece = source.wait();
                // Nobody waits for it when the client has left.
                let _ = sender.send((source, piece));
            });
            self.0 = State::Away(receiver);
            do_elsewhere(job);
        }
        let State::Away(receiver) = &mut self.0 else { return Poll::Ready(None) };
        let piece = match ready!(std::pin::Pin::new(receiver).poll(cx)) {
            Ok((source, piece)) => {
                self.0 = State::Here(source);
                piece
            }
            Err(_) => Some(Err(io::Error::other("the thread that read the file is gone"))),
        };
        Poll::Ready(self.came(piece))
    }

    fn came(&mut self, piece: Piece) -> Piece {
        if !matches!(piece, Some(Ok(_))) {
            self.0 = State::Over;
        }
        piece
    }
}

/// Runs `job` on one of the threads, or here and now if too much waits for them already.
fn do_elsewhere(job: Job) {
    static QUEUED: OnceLock<Option<SyncSender<Job>>> = OnceLock::new();
    let queue = QUEUED.get_or_init(|| {
        let (queue, jobs) = sync_channel(QUEUE);
        let jobs = Arc::new(Mutex::new(jobs));
        let started = (0..THREADS).filter(|_| start(jobs.clone())).count();
        (started > 0).then_some(queue)
    });
    let Some(queue) = queue else { return job() };
    if let Err(refused) = queue.try_send(job) {
        use std::sync::mpsc::TrySendError::{Disconnected, Full};
        let (Full(job) | Disconnected(job)) = refused;
        job();
    }
}

fn start(jobs: Arc<Mutex<Receiver<Job>>>) -> bool {
    let run = move || {
        loop {
            let next = jobs.lock().unwrap_or_else(PoisonError::into_inner).recv();
            let Ok(job) = next else { return };
            job();
        }
    };
    let started = thread::Builder::new().name("edge-disk".into()).spawn(run);
    if let Err(error) = &started {
        tracing::warn!(%error, "a thread for slow reads cannot be started: fewer read, or workers themselves");
    }
    started.is_ok()
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
    use std::task::Waker;
    use std::time::{Duration, Instant};

    use super::*;

    /// Counts to a number, and is never quick about it.
    struct Slow {
        at: u8,
        until: u8,
        gate: Arc<Mutex<()>>,
        begun: Arc<AtomicUsize>,
    }

    impl Source for Slow {
        fn at_once(&mut self) -> Poll<Piece> {
            Poll::Pending
        }
        fn wait(&mut self) -> Piece {
            self.begun.fetch_add(1, SeqCst);
            drop(self.gate.lock());
            self.at += 1;
            (self.at <= self.until).then(|| Ok(Bytes::copy_from_slice(&[self.at])))
        }
    }

    #[test]
    fn pieces_come_in_order_even_when_all_threads_hang_and_no_more_may_wait() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let next = |pieces: &mut Pieces<Slow>| runtime.block_on(poll_fn(|cx| pieces.poll_next(cx)));
        let (gate, begun) = (Arc::new(Mutex::new(())), Arc::new(AtomicUsize::new(0)));
        let slow = |until, gate: &Arc<Mutex<()>>| {
            Pieces::new(Slow { at: 0, until, gate: gate.clone(), begun: begun.clone() })
        };
        let held = gate.lock().unwrap();
        let mut cx = Context::from_waker(Waker::noop());
        let mut hanging: Vec<_> = (0..THREADS + QUEUE).map(|_| slow(1, &gate)).collect();
        let (first, others) = hanging.split_at_mut(THREADS);
        assert!(first.iter_mut().all(|pieces| pieces.poll_next(&mut cx).is_pending()));
        let deadline = Instant::now() + Duration::from_secs(20);
        while begun.load(SeqCst) < THREADS {
            assert!(Instant::now() < deadline, "the threads take nothing");
            std::thread::yield_now();
        }
        assert!(others.iter_mut().all(|pieces| pieces.poll_next(&mut cx).is_pending()));
        let mut pieces = slow(3, &Arc::default());
        let mut seen = Vec::new();
        while let Some(piece) = next(&mut pieces) {
            seen.push(piece.unwrap()[0]);
        }
        assert_eq!(seen, [1, 2, 3]);
        drop(held);
        for pieces in &mut hanging {
            let piece = next(pieces);
            assert_eq!(&piece.unwrap().unwrap()[..], [1]);
        }
    }
}
