//! Reads the fields that a client sends.

use super::{Odd, Recent, TABLE, fixed, huffman};

/// One connection's. Blocks must come in their order, and all of them: each may say something about later ones.
pub struct Decoder {
    recent: Recent,
    /// What the client said that it uses of [`TABLE`].
    limit: usize,
    name: Vec<u8>,
    value: Vec<u8>,
}

impl Default for Decoder {
    fn default() -> Self {
        Self { recent: Recent::default(), limit: TABLE, name: Vec::new(), value: Vec::new() }
    }
}

/// Bytes of fields that a block may stand for. No head that is answered is nearly as large; what is larger was made to
/// keep us busy.
const MOST: usize = 256 * 1024;
/// Strings that were longer than this leave no room behind.
const KEPT: usize = 1024;

impl Decoder {
    /// Gives `sink` the name and value of each field in `block`.
    pub fn decode(&mut self, block: &[u8], mut sink: impl FnMut(&[u8], &[u8])) -> Result<(), Odd> {
        let mut rest = block;
        let (mut began, mut size) = (false, 0);
        let mut sink = |name: &[u8], value: &[u8]| {
            size += name.len() + value.len();
            sink(name, value);
            if size > MOST { Err(Odd) } else { Ok(()) }
        };
        while let Some(first) = rest.first().copied() {
            match first {
                0x80.. => {
                    let (name, value) = self.known(integer(&mut rest, 7)?)?;
                    sink(name, value)?;
                }
                0x40.. => self.literal(&mut rest, 6, true, &mut sink)?,
                0x20.. => {
                    // Only in front of all fields (RFC 7541, 4.2).
                    let limit = integer(&mut rest, 5)?;
                    if began || limit > TABLE {
                        return Err(Odd);
                    }
                    self.limit = limit;
                    self.recent.shrink(limit);
                    continue;
                }
                _ => self.literal(&mut rest, 4, false, &mut sink)?,
            }
            began = true;
        }
        for scratch in [&mut self.name, &mut self.value] {
            if scratch.capacity() > KEPT {
                *scratch = Vec::new();
            }
        }
        Ok(())
    }

    fn known(&self, index: usize) -> Result<(&[u8], &[u8]), Odd> {
        let field = match index.checked_sub(fixed::FIRST_RECENT) {
            Some(recent) => self.recent.get(recent),
            None => fixed::field(index),
        };
        field.ok_or(Odd)
    }

    fn literal(
        &mut self,
        rest: &mut &[u8],
        prefix: u32,
        add: bool,
        sink: &mut impl FnMut(&[u8], &[u8]) -> Result<(), Odd>,
    ) -> Result<(), Odd> {
        let index = integer(rest, prefix)?;
        let mut spelled = std::mem::take(&mut self.name);
        let name = match index {
            0 => string(rest, &mut spelled)?,
            index => {
                spelled.clear();
                spelled.extend_from_slice(self.known(index)?.0);
                &spelled
            }
        };
        let value = string(rest, &mut self.value)?;
        sink(name, value)?;
        if add {
            self.recent.add(name, value, self.limit);
        }
        self.name = spelled;
        Ok(())
    }
}

/// An integer that begins in the lowest `prefix` bits of the next byte (RFC 7541, 5.1). Larger ones than any that
/// we take are odd.
fn integer(rest: &mut &[u8], prefix: u32) -> Result<usize, Odd> {
    let most = (1usize << prefix) - 1;
    let mut value = usize::from(next(rest)?) & most;
    if value < most {
        return Ok(value);
    }
    for shift in [0, 7, 14, 21] {
        let byte = next(rest)?;
        value += usize::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(Odd)
}

fn next(rest: &mut &[u8]) -> Result<u8, Odd> {
    let (first, behind) = rest.split_first().ok_or(Odd)?;
    *rest = behind;
    Ok(*first)
}

/// A string, which is read into `scratch` if it is compressed (RFC 7541, 5.2).
fn string<'s, 'b: 's>(rest: &mut &'b [u8], scratch: &'s mut Vec<u8>) -> Result<&'s [u8], Odd> {
    let compressed = rest.first().is_some_and(|byte| byte & 0x80 != 0);
    let length = integer(rest, 7)?;
    let (bytes, behind) = rest.split_at_checked(length).ok_or(Odd)?;
    *rest = behind;
    if !compressed {
        return Ok(bytes);
    }
    scratch.clear();
    huffman::decode(bytes, scratch)?;
    Ok(scratch)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(decoder: &mut Decoder, block: &[u8]) -> Result<Vec<String>, Odd> {
        let mut fields = Vec::new();
        let text = |bytes: &[u8]| String::from_utf8(bytes.into()).unwrap();
        decoder.decode(block, |name, value| {
            fields.push(format!("{}={}", text(name), text(value)));
        })?;
        Ok(fields)
    }

    #[test]
    fn the_requests_of_the_rfc_are_read_with_what_came_before_them() {
        // RFC 7541, C.3 and C.4: the same three, plain and compressed.
        for blocks in [
            [
                "828684410f7777772e6578616d706c652e636f6d",
                "828684be58086e6f2d6361636865",
                "828785bf400a637573746f6d2d6b65790c637573746f6d2d76616c7565",
            ],
            [
                "828684418cf1e3c2e5f23a6ba0ab90f4ff",
                "828684be5886a8eb10649cbf",
                "828785bf408825a849e95ba97d7f8925a849e95bb8e8b4bf",
            ],
        ] {
            let mut decoder = Decoder::default();
            let read =
                blocks.map(|block| read(&mut decoder, &hex::decode(block).unwrap()).unwrap());
            let first = [":method=GET", ":scheme=http", ":path=/", ":authority=www.example.com"];
            assert_eq!(read[0], first);
            assert_eq!(read[1][4], "cache-control=no-cache");
            assert_eq!(read[2][1..4], [":scheme=https", ":path=/index.html", first[3]]);
            assert_eq!(read[2][4], "custom-key=custom-value");
            assert_eq!(decoder.recent.size, 164);
        }
    }

    #[test]
    fn a_table_holds_as_much_as_was_said_and_forgets_the_oldest() {
        let mut decoder = Decoder::default();
        // 80 bytes: one field of 36, and another for which the first goes.
        assert_eq!(
            read(&mut decoder, &[0x3f, 49, 0x40, 2, b'a', b'b', 2, b'c', b'd']).unwrap(),
            ["ab=cd"]
        );
        assert_eq!(read(&mut decoder, &[0xbe]).unwrap(), ["ab=cd"]);
        let long = [&[0x40, 1, b'n', 30][..], &[b'v'; 30]].concat();
        read(&mut decoder, &long).unwrap();
        assert_eq!(read(&mut decoder, &[0xbf]), Err(Odd));
        read(&mut decoder, &[0x20]).unwrap();
        assert_eq!(read(&mut decoder, &[0xbe]), Err(Odd));
    }

    #[test]
    fn a_short_block_cannot_stand_for_endless_fields() {
        let mut decoder = Decoder::default();
        let long = [&[0x40, 1, b'n', 0x7f, 0xa1, 0x1e][..], &[b'v'; 4000]].concat();
        decoder.decode(&long, |_, _| {}).unwrap();
        assert_eq!(decoder.decode(&[0xbe; 60], |_, _| {}), Ok(()));
        assert_eq!(decoder.decode(&[0xbe; 70], |_, _| {}), Err(Odd));
    }

    #[test]
    fn what_no_client_may_send_is_odd() {
        for block in [
            // No such field; a name that does not end; a larger table; a size between fields; an endless number.
            &[0x80][..],
            &[0xc0],
            &[0x40, 5, b'a'],
            &[0x40],
            &[0x3f, 0xe2, 0x1f],
            &[0x82, 0x20],
            &[0xff, 0x80, 0x80, 0x80, 0x80, 0x80, 1],
            &[0x00, 0x81, 0x00, 0x00],
        ] {
            assert_eq!(read(&mut Decoder::default(), block), Err(Odd), "{block:x?}");
        }
    }
}
