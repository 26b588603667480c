//! Certificates: which are wanted, when one is renewed, when an order may be tried again.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::app::App;
use crate::config::Tls;
use crate::{EnvironmentName, Timestamp};

/// The names of one environment and where their certificate comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wish {
    /// The host first.
    pub names: Vec<String>,
    pub tls: Tls,
}

/// Between which moments a certificate holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Validity {
    pub from: Timestamp,
    pub until: Timestamp,
}

/// How orders of the same names went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attempts {
    /// In a row.
    pub failures: u32,
    /// Before this no order is begun.
    pub next: Timestamp,
}

/// How often a CA is asked for the same names.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Pace {
    /// Between two orders at least, and after the first failure.
    pub first: Duration,
    /// After each further failure the wait is this many times longer.
    pub factor: u32,
    /// The longest wait.
    pub most: Duration,
}

/// What is told of an environment's certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CertificateView {
    pub names: Vec<String>,
    /// A CA's directory, or a file.
    pub source: String,
    /// Of the certificate in force; `None` without one.
    pub validity: Option<Validity>,
    /// What it waits for, or what is wrong.
    pub note: Option<String>,
}

impl Default for Attempts {
    fn default() -> Self {
        Self { failures: 0, next: Timestamp::from_millis(0) }
    }
}

impl Default for Pace {
    /// Within the limits of Let's Encrypt: five failed validations of a name in an hour.
    fn default() -> Self {
        Self { first: Duration::from_secs(60), factor: 3, most: Duration::from_secs(6 * 3600) }
    }
}

impl Validity {
    /// At two thirds of its life: a CA that is down for long is no emergency then.
    pub fn renewal(&self) -> Timestamp {
        self.from + self.until.since(self.from) * 2 / 3
    }

    pub fn due(&self, now: Timestamp) -> bool {
        now >= self.renewal()
    }

    pub fn expired(&self, now: Timestamp) -> bool {
        now >= self.until
    }
}

impl Attempts {
    /// An order may begin.
    pub fn allows(&self, now: Timestamp) -> bool {
        now >= self.next
    }

    /// An order begins. It counts as failed until the opposite is seen: so one that a crash ended is not
    /// repeated at once. `chance` (0 to 1) keeps many servers from asking at the same moment.
    pub fn begun(self, now: Timestamp, pace: &Pace, chance: f64) -> Self {
        let factor = pace.factor.checked_pow(self.failures.min(20)).unwrap_or(u32::MAX);
        let wait = pace.first.saturating_mul(factor).min(pace.most);
        Self {
            failures: self.failures.saturating_add(1),
            next: now + wait.mul_f64(1.0 + chance.clamp(0.0, 1.0) / 4.0),
        }
    }

    /// The order went well.
    pub fn succeeded(now: Timestamp, pace: &Pace) -> Self {
        Self { failures: 0, next: now + pace.first }
    }
}

/// What every environment wants that answers at all.
pub fn wishes(app: &App) -> BTreeMap<EnvironmentName, Wish> {
    let wish = |name: &EnvironmentName| {
        let config = app.routed(name)?;
        let names = config.hosts().map(str::to_owned).collect();
        Some((name.clone(), Wish { names, tls: config.tls.clone()? }))
    };
    app.environments.keys().filter_map(wish).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_millis(seconds * 1000)
    }

    #[test]
    fn a_certificate_is_renewed_at_two_thirds_of_its_life() {
        let validity = Validity { from: at(100), until: at(400) };
        assert!(!validity.due(at(299)) && validity.due(at(300)));
        assert!(!validity.expired(at(399)) && validity.expired(at(400)));
    }

    #[test]
    fn waits_grow_to_their_cap_and_begin_anew_after_a_success() {
        let pace =
            Pace { first: Duration::from_secs(10), factor: 3, most: Duration::from_secs(60) };
        let (mut attempts, mut now) = (Attempts::default(), at(1000));
        for wait in [10, 30, 60, 60] {
            assert!(attempts.allows(now));
            attempts = attempts.begun(now, &pace, 0.0);
            assert_eq!(attempts.next, now + Duration::from_secs(wait));
            assert!(!attempts.allows(now));
            now = attempts.next;
        }
        let attempts = Attempts::succeeded(now, &pace);
        assert!(!attempts.allows(now) && attempts.allows(now + pace.first));
        assert_eq!(attempts.begun(now, &pace, 1.0).next, now + Duration::from_millis(12_500));
    }

    #[test]
    fn even_endless_failures_overflow_nothing() {
        let attempts = Attempts { failures: u32::MAX, next: at(0) };
        let next = attempts.begun(at(0), &Pace::default(), 1.0).next;
        assert!(next <= at(0) + Pace::default().most.mul_f64(1.25));
    }
}
