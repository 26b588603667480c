//! Names and identifiers: one type each, so that a service can never be taken for an environment.

use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Why a string is not a name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is no {kind}: {rule}")]
pub struct NameError {
    /// What kind of name was wanted, for people.
    pub kind: &'static str,
    /// What was given.
    pub text: String,
    /// The rule it breaks.
    pub rule: &'static str,
}

const LABEL_RULE: &str =
    "use 1 to 63 lower-case letters, digits and `-`, beginning and ending with a letter or digit";

/// A DNS label (RFC 1123, section 2.1): names become host names and container names.
fn is_label(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    (1..=63).contains(&text.len())
        && text.bytes().all(inner)
        && !text.starts_with('-')
        && !text.ends_with('-')
}

macro_rules! name {
    ($(#[$doc:meta])* $type:ident, $kind:literal, $valid:expr, $rule:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, JsonSchema)]
        #[serde(transparent)]
        pub struct $type(String);

        impl $type {
            /// The name, if it follows the rule of its kind.
            pub fn new(text: impl Into<String>) -> Result<Self, NameError> {
                let text = text.into();
                let valid: fn(&str) -> bool = $valid;
                if valid(&text) {
                    return Ok(Self(text));
                }
                Err(NameError { kind: $kind, text, rule: $rule })
            }

            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $type {
            type Err = NameError;
            fn from_str(text: &str) -> Result<Self, NameError> {
                Self::new(text)
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                Self::new(String::deserialize(from)?).map_err(serde::de::Error::custom)
            }
        }
    };
}

name!(/// The application: what Compose describes.
    AppName, "app name", is_label, LABEL_RULE);
name!(/// development, staging, production, or yours.
    EnvironmentName, "environment name", is_label, LABEL_RULE);
name!(/// A Compose service. Compose allows `_` and `.` too.
    ServiceName, "service name",
    |t| (1..=63).contains(&t.len()) && t.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b)) && t.as_bytes()[0].is_ascii_alphanumeric(),
    "use 1 to 63 letters, digits, `-`, `_` and `.`, beginning with a letter or digit");
name!(/// A step of a pipeline stage.
    StepName, "step name",
    |t| (1..=63).contains(&t.len()) && t.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.: ".contains(&b)) && t.trim() == t,
    "use 1 to 63 letters, digits, `-`, `_`, `.`, `:` and single spaces");
name!(/// A full git object name of a commit, 40 or 64 hexadecimal digits.
    CommitId, "commit",
    |t| (t.len() == 40 || t.len() == 64) && t.bytes().all(|b| b.is_ascii_hexdigit()),
    "use the full name that `git rev-parse` prints");
name!(/// SHA-256 of a content, 64 hexadecimal digits.
    Digest, "digest",
    |t| t.len() == 64 && t.bytes().all(|b| b.is_ascii_hexdigit()),
    "64 hexadecimal digits of SHA-256");
name!(/// A release: `r` and a rising number.
    ReleaseId, "release", |t| numbered(t, "r"), "use the form `r12`");
name!(/// One pass through the build pipeline: `run-` and a rising number.
    RunId, "run", |t| numbered(t, "run-"), "use the form `run-12`");
name!(/// Bringing one release live in one environment: `ro-` and a rising number.
    RolloutId, "rollout", |t| numbered(t, "ro-"), "use the form `ro-12`");
name!(/// Who did it: an OS user name, from the peer credentials of the socket.
    Identity, "identity", |t| !t.is_empty() && t.len() <= 256, "1 to 256 characters");

fn numbered(text: &str, prefix: &str) -> bool {
    text.strip_prefix(prefix)
        .is_some_and(|n| !n.is_empty() && n.len() <= 12 && n.bytes().all(|b| b.is_ascii_digit()))
}

macro_rules! numbered {
    ($type:ident, $prefix:literal) => {
        impl $type {
            /// The `n`th of its kind.
            pub fn nth(n: u64) -> Self {
                Self(format!(concat!($prefix, "{}"), n))
            }
        }
    };
}
numbered!(ReleaseId, "r");
numbered!(RunId, "run-");
numbered!(RolloutId, "ro-");

impl CommitId {
    /// The first twelve digits, for people.
    pub fn short(&self) -> &str {
        &self.0[..12]
    }
}

impl Digest {
    /// SHA-256 of `bytes`.
    pub fn of(bytes: impl AsRef<[u8]>) -> Self {
        use sha2::Digest as _;
        Self(hex::encode(sha2::Sha256::digest(bytes.as_ref())))
    }
}

/// The version of the routing table; rises by one with each change and never goes back.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Epoch(pub u64);

impl Epoch {
    /// The epoch after this one.
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_could_not_be_a_host_name_is_refused() {
        for text in ["", "Tea", "-tea", "tea-", "tea_house", "tëa", &"t".repeat(64)] {
            assert!(AppName::new(text).is_err(), "{text} was accepted");
        }
        assert!(AppName::new("tea-house-2").is_ok());
    }

    #[test]
    fn an_identifier_keeps_its_kind() {
        assert_eq!(RunId::nth(7).as_str(), "run-7");
        assert!(RunId::new("ro-7").is_err());
    }
}
