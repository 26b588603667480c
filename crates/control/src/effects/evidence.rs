//! Gathers what a failure leaves behind.

use domain::rollout::{Evidence, starting};
use domain::slot::{ReplicaState, SlotStatus};

use super::Job;

/// Lines of log kept per replica or job.
pub const LINES: usize = 200;

/// The evidence of a slot that did not become ready, the likeliest cause first.
pub async fn of_slot(job: &Job<'_>, status: &SlotStatus, why: &str) -> Evidence {
    let cause = starting::likeliest_cause(status);
    let mut evidence = Evidence::of(cause.map_or(why.into(), |cause| format!("{cause} ({why})")));
    for (service, replicas) in &status.services {
        for replica in replicas {
            let name = format!("{service} {}", replica.index);
            match &replica.state {
                ReplicaState::Starting { transcript } | ReplicaState::Unready { transcript } => {
                    evidence.probes.insert(name.clone(), transcript.clone());
                }
                ReplicaState::Exited { tail, .. } => {
                    evidence.logs.insert(name.clone(), tail.clone());
                    continue;
                }
                ReplicaState::Ready if replica.end_before().is_none() => continue,
                ReplicaState::Ready => {}
            }
            let source = engine::LogSource::Replica {
                slot: job.rollout.candidate.unwrap_or(domain::Color::Blue),
                service: service.clone(),
                index: replica.index,
            };
            let log = job.world.engine.logs(&job.rollout.environment, &source, LINES).await;
            evidence.logs.insert(name, log.unwrap_or_else(|error| vec![error.to_string()]));
        }
    }
    evidence.differs = differs(job).await;
    evidence
}

/// What changed since the release that is live there: the first place to look.
pub async fn differs(job: &Job<'_>) -> Vec<String> {
    let environment = job.call.app.environments.get(&job.rollout.environment);
    let live = environment.and_then(|e| e.live_release());
    let live = live.and_then(|live| job.call.app.releases.get(live));
    let Some(live) = live.filter(|live| live.id != job.rollout.release) else { return Vec::new() };
    let changed = job.world.pipeline.changed(&live.commit.id, &job.placed.release.commit.id).await;
    changed.unwrap_or_else(|error| vec![format!("unknown: {error}")])
}
