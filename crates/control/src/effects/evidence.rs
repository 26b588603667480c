//! Gathers what a failure leaves behind.

use domain::rollout::Evidence;
use domain::slot::{ReplicaState, SlotStatus};

use super::Job;

/// Lines of log kept per replica or job.
pub const LINES: usize = 200;

/// The evidence of a slot that did not become ready, the likeliest cause first.
pub async fn of_slot(job: &Job<'_>, status: &SlotStatus, why: &str) -> Evidence {
    let mut evidence = Evidence::of(why);
    let mut causes = Vec::new();
    for (service, replicas) in &status.services {
        for replica in replicas {
            let name = format!("{service} {}", replica.index);
            if let Some(cause) = cause(&replica.state) {
                causes.push((rank(&replica.state), format!("{name} {cause}")));
            }
            match &replica.state {
                ReplicaState::Starting { transcript } | ReplicaState::Unready { transcript } => {
                    evidence.probes.insert(name.clone(), transcript.clone());
                }
                ReplicaState::Exited { tail, .. } => {
                    evidence.logs.insert(name.clone(), tail.clone());
                    continue;
                }
                ReplicaState::Ready => continue,
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
    causes.sort();
    if let Some((_, cause)) = causes.into_iter().next() {
        evidence.cause = format!("{cause} ({why})");
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

fn rank(state: &ReplicaState) -> u8 {
    match state {
        ReplicaState::Exited { .. } => 0,
        ReplicaState::Unready { .. } => 1,
        ReplicaState::Starting { .. } => 2,
        ReplicaState::Ready => 3,
    }
}

fn cause(state: &ReplicaState) -> Option<String> {
    match state {
        ReplicaState::Ready => None,
        ReplicaState::Exited { exit, tail } => {
            let last = tail.iter().rev().find(|line| !line.trim().is_empty());
            let last = last.map_or(String::new(), |line| format!("; it last said: {line}"));
            Some(format!("{}{last}", exit.predicate()))
        }
        ReplicaState::Starting { transcript } | ReplicaState::Unready { transcript } => {
            let Some(probe) = transcript.last() else { return Some("was never probed".into()) };
            // The rest of it is among the probes.
            let answer = probe.answer.lines().next().unwrap_or_default();
            Some(format!("is not ready: {} was answered with: {answer}", probe.request))
        }
    }
}
