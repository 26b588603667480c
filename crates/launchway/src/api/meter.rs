//! Readings of what replicas use. CPU time only grows, so its share is told from two readings; the last
//! one of each environment is kept, and serves whoever asks again within a moment.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex as Lock, PoisonError};
use std::time::Duration;

use domain::EnvironmentName;
use domain::slot::Usage;
use engine::{Engine, LogSource};
use tokio::sync::{Mutex, OwnedMutexGuard};
use tokio::time::{Instant, timeout_at};

use crate::view::{Measured, UsageView};

/// A reading is good for this long. CPU time is counted in steps of 10 ms, which is 1% of it.
const FRESH: Duration = Duration::from_secs(1);

type Place = Arc<Mutex<Option<Reading>>>;

/// The last reading of each environment.
#[derive(Default)]
pub struct Meter(Lock<BTreeMap<EnvironmentName, Place>>);

#[derive(Clone)]
struct Reading {
    at: Instant,
    all: Vec<Measured>,
}

impl Meter {
    /// What runs in the environment uses; nothing if that cannot be had by `deadline`.
    pub async fn read(
        &self,
        engine: &Arc<dyn Engine>,
        name: &EnvironmentName,
        deadline: Instant,
    ) -> Vec<Measured> {
        let Ok(place) = timeout_at(deadline, self.place(name).lock_owned()).await else {
            return Vec::new();
        };
        if let Some(last) = place.as_ref().filter(|last| last.at.elapsed() < FRESH) {
            return last.all.clone();
        }
        // A task of its own holds the place until it is done: however many ask for a disk that does
        // not answer, one of them waits for it.
        let reading = tokio::spawn(refill(place, engine.clone(), name.clone()));
        match timeout_at(deadline, reading).await {
            Ok(Ok(all)) => all,
            _ => Vec::new(),
        }
    }

    fn place(&self, name: &EnvironmentName) -> Place {
        let mut places = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        places.entry(name.clone()).or_default().clone()
    }
}

async fn refill(
    mut place: OwnedMutexGuard<Option<Reading>>,
    engine: Arc<dyn Engine>,
    name: EnvironmentName,
) -> Vec<Measured> {
    let at = Instant::now();
    let Ok(usage) = engine.usage(&name).await else { return Vec::new() };
    let all: Vec<Measured> =
        usage.iter().map(|usage| measured(usage, at, place.as_ref())).collect();
    *place = Some(Reading { at, all: all.clone() });
    all
}

fn measured(usage: &Usage, at: Instant, before: Option<&Reading>) -> Measured {
    Measured {
        cpu: usage.cpu,
        usage: UsageView {
            cpu_share: before.and_then(|before| share(usage, at, before)),
            memory_bytes: usage.memory,
            disk_bytes: usage.disk,
        },
        source: source_of(usage),
        pid: usage.pid,
        started: usage.started.clone(),
    }
}

/// Of one core, since the reading before. A replica that was started anew has none.
fn share(usage: &Usage, at: Instant, before: &Reading) -> Option<f64> {
    let source = source_of(usage);
    let same = |then: &&Measured| {
        then.source == source && then.pid == usage.pid && then.started == usage.started
    };
    let then = before.all.iter().find(same)?;
    let (used, elapsed) = (usage.cpu.checked_sub(then.cpu)?, at.duration_since(before.at));
    Some(used.as_secs_f64() / elapsed.as_secs_f64())
}

fn source_of(usage: &Usage) -> LogSource {
    let service = usage.service.clone();
    match usage.slot {
        Some(slot) => LogSource::Replica { slot, service, index: usage.index },
        None => LogSource::Backing { service },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_of_one_core_and_of_the_same_process_only() {
        let usage = |started: &str, seconds| Usage {
            slot: None,
            service: "redis".parse().unwrap(),
            index: 0,
            pid: 7,
            started: started.into(),
            cpu: Duration::from_secs(seconds),
            memory: 1,
            disk: 1,
        };
        let at = Instant::now();
        let before = Reading { at, all: vec![measured(&usage("1", 3), at, None)] };
        let later = at + Duration::from_secs(4);
        assert_eq!(share(&usage("1", 5), later, &before), Some(0.5));
        assert_eq!(share(&usage("1", 2), later, &before), None, "its clock cannot run backwards");
        assert_eq!(share(&usage("2", 5), later, &before), None, "another one with its pid");
        let elsewhere = Usage { pid: 8, ..usage("1", 5) };
        assert_eq!(share(&elsewhere, later, &before), None, "another one");
    }
}
