//! Gathers what a failure leaves behind.

use domain::rollout::Evidence;
use domain::slot::{Exit, ProbeRecord, ReplicaState, ReplicaStatus, SlotStatus};

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
            if let Some((rank, cause)) = cause(replica) {
                causes.push((rank, format!("{name} {cause}")));
            }
            match &replica.state {
                ReplicaState::Starting { transcript } | ReplicaState::Unready { transcript } => {
                    evidence.probes.insert(name.clone(), transcript.clone());
                }
                ReplicaState::Exited { tail, .. } => {
                    evidence.logs.insert(name.clone(), tail.clone());
                    continue;
                }
                ReplicaState::Ready if end_before(replica).is_none() => continue,
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

/// How the replica ended before it was started again, as far as that is known: what it does now is not why.
pub fn end_before(replica: &ReplicaStatus) -> Option<Exit> {
    replica.ends.as_ref().filter(|_| replica.restarts > 0)?.exit
}

/// What is the matter with a replica; the lower the number, the likelier is it what is the matter with all.
fn cause(replica: &ReplicaStatus) -> Option<(u8, String)> {
    let ended = |exit: Exit, tail: &[String]| {
        let last = tail.iter().rev().find(|line| !line.trim().is_empty());
        let last = last.map_or(String::new(), |line| format!("; it last said: {line}"));
        (0, format!("{}{last}", exit.predicate()))
    };
    let before = || {
        let said = replica.ends.as_ref().and_then(|ends| ends.said.clone());
        end_before(replica).map(|exit| ended(exit, &Vec::from_iter(said)))
    };
    match &replica.state {
        ReplicaState::Exited { exit, tail } => Some(ended(*exit, tail)),
        ReplicaState::Ready => before(),
        ReplicaState::Unready { transcript } => {
            before().or_else(|| Some((1, not_ready(transcript))))
        }
        ReplicaState::Starting { transcript } => {
            before().or_else(|| Some((2, not_ready(transcript))))
        }
    }
}

fn not_ready(transcript: &[ProbeRecord]) -> String {
    let Some(probe) = transcript.last() else { return "was never probed".into() };
    // The rest of it is among the probes.
    let answer = probe.answer.lines().next().unwrap_or_default();
    format!("is not ready: {} was answered with: {answer}", probe.request)
}
