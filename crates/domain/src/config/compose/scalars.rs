//! Values as Compose writes them: numbers and truth may stand in quotes, since variables fill them in.

use std::time::Duration;

use crate::config::mistake::Mistakes;
use crate::config::reader::{FromNode, wrong};
use crate::config::yaml::{Kind, Node, Value};
use crate::units::{self, Span};

/// A key that may stand there with nothing after it.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::config) struct Maybe<T>(pub Option<T>);

impl<T: FromNode> FromNode for Maybe<T> {
    fn read(node: &Node, mistakes: &mut Mistakes<'_>) -> Option<Self> {
        match node.value {
            Value::Null => Some(Self(None)),
            _ => T::read(node, mistakes).map(|value| Self(Some(value))),
        }
    }
}

/// One value, or a list of them.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::config) struct Some1<T>(pub Vec<T>);

impl<T: FromNode> FromNode for Some1<T> {
    fn read(node: &Node, mistakes: &mut Mistakes<'_>) -> Option<Self> {
        match node.value {
            Value::List(_) => Vec::read(node, mistakes).map(Self),
            _ => T::read(node, mistakes).map(|value| Self(vec![value])),
        }
    }
}

/// Text, also where YAML sees a number; empty text is a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::config) struct Text(pub String);

impl FromNode for Text {
    fn read(node: &Node, mistakes: &mut Mistakes<'_>) -> Option<Self> {
        let text = text_of(node);
        if text.is_none() {
            wrong(node, mistakes, "text", "write one value in the same line");
        }
        text.map(Self)
    }
}

/// The text of a scalar.
pub(in crate::config) fn text_of(node: &Node) -> Option<String> {
    match &node.value {
        Value::Scalar { text, kind: Kind::Number } => Some(number_text(text)),
        Value::Scalar { text, kind: Kind::Bool } => Some(text.to_lowercase()),
        Value::Scalar { text, kind: Kind::Text } => Some(text.clone()),
        _ => None,
    }
}

/// A number without quotes as Compose turns it to text: by its value, so that `1.10` becomes `1.1`.
fn number_text(text: &str) -> String {
    let (sign, digits) = match text.strip_prefix('-') {
        Some(digits) => ("-", digits),
        None => ("", text.strip_prefix('+').unwrap_or(text)),
    };
    let (base, number) = match digits.as_bytes() {
        [b'0', b'x' | b'X', ..] => (16, &digits[2..]),
        [b'0', b'o' | b'O', ..] => (8, &digits[2..]),
        [b'0', b'b' | b'B', ..] => (2, &digits[2..]),
        [b'0', rest @ ..] if !rest.is_empty() => (8, &digits[1..]),
        _ => (10, digits),
    };
    if let Ok(whole) = u64::from_str_radix(number, base) {
        return format!("{sign}{whole}");
    }
    match digits.parse::<f64>() {
        Ok(value) if value.is_finite() && (value == 0.0 || (1e-4..1e21).contains(&value)) => {
            format!("{sign}{value}")
        }
        _ => text.to_owned(),
    }
}

/// `true` or `false`, in all the ways that Compose knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::config) struct Truth(pub bool);

impl FromNode for Truth {
    fn read(node: &Node, mistakes: &mut Mistakes<'_>) -> Option<Self> {
        match text_of(node).unwrap_or_default().to_lowercase().as_str() {
            "true" | "1" | "t" | "y" | "yes" | "on" => Some(Self(true)),
            "false" | "0" | "f" | "n" | "no" | "off" => Some(Self(false)),
            _ => {
                wrong_value(node, mistakes, "`true` or `false`", "write `true` or `false`");
                None
            }
        }
    }
}

/// Notes that a scalar does not say what it should, or that there is no scalar at all.
pub(super) fn wrong_value(node: &Node, mistakes: &mut Mistakes<'_>, what: &str, help: &str) {
    match &node.value {
        Value::Scalar { text, .. } => {
            let key = node.key.as_ref().map_or("this".into(), |key| format!("`{}`", key.text));
            mistakes.add(node.extent, format!("{key} must be {what}, it is `{text}`"), help);
        }
        _ => wrong(node, mistakes, what, help),
    }
}

/// A whole number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::config) struct Whole(pub i64);

impl FromNode for Whole {
    fn read(node: &Node, mistakes: &mut Mistakes<'_>) -> Option<Self> {
        let number = text_of(node).and_then(|text| text.trim().parse().ok());
        if number.is_none() {
            wrong_value(node, mistakes, "a whole number", "write a whole number, like `2`");
        }
        number.map(Self)
    }
}

/// A whole number from 0 up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::config) struct Count(pub u32);

impl FromNode for Count {
    fn read(node: &Node, mistakes: &mut Mistakes<'_>) -> Option<Self> {
        let number = text_of(node).and_then(|text| text.trim().parse().ok());
        if number.is_none() {
            let help = "write a whole number from 0 up, like `2`";
            wrong_value(node, mistakes, "a whole number", help);
        }
        number.map(Self)
    }
}

/// CPUs, in thousandths of one: `0.5`, `2`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::config) struct Cpus(pub u64);

impl FromNode for Cpus {
    fn read(node: &Node, mistakes: &mut Mistakes<'_>) -> Option<Self> {
        let cpus = text_of(node).and_then(|text| text.trim().parse::<f64>().ok());
        let cpus = cpus.filter(|cpus| (0.0..=4096.0).contains(cpus));
        if cpus.is_none() {
            wrong_value(node, mistakes, "a number of CPUs", "write it like `0.5` or `2`");
        }
        cpus.map(|cpus| Self((cpus * 1000.0).round() as u64))
    }
}

/// A number of bytes: `512m`, `1gb`, `1.5g`, `65536`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::config) struct Bytes(pub units::Size);

impl FromNode for Bytes {
    fn read(node: &Node, mistakes: &mut Mistakes<'_>) -> Option<Self> {
        let bytes = text_of(node).and_then(|text| bytes(&text));
        if bytes.is_none() {
            wrong_value(node, mistakes, "a size", "write it like `512m` or `1g`");
        }
        bytes.map(Self)
    }
}

/// Compose's sizes: powers of 1024, whatever the unit is called.
pub(super) fn bytes(text: &str) -> Option<units::Size> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = (&text[..end], text[end..].trim_start_matches(' ').to_lowercase());
    let (factor, rest) = match unit.chars().next().and_then(|first| "kmgtp".find(first)) {
        Some(power) => (1024_f64.powi(power as i32 + 1), &unit[1..]),
        None => (1.0, unit.as_str()),
    };
    let known = ["", "b", "i", "ib"].contains(&rest);
    let number = number
        .parse::<f64>()
        .ok()
        .filter(|_| known && text.starts_with(|c: char| c.is_ascii_digit()))?;
    let total = number * factor;
    (total <= 2_f64.powi(62)).then_some(units::Size(total as u64))
}

/// A duration: `1m30s`, `500ms`, `1.5h`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::config) struct Period(pub Duration);

impl FromNode for Period {
    fn read(node: &Node, mistakes: &mut Mistakes<'_>) -> Option<Self> {
        let Some(text) = text_of(node) else {
            wrong(node, mistakes, "a duration", "write it like `10s` or `1m30s`");
            return None;
        };
        let duration = duration(&text);
        if duration.is_none() {
            let message = format!("`{text}` is not a duration");
            mistakes.add(node.extent, message, "write it like `10s` or `1m30s`");
        }
        duration.map(Self)
    }
}

/// The sum of parts like `1m30s`, each with a unit of its own.
fn duration(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let mut total = Duration::ZERO;
    let mut rest = text;
    while !rest.is_empty() {
        let unit = rest.find(|c: char| c.is_alphabetic())?;
        let end = rest[unit..].find(|c: char| !c.is_alphabetic()).map_or(rest.len(), |n| unit + n);
        let part = match (&rest[..unit], &rest[unit..end]) {
            (number, "us" | "µs" | "μs") => Duration::from_micros(number.parse().ok()?),
            (number, "ns") => Duration::from_nanos(number.parse().ok()?),
            _ => rest[..end].parse::<Span>().ok()?.0,
        };
        total = total.checked_add(part)?;
        rest = &rest[end..];
    }
    (!text.is_empty()).then_some(total)
}

/// The bits of a file's mode. Text is octal; a number is what YAML makes of it, so octal only with a leading 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::config) struct Mode(pub u32);

impl FromNode for Mode {
    fn read(node: &Node, mistakes: &mut Mistakes<'_>) -> Option<Self> {
        let mode = mode_of(node);
        if mode.is_none() {
            wrong_value(node, mistakes, "the mode of a file", "write it in octal, like `0440`");
        }
        mode.map(Self)
    }
}

/// The bits that a scalar stands for.
pub(in crate::config) fn mode_of(node: &Node) -> Option<u32> {
    match &node.value {
        Value::Scalar { text, kind: Kind::Text } => mode(text),
        Value::Scalar { text, .. } => number_text(text).parse().ok().filter(|mode| *mode <= 0o7777),
        _ => None,
    }
}

/// A mode in octal.
pub(super) fn mode(text: &str) -> Option<u32> {
    let octal = text.strip_prefix("0o").unwrap_or(text);
    let digits = !octal.is_empty() && octal.bytes().all(|b| b.is_ascii_digit());
    u32::from_str_radix(octal, 8).ok().filter(|mode| digits && *mode <= 0o7777)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_durations_are_those_of_compose() {
        let size = |text: &str| bytes(text).map(|size| size.0);
        for (text, wanted) in [
            ("300", 300),
            ("1k", 1 << 10),
            ("64KB", 64 << 10),
            ("64kib", 64 << 10),
            ("512m", 512 << 20),
            ("1.5g", 3 << 29),
            ("2 gb", 2 << 30),
        ] {
            assert_eq!(size(text), Some(wanted), "{text}");
        }
        for text in ["", "m", "-1m", "1x", "1mm", "9999999999999p"] {
            assert_eq!(size(text), None, "{text}");
        }
        assert_eq!(duration("1m30s"), Some(Duration::from_secs(90)));
        assert_eq!(duration("250us"), Some(Duration::from_micros(250)));
        assert_eq!(duration("30"), None);
        assert_eq!(duration(""), None);
    }

    #[test]
    fn a_number_becomes_the_text_that_compose_makes_of_it() {
        for (text, wanted) in [
            ("1.10", "1.1"),
            ("0755", "493"),
            ("0x10", "16"),
            ("-5", "-5"),
            ("1e3", "1000"),
            ("8080", "8080"),
            ("0", "0"),
            ("0.5", "0.5"),
        ] {
            assert_eq!(number_text(text), wanted);
        }
    }

    #[test]
    fn a_mode_is_octal() {
        assert_eq!(mode("0440"), Some(0o440));
        assert_eq!(mode("0o440"), Some(0o440));
        assert_eq!(mode("440"), Some(0o440));
        assert_eq!((mode("9"), mode("77777"), mode("")), (None, None, None));
        assert_eq!(number_text("0440"), "288", "as YAML 1.1 has it");
    }
}
