//! Waits until a slot that lost the traffic has finished what it had.

use std::time::Duration;

use domain::rollout::{Phase, RolloutEvent};
use domain::route::EdgeStatus;
use domain::{Color, EnvironmentName, ReleaseId, Timestamp};

use super::publish::trouble;
use super::{Effect, Job};
use crate::clock;
use crate::control::Call;
use crate::world::World;

const PAUSE: Duration = Duration::from_millis(50);

pub async fn perform(job: &Job<'_>, slot: Color) -> Effect {
    let environment = &job.rollout.environment;
    let until = match job.rollout.phase {
        Phase::Draining { until } => until,
        _ => clock::wall(),
    };
    wait(job.world, job.call, environment, slot, until).await;
    let last_request = last_request_before(job, slot).await;
    Ok(RolloutEvent::Drained { last_request })
}

/// Until nothing is in flight in the slot any more, or `until`.
pub async fn wait(
    world: &World,
    call: &Call,
    environment: &EnvironmentName,
    slot: Color,
    until: Timestamp,
) {
    while clock::wall() < until {
        match world.edge.drain(environment, slot).await {
            Ok(status) if status.done() => return,
            Ok(status) => call.note(format!("slot {slot} still has {status}")),
            Err(error) => {
                let why = trouble(&error);
                call.note(format!("what slot {slot} still has in flight is not known: {why}"));
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// When the slot that the rollout took the traffic from last got a request.
pub async fn last_request_before(job: &Job<'_>, slot: Color) -> Option<Timestamp> {
    let environment = &job.rollout.environment;
    let state = job.call.app.environments.get(environment)?.slots.get(&slot)?;
    last_request(job.world, environment, slot, &state.release).await
}

/// When the slot last got a request, as far as the edge knows.
pub async fn last_request(
    world: &World,
    environment: &EnvironmentName,
    slot: Color,
    release: &ReleaseId,
) -> Option<Timestamp> {
    let status: EdgeStatus = world.edge.status().await.ok()?;
    let of_slot = status.facts.iter().filter(|(key, _)| {
        key.environment == *environment && key.slot == slot && key.release == *release
    });
    let last = of_slot.map(|(_, facts)| facts.last_request_ms).max().filter(|ms| *ms > 0);
    last.map(Timestamp::from_millis)
}
