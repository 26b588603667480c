//! The compression of header fields in HTTP/2 (RFC 7541).
//!
//! Both sides keep the fields they saw last, and name them by number: [`Decoder`] for what a client sends,
//! [`Encoder`] for what it is sent.

mod decoder;
mod encoder;
mod fixed;
mod huffman;

use std::collections::VecDeque;

pub use decoder::Decoder;
pub use encoder::Encoder;

/// What a client sent cannot be read; nothing that follows on its connection can.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Odd;

/// The size of a table before anybody says anything else, in bytes (RFC 9113, 6.5.2).
pub const TABLE: usize = 4096;

/// The fields that were seen last, the newest first (RFC 7541, 2.3.2).
#[derive(Default)]
struct Recent {
    fields: VecDeque<Field>,
    /// By the measure of RFC 7541, 4.1, in bytes.
    size: usize,
}

struct Field {
    /// The name, and the value behind it.
    bytes: Box<[u8]>,
    name: usize,
}

impl Field {
    /// What a field counts beyond its bytes.
    const OVERHEAD: usize = 32;

    fn size(name: &[u8], value: &[u8]) -> usize {
        name.len() + value.len() + Self::OVERHEAD
    }

    fn name(&self) -> &[u8] {
        &self.bytes[..self.name]
    }

    fn value(&self) -> &[u8] {
        &self.bytes[self.name..]
    }
}

impl Recent {
    fn get(&self, index: usize) -> Option<(&[u8], &[u8])> {
        self.fields.get(index).map(|field| (field.name(), field.value()))
    }

    /// Adds a field, for which older ones may have to go. One that is larger than `limit` leaves nothing.
    fn add(&mut self, name: &[u8], value: &[u8], limit: usize) {
        let size = Field::size(name, value);
        self.shrink(limit.saturating_sub(size));
        if size <= limit {
            self.size += size;
            self.fields
                .push_front(Field { bytes: [name, value].concat().into(), name: name.len() });
        }
    }

    fn shrink(&mut self, limit: usize) {
        while self.size > limit {
            let Some(oldest) = self.fields.pop_back() else { return };
            self.size -= oldest.bytes.len() + Field::OVERHEAD;
        }
    }
}
