//! Points in time that come from outside: UTC, to the millisecond or the day, RFC 3339 in text.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use crate::units::UnitError;

/// Milliseconds since the Unix epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Timestamp(i64);

impl Timestamp {
    /// `millis` milliseconds after the Unix epoch.
    pub const fn from_millis(millis: i64) -> Self {
        Self(millis)
    }

    /// Milliseconds since the Unix epoch.
    pub const fn as_millis(self) -> i64 {
        self.0
    }

    /// How long ago `earlier` was; zero if it lies ahead.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(u64::try_from(self.0 - earlier.0).unwrap_or(0))
    }

    /// The day it is in UTC; of times that no calendar has, the first or last day of all.
    pub fn date(self) -> Date {
        let day = |time: jiff::Timestamp| Date(time.to_zoned(jiff::tz::TimeZone::UTC).date());
        let out_of_range = if self.0 < 0 { jiff::Timestamp::MIN } else { jiff::Timestamp::MAX };
        day(jiff::Timestamp::from_millisecond(self.0).unwrap_or(out_of_range))
    }
}

/// A day of the calendar: `2026-12-31`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Date(jiff::civil::Date);

impl FromStr for Date {
    type Err = UnitError;
    fn from_str(text: &str) -> Result<Self, UnitError> {
        // Only the form of RFC 3339: a time after it, or a day without hyphens, would be a slip.
        let plain = text.len() == 10 && text.bytes().filter(|b| *b == b'-').count() == 2;
        let date = plain.then(|| text.parse().ok()).flatten();
        date.map(Self).ok_or_else(|| UnitError {
            kind: "date",
            text: text.into(),
            example: "`2026-12-31`",
        })
    }
}

impl fmt::Display for Date {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Serialize for Date {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Date {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from)?.parse().map_err(serde::de::Error::custom)
    }
}

impl JsonSchema for Date {
    fn schema_name() -> Cow<'static, str> {
        "Date".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": "^[0-9]{4}-[0-9]{2}-[0-9]{2}$", "description": "A day, like `2026-12-31`" })
    }
}

impl std::ops::Add<Duration> for Timestamp {
    type Output = Self;
    fn add(self, duration: Duration) -> Self {
        let millis = i64::try_from(duration.as_millis()).unwrap_or(i64::MAX);
        Self(self.0.saturating_add(millis))
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match jiff::Timestamp::from_millisecond(self.0) {
            Ok(time) => write!(f, "{time:.3}"),
            Err(_) => write!(f, "{} ms", self.0),
        }
    }
}

impl Serialize for Timestamp {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        let time: jiff::Timestamp = text.parse().map_err(serde::de::Error::custom)?;
        Ok(Self(time.as_millisecond()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timestamp_survives_the_way_through_text() {
        let time = Timestamp::from_millis(1_700_000_000_120);
        let text = serde_json::to_string(&time).unwrap();
        assert_eq!(text, r#""2023-11-14T22:13:20.120Z""#);
        assert_eq!(serde_json::from_str::<Timestamp>(&text).unwrap(), time);
    }
    #[test]
    fn a_day_is_read_in_one_form_only() {
        assert_eq!("2026-12-31".parse::<Date>().unwrap().to_string(), "2026-12-31");
        for text in [
            "",
            "2026-13-01",
            "2026-02-30",
            "31.12.2026",
            "20261231",
            "2026-12-31T00:00",
            "26-12-31--",
        ] {
            assert!(text.parse::<Date>().is_err(), "{text} was read");
        }
        let last_moment = Timestamp::from_millis(1_767_225_599_999);
        assert_eq!(last_moment.date().to_string(), "2025-12-31");
        assert_eq!((last_moment + Duration::from_millis(1)).date().to_string(), "2026-01-01");
        assert!(Timestamp::from_millis(i64::MIN).date() < Timestamp::from_millis(i64::MAX).date());
    }
}
