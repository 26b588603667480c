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

    pub fn request_id(&self) -> HeaderValue {
        value(&self.request_id_digits())
    }

    /// 32 hexadecimal digits.
    pub fn request_id_digits(&self) -> [u8; 32] {
        let mut text = [0; 32];
        self.digits(&mut text);
        text
    }

    pub fn traceparent(&self) -> HeaderValue {
        value(&self.trace_digits())
    }

    /// A W3C trace context that begins here, sampled.
    pub fn trace_digits(&self) -> [u8; 55] {
        let mut text = *b"00-00000000000000000000000000000000-0000000000000000-01";
        self.digits(&mut text[3..35]);
        self.digits(&mut text[36..52]);
        text
    }

    fn digits(&self, into: &mut [u8]) {
        for sixteen in into.chunks_exact_mut(16) {
            // An all-zero id is not valid in a trace context.
            let bits = self.next().max(1);
            sixteen[..8].copy_from_slice(&eight_digits(bits as u32));
            sixteen[8..].copy_from_slice(&eight_digits((bits >> 32) as u32));
        }
    }
}

/// The hexadecimal digits of `bits`, all at once: a byte of the word for each.
fn eight_digits(bits: u32) -> [u8; 8] {
    let mut word = u64::from(bits);
    word = (word | (word << 16)) & 0x0000_FFFF_0000_FFFF;
    word = (word | (word << 8)) & 0x00FF_00FF_00FF_00FF;
    word = (word | (word << 4)) & 0x0F0F_0F0F_0F0F_0F0F;
    let above_nine = ((word + 0x0606_0606_0606_0606) >> 4) & 0x0101_0101_0101_0101;
    let digits = word + 0x3030_3030_3030_3030 + above_nine * u64::from(b'a' - b'9' - 1);
    digits.to_be_bytes()
}

fn value(text: &[u8]) -> HeaderValue {
    HeaderValue::from_bytes(text).unwrap_or(HeaderValue::from_static("unknown"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_are_the_ones_everybody_writes() {
        for bits in [0, 1, 9, 10, 0x0123_4567, 0x89ab_cdef, u32::MAX] {
            assert_eq!(eight_digits(bits), format!("{bits:08x}").as_bytes());
        }
    }
}
