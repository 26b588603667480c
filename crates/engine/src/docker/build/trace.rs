//! What BuildKit tells while it builds: protobuf messages, of which we read what people want to see.
//!
//! `StatusResponse` and its parts: <https://github.com/moby/buildkit/blob/master/api/services/control/control.proto>.

use std::collections::BTreeMap;

/// Turns messages into lines like those of `docker build --progress=plain`.
#[derive(Debug, Default)]
pub struct Trace {
    numbers: BTreeMap<String, Numbered>,
}

#[derive(Debug)]
struct Numbered {
    number: usize,
    done: bool,
    /// The end of its output that is no whole line yet.
    rest: String,
}

/// What one message came to.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Told {
    pub lines: Vec<String>,
    /// The step that failed, and why.
    pub failed: Option<(String, String)>,
}

impl Trace {
    /// Reads one message; what cannot be read says nothing.
    pub fn read(&mut self, message: &[u8]) -> Told {
        let mut told = Told::default();
        for (field, value) in fields(message) {
            match (field, value) {
                (1, Value::Bytes(vertex)) => self.vertex(vertex, &mut told),
                (3, Value::Bytes(log)) => self.log(log, &mut told),
                _ => {}
            }
        }
        told
    }

    /// A step of the build: announced once, and once it is done said how it went.
    fn vertex(&mut self, bytes: &[u8], told: &mut Told) {
        let (mut digest, mut name, mut error) = (String::new(), String::new(), String::new());
        let (mut cached, mut started, mut completed) = (false, None, None);
        for (field, value) in fields(bytes) {
            match (field, value) {
                (1, Value::Bytes(text)) => digest = lossy(text),
                (3, Value::Bytes(text)) => name = lossy(text),
                (4, Value::Number(number)) => cached = number != 0,
                (5, Value::Bytes(time)) => started = Some(seconds(time)),
                (6, Value::Bytes(time)) => completed = Some(seconds(time)),
                (7, Value::Bytes(text)) => error = lossy(text),
                _ => {}
            }
        }
        if started.is_none() && !cached || name.starts_with("[internal]") && error.is_empty() {
            return;
        }
        let next = self.numbers.len() + 1;
        let fresh = !self.numbers.contains_key(&digest);
        let fresh_entry = || Numbered { number: next, done: false, rest: String::new() };
        let known = self.numbers.entry(digest).or_insert_with(fresh_entry);
        let number = known.number;
        if fresh {
            told.lines.push(format!("#{number} {name}"));
        }
        let (Some(end), false) = (completed, known.done) else { return };
        known.done = true;
        if !known.rest.is_empty() {
            told.lines.push(format!("#{number} {}", std::mem::take(&mut known.rest)));
        }
        told.lines.push(match (error.is_empty(), cached) {
            (false, _) => format!("#{number} ERROR: {error}"),
            (true, true) => format!("#{number} CACHED"),
            (true, false) => format!("#{number} DONE {:.1}s", end - started.unwrap_or(end)),
        });
        if !error.is_empty() {
            told.failed = Some((name, error));
        }
    }

    fn log(&mut self, bytes: &[u8], told: &mut Told) {
        let (mut digest, mut text) = (String::new(), String::new());
        for (field, value) in fields(bytes) {
            match (field, value) {
                (1, Value::Bytes(of)) => digest = lossy(of),
                (4, Value::Bytes(said)) => text = lossy(said),
                _ => {}
            }
        }
        let Some(known) = self.numbers.get_mut(&digest) else { return };
        known.rest.push_str(&text);
        while let Some(end) = known.rest.find('\n') {
            let line: String = known.rest.drain(..=end).collect();
            // A bar that draws itself again is one line.
            let line = line.trim_end().rsplit('\r').next().unwrap_or_default();
            told.lines.push(format!("#{} {line}", known.number));
        }
    }
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// `google.protobuf.Timestamp`.
fn seconds(bytes: &[u8]) -> f64 {
    fields(bytes).fold(0.0, |sum, (field, value)| match (field, value) {
        (1, Value::Number(seconds)) => sum + seconds as f64,
        (2, Value::Number(nanos)) => sum + nanos as f64 / 1e9,
        _ => sum,
    })
}

/// The value of a field, as it lies on the wire (<https://protobuf.dev/programming-guides/encoding/>).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

/// The fields of a message in their order, up to where it cannot be read.
pub fn fields(mut bytes: &[u8]) -> impl Iterator<Item = (u64, Value<'_>)> {
    std::iter::from_fn(move || {
        let tag = number(&mut bytes)?;
        let value = match tag & 7 {
            0 => Value::Number(number(&mut bytes)?),
            1 => Value::Bytes(take(&mut bytes, 8)?),
            2 => {
                let length = usize::try_from(number(&mut bytes)?).ok()?;
                Value::Bytes(take(&mut bytes, length)?)
            }
            5 => Value::Bytes(take(&mut bytes, 4)?),
            _ => return None,
        };
        Some((tag >> 3, value))
    })
}

fn take<'a>(bytes: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (taken, rest) = bytes.split_at_checked(length)?;
    *bytes = rest;
    Some(taken)
}

fn number(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let byte = *take(bytes, 1)?.first()?;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

/// A field of bytes, as it lies on the wire.
pub fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
    let mut out = vec![number << 3 | 2];
    let mut length = bytes.len();
    while length >= 0x80 {
        out.push(length as u8 | 0x80);
        length >>= 7;
    }
    out.push(length as u8);
    out.extend(bytes);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn time(seconds: u8) -> Vec<u8> {
        vec![8, seconds]
    }

    fn vertex(digest: &str, name: &str, more: &[Vec<u8>]) -> Vec<u8> {
        let mut all = field(1, digest.as_bytes());
        all.extend(field(3, name.as_bytes()));
        all.extend(more.concat());
        field(1, &all)
    }

    fn log(digest: &str, text: &str) -> Vec<u8> {
        field(3, &[field(1, digest.as_bytes()), field(4, text.as_bytes())].concat())
    }

    #[test]
    fn a_step_is_announced_once_and_says_how_it_went() {
        let mut trace = Trace::default();
        let started = vertex("d", "[2/3] RUN make", &[field(5, &time(1))]);
        assert_eq!(trace.read(&started).lines, ["#1 [2/3] RUN make"]);
        assert_eq!(trace.read(&log("d", "one\ntw")).lines, ["#1 one"]);
        assert_eq!(trace.read(&log("d", "o\r100%\nlast")).lines, ["#1 100%"]);
        let failed = vertex(
            "d",
            "[2/3] RUN make",
            &[field(5, &time(1)), field(6, &time(3)), field(7, b"no")],
        );
        let told = trace.read(&failed);
        assert_eq!(told.lines, ["#1 last", "#1 ERROR: no"]);
        assert_eq!(told.failed, Some(("[2/3] RUN make".into(), "no".into())));
        assert_eq!(trace.read(&failed), Told::default());
    }

    #[test]
    fn what_comes_from_the_cache_says_so() {
        let cached = vertex("d", "[1/3] FROM x", &[vec![4 << 3, 1], field(6, &time(3))]);
        assert_eq!(Trace::default().read(&cached).lines, ["#1 [1/3] FROM x", "#1 CACHED"]);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_passed_over(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            Trace::default().read(&bytes);
        }

        #[test]
        fn a_field_reads_as_it_was_written(number in 1u8..16, bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let wire = field(number, &bytes);
            prop_assert_eq!(fields(&wire).collect::<Vec<_>>(), [(u64::from(number), Value::Bytes(&bytes))]);
        }
    }
}
