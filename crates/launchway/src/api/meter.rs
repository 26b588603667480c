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
    let source = source_of(usage);
    Measured {
        cpu: usage.cpu,
        usage: UsageView {
            cpu_share: before.and_then(|before| share(&source, usage.pid, usage.cpu, at, before)),
            memory_bytes: usage.memory,
            disk_bytes: usage.disk,
        },
        source,
        pid: usage.pid,
    }
}

/// Of one core, since the reading before. A replica that was started anew has none.
fn share(
    source: &LogSource,
    pid: u32,
    cpu: Duration,
    at: Instant,
    before: &Reading,
) -> Option<f64> {
    let same = |then: &&Measured| then.source == *source && then.pid == pid;
    let then = before.all.iter().find(same)?;
    let (used, elapsed) = (cpu.checked_sub(then.cpu)?, at.duration_since(before.at));
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
        let source = LogSource::Backing { service: "redis".parse().unwrap() };
        let (pid, at) = (7, Instant::now());
        let usage = UsageView { cpu_share: None, memory_bytes: 1, disk_bytes: 1 };
        let cpu = Duration::from_secs(3);
        let then = Measured { source: source.clone(), pid, cpu, usage };
        let before = Reading { at, all: vec![then] };
        let later = at + Duration::from_secs(4);
        let share = |pid, cpu| share(&source, pid, Duration::from_secs(cpu), later, &before);
        assert_eq!(share(pid, 5), Some(0.5));
        assert_eq!(share(pid, 2), None, "its clock cannot run backwards");
        assert_eq!(share(8, 5), None, "another one");
    }
}
