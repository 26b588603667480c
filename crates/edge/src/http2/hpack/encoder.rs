//! Writes the fields that a client is sent.

use http::HeaderMap;

use super::{Field, Recent, TABLE, fixed, huffman};

/// One connection's. What is written must be sent, in its order.
pub struct Encoder {
    /// The newest of the fields that the client keeps too. It may keep more of them.
    recent: Recent,
    limit: usize,
    /// The client wants a smaller table, and has to hear that it has one.
    smaller: bool,
}

impl Default for Encoder {
    fn default() -> Self {
        Self { recent: Recent::default(), limit: TABLE, smaller: false }
    }
}

/// Looking through more than these would cost more than it saves.
const FIELDS: usize = 24;
/// Longer values do not come often enough to be kept.
const LONG: usize = 128;

impl Encoder {
    /// The client keeps at most so many bytes from now on.
    pub fn resize(&mut self, limit: usize) {
        if limit < self.limit {
            self.limit = limit;
            self.recent.shrink(limit);
            self.smaller = true;
        }
    }

    /// Begins a block; all its fields have to follow.
    pub fn begin(&mut self, into: &mut Vec<u8>) {
        if std::mem::take(&mut self.smaller) {
            integer(0x20, 5, self.limit, into);
        }
    }

    pub fn status(&mut self, status: u16, into: &mut Vec<u8>) {
        if let Some(index) = fixed::status(status) {
            return into.push(0x80 | index);
        }
        let digits = [status / 100, status / 10 % 10, status % 10].map(|digit| b'0' + digit as u8);
        // `:status`, with another value and not to be kept.
        into.extend_from_slice(&[0x08, 3]);
        into.extend_from_slice(&digits);
    }

    pub fn fields(&mut self, fields: &HeaderMap, into: &mut Vec<u8>) {
        for (name, value) in fields {
            self.field(name.as_str().as_bytes(), value.as_bytes(), into);
        }
    }

    /// A field; `name` in lower case.
    pub fn field(&mut self, name: &[u8], value: &[u8], into: &mut Vec<u8>) {
        let comes_again = comes_again(name) && value.len() <= LONG;
        let mut known = None;
        if comes_again {
            for (index, field) in self.recent.fields.iter().enumerate() {
                if field.name() != name {
                    continue;
                }
                let index = fixed::FIRST_RECENT + index;
                if field.value() == value {
                    return integer(0x80, 7, index, into);
                }
                known.get_or_insert(index);
            }
        }
        let known = fixed::name(name).map(usize::from).or(known);
        let (kind, prefix) = match name {
            _ if comes_again => (0x40, 6),
            // Never to be kept, by no proxy either (RFC 7541, 7.1.3).
            b"set-cookie" => (0x10, 4),
            _ => (0x00, 4),
        };
        integer(kind, prefix, known.unwrap_or_default(), into);
        if known.is_none() {
            string(name, into);
        }
        string(value, into);
        if comes_again {
            self.keep(name, value);
        }
    }

    fn keep(&mut self, name: &[u8], value: &[u8]) {
        self.recent.add(name, value, self.limit);
        if self.recent.fields.len() > FIELDS
            && let Some(oldest) = self.recent.fields.pop_back()
        {
            self.recent.size -= oldest.bytes.len() + Field::OVERHEAD;
        }
    }
}

/// Whether a field of this name is likely to be the same in the next answer.
fn comes_again(name: &[u8]) -> bool {
    !matches!(
        name,
        b"age"
            | b"content-length"
            | b"content-range"
            | b"etag"
            | b"last-modified"
            | b"location"
            | b"set-cookie"
            | b"x-request-id"
    )
}

/// An integer in the lowest `prefix` bits of a byte of this kind, and in those that follow (RFC 7541, 5.1).
fn integer(kind: u8, prefix: u32, value: usize, into: &mut Vec<u8>) {
    let most = (1usize << prefix) - 1;
    if value < most {
        return into.push(kind | value as u8);
    }
    into.push(kind | most as u8);
    let mut rest = value - most;
    while rest >= 0x80 {
        into.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    into.push(rest as u8);
}

fn string(bytes: &[u8], into: &mut Vec<u8>) {
    let compressed = huffman::length(bytes);
    if compressed < bytes.len() {
        integer(0x80, 7, compressed, into);
        huffman::encode(bytes, into);
    } else {
        integer(0, 7, bytes.len(), into);
        into.extend_from_slice(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::super::Decoder;
    use super::*;

    fn pass(
        encoder: &mut Encoder,
        decoder: &mut Decoder,
        fields: &[(&str, &str)],
    ) -> (usize, Vec<(String, String)>) {
        let mut block = Vec::new();
        encoder.begin(&mut block);
        encoder.status(418, &mut block);
        for (name, value) in fields {
            encoder.field(name.as_bytes(), value.as_bytes(), &mut block);
        }
        let mut read = Vec::new();
        let text = |bytes: &[u8]| String::from_utf8(bytes.into()).unwrap();
        decoder.decode(&block, |name, value| read.push((text(name), text(value)))).unwrap();
        assert_eq!(read.remove(0), (":status".into(), "418".into()));
        (block.len(), read)
    }

    #[test]
    fn what_is_written_is_read_the_same_whatever_came_before() {
        let (mut encoder, mut decoder) = (Encoder::default(), Decoder::default());
        for round in 0..200 {
            let (unlike, long) = (format!("value {round}"), "v".repeat(round * 7 % 300));
            let name = format!("x-{}", round % 40);
            let fields = [
                ("content-type", "text/html"),
                ("server", "tea"),
                ("set-cookie", "a=b"),
                ("x-own", &unlike),
                (&name, &long),
            ];
            if round == 150 {
                encoder.resize(100);
            }
            let (_, read) = pass(&mut encoder, &mut decoder, &fields);
            let read: Vec<_> = read.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
            assert_eq!(read, fields, "round {round}");
        }
    }

    #[test]
    fn a_field_that_comes_again_takes_a_byte() {
        let (mut encoder, mut decoder) = (Encoder::default(), Decoder::default());
        let fields = [("content-type", "text/html"), ("x-frame-options", "DENY")];
        let (first, _) = pass(&mut encoder, &mut decoder, &fields);
        let (second, _) = pass(&mut encoder, &mut decoder, &fields);
        assert!(first > 20 && second == 5 + 2, "{first}, {second}");
        encoder.resize(0);
        let (third, read) = pass(&mut encoder, &mut decoder, &fields);
        assert!(third > 20 && read[1].1 == "DENY");
        // The table of no size stays so.
        assert_eq!(pass(&mut encoder, &mut decoder, &fields).0, third - 1);
    }
}
