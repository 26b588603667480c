//! The lines of a head, of a request or an answer: found and checked in one pass over its bytes.

use std::ops::Range;

/// Fields that a head may have.
pub const MAX_FIELDS: usize = 100;

/// Where a part of a head lies in its bytes. Heads are shorter than 64 KiB.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Span {
    start: u16,
    end: u16,
}

impl Span {
    pub fn new(start: usize, end: usize) -> Self {
        Self { start: start as u16, end: end as u16 }
    }

    pub fn of(self, bytes: &[u8]) -> &[u8] {
        &bytes[self.range()]
    }

    pub fn range(self) -> Range<usize> {
        usize::from(self.start)..usize::from(self.end)
    }
}

/// One line of a head: a field.
#[derive(Debug, Clone, Copy, Default)]
pub struct Line {
    name: Span,
    /// The value without the white space around it.
    value: Span,
    /// Behind the line's end.
    end: u16,
}

impl Line {
    pub fn name(self, head: &[u8]) -> &[u8] {
        self.name.of(head)
    }

    pub fn value(self, head: &[u8]) -> &[u8] {
        self.value.of(head)
    }

    pub fn value_span(self) -> Span {
        self.value
    }

    /// Where the whole line lies, its CRLF included.
    pub fn place(self) -> Range<usize> {
        usize::from(self.name.start)..usize::from(self.end)
    }
}

/// A place for the fields of a head. Large: whoever reads a head has one, and nobody moves it.
pub struct Lines {
    lines: [Line; MAX_FIELDS],
    count: usize,
}

impl Lines {
    pub fn new() -> Self {
        Self { lines: [Line::default(); MAX_FIELDS], count: 0 }
    }

    /// False if there are too many.
    pub fn push(&mut self, line: Line) -> bool {
        let Some(free) = self.lines.get_mut(self.count) else { return false };
        *free = line;
        self.count += 1;
        true
    }

    pub fn all(&self) -> &[Line] {
        &self.lines[..self.count]
    }
}

/// The line is no field, or does not end with CRLF.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Odd;

/// What begins at some place of a head.
pub enum Next {
    Field(Line),
    /// The empty line; the head ends at this place.
    End(usize),
    /// More has to come before it can be said.
    Incomplete,
}

/// Reads the line that begins at `start`.
pub fn next(bytes: &[u8], start: usize) -> Result<Next, Odd> {
    let name = start + span_of(&bytes[start..], TOKEN);
    match bytes.get(name) {
        Some(b':') if name > start => {}
        Some(b'\r') if name == start => {
            return Ok(line_feed(bytes, name + 1)?.map_or(Next::Incomplete, Next::End));
        }
        None => return Ok(Next::Incomplete),
        Some(_) => return Err(Odd),
    }
    let mut from = name + 1;
    while bytes.get(from).is_some_and(|byte| is_blank(*byte)) {
        from += 1;
    }
    let Some((stop, end)) = line_end(bytes, from)? else { return Ok(Next::Incomplete) };
    let mut to = stop;
    while to > from && is_blank(bytes[to - 1]) {
        to -= 1;
    }
    Ok(Next::Field(Line {
        name: Span::new(start, name),
        value: Span::new(from, to),
        end: end as u16,
    }))
}

/// Where the line ends that is looked at from `from` on: before and behind its CRLF.
pub fn line_end(bytes: &[u8], from: usize) -> Result<Option<(usize, usize)>, Odd> {
    let stop = visible_until(bytes, from);
    match bytes.get(stop) {
        None => Ok(None),
        Some(b'\r') => Ok(line_feed(bytes, stop + 1)?.map(|end| (stop, end))),
        Some(_) => Err(Odd),
    }
}

/// Behind the line feed that has to be at `at`.
fn line_feed(bytes: &[u8], at: usize) -> Result<Option<usize>, Odd> {
    match bytes.get(at) {
        None => Ok(None),
        Some(b'\n') => Ok(Some(at + 1)),
        Some(_) => Err(Odd),
    }
}

/// The place of the first control byte at or behind `at`; a tab is none.
fn visible_until(bytes: &[u8], mut at: usize) -> usize {
    const ONES: u64 = u64::MAX / 255;
    const HIGH: u64 = ONES << 7;
    // Eight bytes at once. Above the first byte that is found others may be, wrongly.
    while let Some(eight) = bytes[at..].first_chunk::<8>() {
        let word = u64::from_le_bytes(*eight);
        let deleted = word ^ (ONES * 0x7f);
        let low = word.wrapping_sub(ONES * 0x20) & !word;
        let found = (low | (deleted.wrapping_sub(ONES) & !deleted)) & HIGH;
        if found == 0 {
            at += 8;
            continue;
        }
        at += found.trailing_zeros() as usize / 8;
        if bytes[at] != b'\t' {
            return at;
        }
        at += 1;
    }
    at + span_of(&bytes[at..], VISIBLE)
}

/// Whether `bytes` can be a value.
pub fn is_visible(bytes: &[u8]) -> bool {
    visible_until(bytes, 0) == bytes.len()
}

/// How many of the first bytes are of the class.
pub fn span_of(bytes: &[u8], class: u8) -> usize {
    bytes.iter().position(|byte| !is(*byte, class)).unwrap_or(bytes.len())
}

/// Whether every byte is of the class.
pub fn all(bytes: &[u8], class: u8) -> bool {
    span_of(bytes, class) == bytes.len()
}

fn is(byte: u8, class: u8) -> bool {
    CLASSES[usize::from(byte)] & class != 0
}

pub fn is_blank(byte: u8) -> bool {
    byte == b' ' || byte == b'\t'
}

/// What a byte may be part of, a bit each: a name or method, a target, a value, a host.
pub const TOKEN: u8 = 1;
pub const TARGET: u8 = 2;
pub const VISIBLE: u8 = 4;
pub const HOST: u8 = 8;

static CLASSES: [u8; 256] = classes();

const fn classes() -> [u8; 256] {
    let mut classes = [0; 256];
    let mut at = 0;
    while at < 256 {
        let byte = at as u8;
        let alphanumeric = byte.is_ascii_alphanumeric();
        if alphanumeric || within(byte, b"!#$%&'*+-.^_`|~") {
            classes[at] |= TOKEN;
        }
        if byte > 0x20 && byte < 0x7f && !within(byte, b"#\\\"<>^`{|}") {
            classes[at] |= TARGET;
        }
        if byte == b'\t' || (byte >= 0x20 && byte != 0x7f) {
            classes[at] |= VISIBLE;
        }
        if alphanumeric || within(byte, b".-_:[]") {
            classes[at] |= HOST;
        }
        at += 1;
    }
    classes
}

const fn within(byte: u8, set: &[u8]) -> bool {
    let mut at = 0;
    while at < set.len() {
        if set[at] == byte {
            return true;
        }
        at += 1;
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_control_byte_is_found_wherever_it_stands_and_whatever_surrounds_it() {
        for control in (0..0x20).chain([0x7f]).filter(|byte| *byte != b'\t') {
            for around in [b' ', b'a', b'\t', 0x80, 0xff, 0x7e, 0xa0] {
                for at in 0..40 {
                    let mut bytes = vec![around; 41];
                    bytes[at] = control;
                    assert_eq!(visible_until(&bytes, 0), at, "{control:#x} among {around:#x}");
                    assert_eq!(visible_until(&bytes[..at], 0), at);
                }
            }
        }
    }
}
