//! Compresses files while they are sent, piece by piece, and keeps what came out for the next request.
//!
//! Gzip alone: every client takes it, and what is worth more is compressed beforehand by the build. At most one
//! piece is compressed at a time, so that no other request of the worker waits longer than that takes.

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::io::{self, Write};

use bytes::{Bytes, BytesMut};
use flate2::Compression;
use flate2::write::GzEncoder;

use super::open::{FileBody, Opened};

/// Below this, the head outweighs what is saved.
const LEAST: u64 = 1024;
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
    source: FileBody,
    encoder: Option<GzEncoder<Vec<u8>>>,
    identity: Identity,
    /// What came out so far, as long as it may be kept.
    all: Option<BytesMut>,
}

impl Gzipped {
    pub fn new(opened: Opened) -> Self {
        let (identity, length) = (opened.identity, opened.length);
        let encoder = GzEncoder::new(Vec::new(), Compression::new(5));
        let source = FileBody::new(opened.file, 0, length);
        Self { source, encoder: Some(encoder), identity, all: Some(BytesMut::new()) }
    }

    pub fn is_over(&self) -> bool {
        self.encoder.is_none()
    }

    /// The next piece; never an empty one.
    pub fn next(&mut self) -> Option<io::Result<Bytes>> {
        while let Some(encoder) = &mut self.encoder {
            let out = match self.source.next() {
                Some(Ok(piece)) => encoder.write_all(&piece).map(|()| {
                    let out = encoder.get_mut();
                    // A few bytes at a time would cost more than they are worth.
                    if out.len() < LEAST as usize { Vec::new() } else { std::mem::take(out) }
                }),
                Some(Err(error)) => Err(error),
                None => self.encoder.take()?.finish(),
            };
            match out {
                Ok(out) if out.is_empty() => {}
                Ok(out) => return Some(Ok(self.keep(out.into()))),
                Err(error) => {
                    self.encoder = None;
                    return Some(Err(error));
                }
            }
        }
        None
    }

    fn keep(&mut self, piece: Bytes) -> Bytes {
        let room = |all: &BytesMut| all.len() + piece.len() <= KEPT_EACH;
        self.all = self.all.take().filter(room);
        let Some(all) = &mut self.all else { return piece };
        all.extend_from_slice(&piece);
        if self.encoder.is_none() {
            let whole = std::mem::take(all).freeze();
            CACHE.with_borrow_mut(|cache| cache.insert(self.identity, whole));
        }
        piece
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
