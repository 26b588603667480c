//! Compresses files while they are sent, piece by piece, and keeps what came out for the next request.
//!
//! Gzip alone: every client takes it, and what is worth more is compressed beforehand by the build. What is
//! large is compressed on another thread, a piece at a time, so that no other request of the worker waits.

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::io::{self, Write};
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use flate2::Compression;
use flate2::write::GzEncoder;

use super::disk::{Pieces, Source};
use super::open::{Opened, Reader};

/// Below this, the head outweighs what is saved.
const LEAST: u64 = 1024;
/// What is no longer than this, in bytes, is compressed by the worker itself: a millisecond or so.
const AT_ONCE: u64 = 64 * 1024;
/// Compressed files that one worker keeps, in bytes.
const KEPT: usize = 16 * 1024 * 1024;
/// Larger ones are compressed anew each time.
const KEPT_EACH: usize = 1024 * 1024;

/// A file in one state: its device and number, when it changed, its length.
pub type Identity = (u64, u64, u128, u64);

thread_local! {
    /// Each worker has its own: no lock, and nothing to wait for.
    static CACHE: RefCell<Cache> = RefCell::default();
}

#[derive(Default)]
struct Cache {
    kept: HashMap<Identity, Bytes>,
    /// The oldest first.
    order: VecDeque<Identity>,
    size: usize,
}

impl Cache {
    fn insert(&mut self, identity: Identity, bytes: Bytes) {
        if self.kept.contains_key(&identity) {
            return;
        }
        self.size += bytes.len();
        self.kept.insert(identity, bytes);
        self.order.push_back(identity);
        while self.size > KEPT {
            let Some(oldest) = self.order.pop_front() else { return };
            self.size -= self.kept.remove(&oldest).map_or(0, |bytes| bytes.len());
        }
    }
}

/// Whether a file of this type and length gains by it.
pub fn is_worth(content_type: &str, length: u64) -> bool {
    let texts = ["text/", "application/json", "application/manifest+json", "application/xml"];
    let others = ["image/svg+xml", "application/wasm"];
    length >= LEAST && texts.iter().chain(&others).any(|kind| content_type.starts_with(kind))
}

/// The compressed file, if it is known already.
pub fn known(opened: &Opened) -> Option<Bytes> {
    CACHE.with_borrow(|cache| cache.kept.get(&opened.identity).cloned())
}

/// A file that is compressed as it is read.
pub struct Gzipped {
    pieces: Pieces<Zipper>,
    identity: Identity,
    /// What came out so far, as long as it may be kept.
    all: Option<BytesMut>,
}

/// What reads and compresses, here or on another thread.
struct Zipper {
    source: Reader,
    encoder: Option<GzEncoder<Vec<u8>>>,
    large: bool,
}

impl Zipper {
    /// Takes in what was read; gives what came out, if it is enough to be sent.
    fn take(&mut self, read: Option<io::Result<Bytes>>) -> Option<Option<io::Result<Bytes>>> {
        let Some(encoder) = &mut self.encoder else { return Some(None) };
        let out = match read {
            Some(Ok(piece)) => encoder.write_all(&piece).map(|()| {
                let out = encoder.get_mut();
                // A few bytes at a time would cost more than they are worth.
                if out.len() < LEAST as usize { Vec::new() } else { std::mem::take(out) }
            }),
            Some(Err(error)) => Err(error),
            None => self.encoder.take()?.finish(),
        };
        match out {
            Ok(out) if out.is_empty() => None,
            out => Some(Some(out.map(Bytes::from))),
        }
    }
}

impl Source for Zipper {
    fn at_once(&mut self) -> Poll<Option<io::Result<Bytes>>> {
        if self.large {
            return Poll::Pending;
        }
        loop {
            let read = ready!(self.source.at_once());
            if let Some(out) = self.take(read) {
                return Poll::Ready(out);
            }
        }
    }

    fn wait(&mut self) -> Option<io::Result<Bytes>> {
        loop {
            let read = self.source.wait();
            if let Some(out) = self.take(read) {
                return out;
            }
        }
    }
}

impl Gzipped {
    pub fn new(opened: Opened) -> Self {
        let (identity, length) = (opened.identity, opened.length);
        let encoder = GzEncoder::new(Vec::new(), Compression::new(5));
        let source = Reader::new(opened.file, 0, length);
        let zipper = Zipper { source, encoder: Some(encoder), large: length > AT_ONCE };
        Self { pieces: Pieces::new(zipper), identity, all: Some(BytesMut::new()) }
    }

    /// The next piece; never an empty one.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<io::Result<Bytes>>> {
        let piece = ready!(self.pieces.poll_next(cx));
        match &piece {
            Some(Ok(piece)) => self.keep(piece),
            Some(Err(_)) => self.all = None,
            None => self.is_whole(),
        }
        Poll::Ready(piece)
    }

    fn keep(&mut self, piece: &Bytes) {
        let room = |all: &BytesMut| all.len() + piece.len() <= KEPT_EACH;
        self.all = self.all.take().filter(room);
        if let Some(all) = &mut self.all {
            all.extend_from_slice(piece);
        }
    }

    fn is_whole(&mut self) {
        if let Some(all) = self.all.take() {
            CACHE.with_borrow_mut(|cache| cache.insert(self.identity, all.freeze()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_stays_within_its_bound_and_the_oldest_goes_first() {
        let mut cache = Cache::default();
        let piece = Bytes::from(vec![0; KEPT_EACH]);
        for n in 0..40 {
            cache.insert((0, n, 0, 0), piece.clone());
        }
        assert!(cache.size <= KEPT && cache.kept.len() == cache.order.len());
        assert!(cache.kept.contains_key(&(0, 39, 0, 0)) && !cache.kept.contains_key(&(0, 0, 0, 0)));
    }

    #[test]
    fn pictures_and_short_files_are_left_as_they_are() {
        assert!(is_worth("text/html; charset=utf-8", 5000) && is_worth("image/svg+xml", 5000));
        assert!(!is_worth("image/png", 5000) && !is_worth("text/plain; charset=utf-8", 100));
    }
}
