//! The bake: watches the new slot under traffic and judges it again and again.

use std::collections::BTreeMap;
use std::time::Duration;

use domain::judge::bake::{BakeVerdict, Seen, judge_services};
use domain::rollout::{Evidence, RolloutEvent};
use domain::route::{EdgeStatus, Facts};
use domain::{Color, ReleaseId, ServiceName};

use super::{Effect, Job, drain, evidence};
use crate::clock;

const PAUSE: Duration = Duration::from_millis(100);

type ByService = BTreeMap<ServiceName, Facts>;

pub async fn perform(job: &Job<'_>) -> Effect {
    let bake = job.rollout.gates.bake.as_ref();
    let bake = bake.ok_or_else(|| Evidence::of("this rollout has no bake"))?;
    let candidate = job.rollout.candidate.unwrap_or(Color::Blue);
    let first = status(job).await;
    let baseline = baseline(job, &first);
    // Gathered beforehand: once there is a verdict, nothing may come before the way back.
    let differs = evidence::differs(job).await;
    let mut pid = first.pid;
    let mut before = facts(job, &first, candidate, &job.rollout.release);
    loop {
        tokio::time::sleep(PAUSE).await;
        let status = status(job).await;
        if status.pid != pid {
            // A restarted edge counts from nothing.
            (pid, before) = (status.pid, ByService::new());
        }
        let seen = facts(job, &status, candidate, &job.rollout.release)
            .into_iter()
            .map(|(service, facts)| {
                let since =
                    before.get(&service).map_or(facts.clone(), |before| facts.since(before));
                let baseline_p99 = baseline.get(&service).and_then(|facts| facts.latency_at(0.99));
                (service, Seen { facts: since, baseline_p99 })
            })
            .collect();
        let elapsed = clock::wall().since(job.since());
        match judge_services(bake, &seen, elapsed) {
            BakeVerdict::Continue => {}
            BakeVerdict::Passed { notes } => {
                return Ok(RolloutEvent::Baked { notes, unjudged: false });
            }
            BakeVerdict::NoTraffic => {
                return Ok(RolloutEvent::Baked { notes: Vec::new(), unjudged: true });
            }
            BakeVerdict::Breached { reason } => {
                let cause = format!("the bake failed: {reason}");
                let evidence = Evidence { cause, differs, ..Evidence::default() };
                let last_request = match job.rollout.previous {
                    Some(slot) => drain::last_request_before(job, slot).await,
                    None => None,
                };
                return Ok(RolloutEvent::Breached { evidence, last_request });
            }
            // Asked again until the rollout's own deadline, which does not let it pass.
            BakeVerdict::Unavailable { why } => job.call.note(why),
        }
    }
}

async fn status(job: &Job<'_>) -> EdgeStatus {
    loop {
        match job.world.edge.status().await {
            Ok(status) => return status,
            Err(error) => job.call.note(format!("asking the edge how the new slot does: {error}")),
        }
        tokio::time::sleep(PAUSE).await;
    }
}

fn baseline(job: &Job<'_>, status: &EdgeStatus) -> ByService {
    let environment = job.call.app.environments.get(&job.rollout.environment);
    let previous = job.rollout.previous;
    let slot = previous.and_then(|color| environment?.slots.get(&color));
    match (previous, slot) {
        (Some(color), Some(slot)) => facts(job, status, color, &slot.release),
        _ => ByService::new(),
    }
}

fn facts(job: &Job<'_>, status: &EdgeStatus, slot: Color, release: &ReleaseId) -> ByService {
    let of_slot = status.facts.iter().filter(|(key, _)| {
        key.environment == job.rollout.environment && key.slot == slot && key.release == *release
    });
    of_slot.map(|(key, facts)| (key.service.clone(), facts.clone())).collect()
}
