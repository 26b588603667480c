//! When requests failed last. The edge counts why, and not when: its counts are looked at each second.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use domain::Timestamp;
use domain::route::{EdgeStatus, FactsKey};

/// What was seen of each service's failures.
#[derive(Debug, Default)]
pub struct Failures(Mutex<Noted>);

#[derive(Debug, Default)]
struct Noted {
    /// Of what had failed before the first look, nobody knows when it was.
    looked: bool,
    counts: BTreeMap<FactsKey, Count>,
}

#[derive(Debug, Clone, Copy)]
struct Count {
    failed: u64,
    last: Option<Timestamp>,
}

impl Failures {
    /// Notes what the edge said at `now`.
    pub fn note(&self, status: &EdgeStatus, now: Timestamp) {
        let mut noted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let looked = std::mem::replace(&mut noted.looked, true);
        let before = std::mem::take(&mut noted.counts);
        for (key, facts) in &status.facts {
            let failed = facts.failed();
            let last = match before.get(key) {
                Some(count) if count.failed == failed => count.last,
                // Another edge counts anew.
                _ if failed == 0 => None,
                Some(_) => Some(now),
                None => looked.then_some(now),
            };
            noted.counts.insert(key.clone(), Count { failed, last });
        }
    }

    /// When requests to each service failed last, as far as that was seen.
    pub fn last(&self) -> BTreeMap<FactsKey, Timestamp> {
        let noted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let seen = noted.counts.iter();
        seen.filter_map(|(key, count)| Some((key.clone(), count.last?))).collect()
    }
}

#[cfg(test)]
mod tests {
    use domain::route::{Facts, Reason};
    use domain::{Color, EnvironmentName, Epoch, ReleaseId, ServiceName};

    use super::*;

    fn key() -> FactsKey {
        FactsKey {
            environment: EnvironmentName::new("staging").unwrap(),
            slot: Color::Blue,
            release: ReleaseId::nth(1),
            service: ServiceName::new("web").unwrap(),
        }
    }

    fn status(failed: u64) -> EdgeStatus {
        let facts = Facts { reasons: [(Reason::Closed, failed)].into(), ..Facts::default() };
        let status = serde_json::json!({
            "pid": 1, "epoch": Epoch::default(), "listen": "127.0.0.1:80",
            "facts": [(key(), facts)], "ejected": [],
        });
        serde_json::from_value(status).unwrap()
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_millis(seconds * 1000)
    }

    #[test]
    fn a_failure_is_as_old_as_the_look_that_found_it_first() {
        let failures = Failures::default();
        failures.note(&status(3), at(1));
        assert_eq!(failures.last(), [].into(), "nobody knows when the first three were");
        failures.note(&status(4), at(2));
        failures.note(&status(4), at(60));
        assert_eq!(failures.last(), [(key(), at(2))].into());
        failures.note(&status(0), at(61));
        assert_eq!(failures.last(), [].into(), "a new edge, which did nothing wrong");
        failures.note(&status(1), at(62));
        assert_eq!(failures.last(), [(key(), at(62))].into());
    }
}
