//! Random numbers for one worker: choices, request ids, trace ids.

use std::cell::Cell;
use std::hash::{BuildHasher, RandomState};

use http::HeaderValue;

/// A generator of its own per worker (SplitMix64, seeded by the system): fast, not for secrets.
pub struct Ids(Cell<u64>);

impl Ids {
    pub fn new(worker: usize) -> Self {
        Self(Cell::new(RandomState::new().hash_one(worker)))
    }

    pub fn next(&self) -> u64 {
        let state = self.0.get().wrapping_add(0x9E37_79B9_7F4A_7C15);
        self.0.set(state);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// 32 hexadecimal digits.
    pub fn request_id(&self) -> HeaderValue {
        let mut text = [0; 32];
        self.digits(&mut text);
        value(&text)
    }

    /// A W3C trace context that begins here, sampled.
    pub fn traceparent(&self) -> HeaderValue {
        let mut text = *b"00-00000000000000000000000000000000-0000000000000000-01";
        self.digits(&mut text[3..35]);
        self.digits(&mut text[36..52]);
        value(&text)
    }

    fn digits(&self, into: &mut [u8]) {
        for chunk in into.chunks_mut(16) {
            // An all-zero id is not valid in a trace context.
            let mut bits = self.next().max(1);
            for digit in chunk.iter_mut() {
                *digit = b"0123456789abcdef"[(bits & 15) as usize];
                bits >>= 4;
            }
        }
    }
}

fn value(text: &[u8]) -> HeaderValue {
    HeaderValue::from_bytes(text).unwrap_or(HeaderValue::from_static("unknown"))
}
