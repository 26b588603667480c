//! The Huffman code of field names and values (RFC 7541, appendix B).
//!
//! The code is canonical: codes of one length follow each other in the order of their symbols, and longer ones
//! follow shorter ones. So the lengths say everything, and all tables are made of them at compile time.

use super::Odd;

/// Bits of the code of each byte, and of the end of a string, which is never sent.
#[rustfmt::skip]
const LENGTHS: [u8; SYMBOLS] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28,
    28, 28, 28, 28, 28, 28, 28, 28, 6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6,
    5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10, 13, 6, 7, 7, 7, 7, 7, 7,
    7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6,
    15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, 6, 7, 6, 5, 5, 6, 7, 7,
    7, 7, 7, 15, 11, 14, 13, 28, 20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23,
    24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24, 22, 21, 20, 22, 22, 23, 23, 21,
    23, 22, 22, 24, 21, 22, 23, 23, 21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23,
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, 19, 21, 26, 27, 27, 26, 27, 24,
    21, 21, 26, 26, 28, 27, 27, 27, 20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23,
    26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26, 30,
];

const SYMBOLS: usize = 257;
const END: u16 = 256;
const LONGEST: usize = 30;
/// Most symbols have codes of at most so many bits.
const SHORT: usize = 8;

struct Code {
    /// The code of each symbol, in its lowest bits.
    codes: [u32; SYMBOLS],
    /// Symbols in the order of their codes.
    sorted: [u16; SYMBOLS],
    /// For each length, its first code in the highest bits, where that symbol is in `sorted`, and the first value
    /// behind its codes.
    first: [u32; LONGEST + 1],
    place: [u16; LONGEST + 1],
    limit: [u64; LONGEST + 1],
    /// For each start of a short code its symbol and length; a length of 0 where the code is longer.
    short: [(u8, u8); 1 << SHORT],
}

static CODE: Code = code();

const fn code() -> Code {
    let mut code = Code {
        codes: [0; SYMBOLS],
        sorted: [0; SYMBOLS],
        first: [0; LONGEST + 1],
        place: [0; LONGEST + 1],
        limit: [0; LONGEST + 1],
        short: [(0, 0); 1 << SHORT],
    };
    let (mut next, mut place, mut length) = (0u64, 0, 1);
    while length <= LONGEST {
        next <<= 1;
        code.first[length] = (next << (32 - length)) as u32;
        code.place[length] = place as u16;
        let mut symbol = 0;
        while symbol < SYMBOLS {
            if LENGTHS[symbol] as usize == length {
                code.codes[symbol] = next as u32;
                code.sorted[place] = symbol as u16;
                if length <= SHORT {
                    let mut tail = 0;
                    while tail < 1 << (SHORT - length) {
                        let start = ((next as usize) << (SHORT - length)) + tail;
                        code.short[start] = (symbol as u8, length as u8);
                        tail += 1;
                    }
                }
                place += 1;
                next += 1;
            }
            symbol += 1;
        }
        code.limit[length] = next << (32 - length);
        length += 1;
    }
    code
}

/// Appends what `bytes` stand for.
pub fn decode(bytes: &[u8], into: &mut Vec<u8>) -> Result<(), Odd> {
    // The highest `count` of the bits are still to be read; the others are 0.
    let (mut bits, mut count) = (0u64, 0u32);
    let mut rest = bytes.iter();
    loop {
        while count <= 56 {
            let Some(byte) = rest.next() else { break };
            bits |= u64::from(*byte) << (56 - count);
            count += 8;
        }
        if count == 0 {
            return Ok(());
        }
        let window = (bits >> 32) as u32;
        let (symbol, length) = match CODE.short[(window >> 24) as usize] {
            (_, 0) => long(window),
            (symbol, length) => (u16::from(symbol), u32::from(length)),
        };
        if length > count {
            // What is left are the first bits of the end, fewer than a byte.
            let padding = count < 8 && bits >> (64 - count) == (1 << count) - 1;
            return if padding { Ok(()) } else { Err(Odd) };
        }
        if symbol == END {
            return Err(Odd);
        }
        into.push(symbol as u8);
        bits <<= length;
        count -= length;
    }
}

/// The symbol whose code `window` begins with, and its length.
fn long(window: u32) -> (u16, u32) {
    let mut length = SHORT + 1;
    while length < LONGEST && u64::from(window) >= CODE.limit[length] {
        length += 1;
    }
    let at = (window - CODE.first[length]) >> (32 - length);
    let symbol = CODE.sorted.get(usize::from(CODE.place[length]) + at as usize);
    (symbol.copied().unwrap_or(END), length as u32)
}

/// How many bytes [`encode`] makes of these.
pub fn length(bytes: &[u8]) -> usize {
    let bits: usize = bytes.iter().map(|byte| usize::from(LENGTHS[usize::from(*byte)])).sum();
    bits.div_ceil(8)
}

pub fn encode(bytes: &[u8], into: &mut Vec<u8>) {
    let (mut bits, mut count) = (0u64, 0u32);
    for byte in bytes {
        let symbol = usize::from(*byte);
        let length = u32::from(LENGTHS[symbol]);
        bits = bits << length | u64::from(CODE.codes[symbol]);
        count += length;
        while count >= 8 {
            count -= 8;
            into.push((bits >> count) as u8);
        }
    }
    if count > 0 {
        // The rest of the byte is the start of the end.
        let padding = 8 - count;
        into.push((bits << padding) as u8 | ((1u16 << padding) - 1) as u8);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_examples_of_the_rfc_read_and_write_the_same() {
        // RFC 7541, C.4 and C.6.
        for (text, code) in [
            ("www.example.com", "f1e3c2e5f23a6ba0ab90f4ff"),
            ("no-cache", "a8eb10649cbf"),
            ("custom-value", "25a849e95bb8e8b4bf"),
            ("302", "6402"),
            ("Mon, 21 Oct 2013 20:13:21 GMT", "d07abe941054d444a8200595040b8166e082a62d1bff"),
        ] {
            let code = hex::decode(code).unwrap();
            let (mut read, mut written) = (Vec::new(), Vec::new());
            decode(&code, &mut read).unwrap();
            encode(text.as_bytes(), &mut written);
            assert_eq!((String::from_utf8(read).unwrap(), &written), (text.to_owned(), &code));
            assert_eq!(length(text.as_bytes()), code.len());
        }
    }

    #[test]
    fn every_byte_comes_back() {
        let all: Vec<u8> = (0..=255).chain((0..=255).rev()).collect();
        let (mut code, mut back) = (Vec::new(), Vec::new());
        encode(&all, &mut code);
        decode(&code, &mut back).unwrap();
        assert_eq!((back, length(&all)), (all, code.len()));
    }

    #[test]
    fn only_the_start_of_the_end_may_be_padding() {
        let decoded = |bytes: &[u8]| decode(bytes, &mut Vec::new());
        // `0` and padding; too much of it; zeros; the end itself.
        assert_eq!(decoded(&[0b0000_0111]), Ok(()));
        assert_eq!(decoded(&[0b0000_0111, 0xff]), Err(Odd));
        assert_eq!(decoded(&[0b0000_0110]), Err(Odd));
        assert_eq!(decoded(&[0xff; 4]), Err(Odd));
        assert_eq!(decoded(&[0xff]), Err(Odd));
        assert_eq!(decoded(&[]), Ok(()));
    }
}
