//! Validators of a file, and what a request asks for by them: nothing if unchanged, or a part.

use std::time::{Duration, UNIX_EPOCH};

use http::header::{HeaderMap, HeaderName, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, RANGE};

use super::open::Opened;

pub struct Validators {
    pub etag: String,
    pub modified: Option<String>,
}

/// The bytes a request asks for, the end not included.
#[derive(Debug, PartialEq, Eq)]
pub enum Span {
    Whole,
    Part(u64, u64),
    Unsatisfiable,
}

impl Validators {
    /// The release is part of the tag: builds often set all times alike, and pages of two releases may differ
    /// only in a hash of the same length.
    pub fn new(release: &str, opened: &Opened) -> Self {
        let since = opened.modified.duration_since(UNIX_EPOCH).unwrap_or_default();
        let variant = opened.encoding.map(|e| format!("-{e}")).unwrap_or_default();
        let etag = format!("\"{release}-{:x}-{:x}{variant}\"", since.as_nanos(), opened.length);
        Self { etag, modified: http_date(since) }
    }

    /// Whether the client has it already. A date counts only when it is exactly ours: after a rollback the
    /// newer date is the wrong one.
    pub fn unchanged(&self, headers: &HeaderMap) -> bool {
        if headers.contains_key(IF_NONE_MATCH) {
            let values = headers.get_all(IF_NONE_MATCH).iter().filter_map(|v| v.to_str().ok());
            return values
                .flat_map(|value| value.split(','))
                .map(str::trim)
                .any(|tag| tag == "*" || tag.strip_prefix("W/").unwrap_or(tag) == self.etag);
        }
        self.modified.is_some() && text(headers, IF_MODIFIED_SINCE) == self.modified.as_deref()
    }

    /// The part that is asked for; several at once are answered with the whole.
    pub fn span(&self, headers: &HeaderMap, length: u64) -> Span {
        let outdated = text(headers, IF_RANGE)
            .is_some_and(|have| have != self.etag && Some(have) != self.modified.as_deref());
        let asked = text(headers, RANGE).and_then(|range| range.strip_prefix("bytes="));
        match asked.filter(|_| !outdated) {
            Some(range) => part(range.trim(), length).unwrap_or(Span::Whole),
            None => Span::Whole,
        }
    }
}

fn text(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

fn part(range: &str, length: u64) -> Option<Span> {
    let (from, until) = range.split_once('-')?;
    let number = |text: &str| {
        let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        digits.then(|| text.parse::<u64>().unwrap_or(u64::MAX))
    };
    let (from, until) = match (from, until) {
        ("", last) => (length.saturating_sub(number(last)?), length),
        (from, "") => (number(from)?, length),
        (from, until) => {
            let (from, until) = (number(from)?, number(until)?);
            if until < from {
                return None;
            }
            (from, until.saturating_add(1).min(length))
        }
    };
    Some(if from < until { Span::Part(from, until) } else { Span::Unsatisfiable })
}

fn http_date(since: Duration) -> Option<String> {
    let time = jiff::Timestamp::from_second(i64::try_from(since.as_secs()).ok()?).ok()?;
    jiff::fmt::rfc2822::DateTimePrinter::new().timestamp_to_rfc9110_string(&time).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_cut_to_the_file() {
        assert_eq!(part("0-4", 10), Some(Span::Part(0, 5)));
        assert_eq!(part("5-", 10), Some(Span::Part(5, 10)));
        assert_eq!(part("-3", 10), Some(Span::Part(7, 10)));
        assert_eq!(part("-30", 10), Some(Span::Part(0, 10)));
        assert_eq!(part("5-99999999999999999999999", 10), Some(Span::Part(5, 10)));
        assert_eq!(part("10-", 10), Some(Span::Unsatisfiable));
        assert_eq!(part("-0", 10), Some(Span::Unsatisfiable));
        for odd in ["4-2", "a-b", "", "-", "0-1,3-4", "+1-2"] {
            assert_eq!(part(odd, 10), None, "{odd}");
        }
    }
}
