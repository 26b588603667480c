//! Quantities as people write them: `30s`, `200/s`, `99.9%`, `2x`. Never bare numbers.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// Why a text is not a quantity.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a {kind}; write it like {example}")]
pub struct UnitError {
    pub kind: &'static str,
    pub text: String,
    pub example: &'static str,
}

/// A length of time: `250ms`, `30s`, `5m`, `24h`, `30d`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Span(pub Duration);

/// A constant arrival rate, per second: `200/s`, `600/m`.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd)]
pub struct Rate(pub f64);

/// A share between 0 and 100 percent, kept as a fraction: `0.1%` is 0.001.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd)]
pub struct Percent(pub f64);

/// How many times as much as something else: `2x`, `1.5x`.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd)]
pub struct Factor(pub f64);

/// A number of bytes: `512B`, `64KiB`, `10MiB`, `1GiB`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Size(pub u64);

const SIZE_UNITS: [(&str, u64); 4] =
    [("B", 1), ("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30)];

const SPAN_UNITS: [(&str, f64); 5] =
    [("ms", 1.0), ("s", 1e3), ("m", 60e3), ("h", 3_600e3), ("d", 86_400e3)];

/// A plain decimal number that is finite and not negative.
fn number(text: &str) -> Option<f64> {
    let plain = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    plain.then(|| text.parse::<f64>().ok()).flatten().filter(|n| n.is_finite())
}

fn parse_span(text: &str) -> Option<Span> {
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.')?;
    let (amount, unit) = text.split_at(split);
    let (_, millis) = SPAN_UNITS.iter().find(|(name, _)| *name == unit)?;
    let total = number(amount)? * millis;
    (total <= 3_650.0 * 86_400e3).then(|| Span(Duration::from_micros((total * 1e3).round() as u64)))
}

fn parse_rate(text: &str) -> Option<Rate> {
    let (amount, per) = text.split_once('/')?;
    let seconds = match per {
        "s" => 1.0,
        "m" => 60.0,
        _ => return None,
    };
    number(amount).map(|n| n / seconds).filter(|n| *n > 0.0 && *n <= 1e6).map(Rate)
}

fn parse_percent(text: &str) -> Option<Percent> {
    number(text.strip_suffix('%')?).filter(|n| *n <= 100.0).map(|n| Percent(n / 100.0))
}

fn parse_factor(text: &str) -> Option<Factor> {
    number(text.strip_suffix('x')?).filter(|n| *n >= 1.0).map(Factor)
}

fn parse_size(text: &str) -> Option<Size> {
    let split = text.find(|c: char| !c.is_ascii_digit())?;
    let (amount, unit) = text.split_at(split);
    let (_, bytes) = SIZE_UNITS.iter().find(|(name, _)| *name == unit)?;
    amount.parse::<u64>().ok()?.checked_mul(*bytes).map(Size)
}

fn show_size(size: Size, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let whole = |unit: u64| size.0 >= unit && size.0.is_multiple_of(unit);
    let (name, unit) =
        SIZE_UNITS.iter().rev().find(|(_, unit)| whole(*unit)).copied().unwrap_or(("B", 1));
    write!(f, "{}{name}", size.0 / unit)
}

fn show_span(span: Span, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let millis = span.0.as_secs_f64() * 1e3;
    let whole = |unit: f64| millis >= unit && millis % unit == 0.0;
    let (name, unit) =
        SPAN_UNITS.iter().rev().find(|(_, unit)| whole(*unit)).copied().unwrap_or(("ms", 1.0));
    write!(f, "{}{name}", millis / unit)
}

macro_rules! unit {
    ($type:ident, $kind:literal, $example:literal, $pattern:literal, $parse:expr, $show:expr) => {
        impl FromStr for $type {
            type Err = UnitError;
            fn from_str(text: &str) -> Result<Self, UnitError> {
                let error = || UnitError { kind: $kind, text: text.into(), example: $example };
                $parse(text).ok_or_else(error)
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                $show(*self, f)
            }
        }

        impl Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                to.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                String::deserialize(from)?.parse().map_err(serde::de::Error::custom)
            }
        }

        impl JsonSchema for $type {
            fn schema_name() -> Cow<'static, str> {
                stringify!($type).into()
            }
            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({ "type": "string", "pattern": $pattern, "description": concat!("A ", $kind, ", like ", $example) })
            }
        }
    };
}

unit!(
    Span,
    "duration",
    "`250ms`, `30s`, `5m` or `24h`, up to `3650d`",
    r"^[0-9.]+(ms|s|m|h|d)$",
    parse_span,
    show_span
);
unit!(
    Rate,
    "rate",
    "`200/s` or `600/m`, up to `1000000/s`",
    r"^[0-9.]+/(s|m)$",
    parse_rate,
    |r: Rate, f: &mut fmt::Formatter<'_>| write!(f, "{}/s", r.0)
);
unit!(
    Percent,
    "share",
    "`1%` or `99.9%`, up to `100%`",
    r"^[0-9.]+%$",
    parse_percent,
    |p: Percent, f: &mut fmt::Formatter<'_>| write!(f, "{}%", (p.0 * 1e8).round() / 1e6)
);
unit!(
    Size,
    "size",
    "`64KiB`, `10MiB` or `1GiB`",
    r"^[0-9]+(B|KiB|MiB|GiB)$",
    parse_size,
    show_size
);
unit!(
    Factor,
    "factor",
    "`2x` or `1.5x`, from `1x`",
    r"^[0-9.]+x$",
    parse_factor,
    |x: Factor, f: &mut fmt::Formatter<'_>| write!(f, "{}x", x.0)
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_read_with_their_unit_and_written_the_same() {
        for text in ["250ms", "30s", "5m", "12h", "30d"] {
            assert_eq!(text.parse::<Span>().unwrap().to_string(), text);
        }
        for text in ["0B", "512B", "64KiB", "10MiB", "3GiB"] {
            assert_eq!(text.parse::<Size>().unwrap().to_string(), text);
        }
        assert_eq!("600/m".parse::<Rate>().unwrap(), Rate(10.0));
        assert_eq!("0.1%".parse::<Percent>().unwrap().to_string(), "0.1%");
        assert_eq!("1.5x".parse::<Factor>().unwrap(), Factor(1.5));
    }

    #[test]
    fn a_bare_number_or_a_wrong_unit_is_refused() {
        for text in ["", "30", "s", "-1s", "1 s", "1y", "1e3s", "99999999d"] {
            assert!(text.parse::<Span>().is_err(), "{text} was read");
        }
        for text in
            ["", "10", "MiB", "1.5MiB", "-1B", "10MB", "99999999999999999999B", "99999999999GiB"]
        {
            assert!(text.parse::<Size>().is_err(), "{text} was read");
        }
        assert!("0/s".parse::<Rate>().is_err());
        assert!("101%".parse::<Percent>().is_err());
        assert!("0.5x".parse::<Factor>().is_err());
    }
}
