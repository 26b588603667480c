//! Replicas up, and every one of them ready.

use std::time::{Duration, Instant};

use domain::Color;
use domain::rollout::{Evidence, RolloutEvent};
use domain::slot::{Exit, ReplicaState, SlotSpec, SlotStatus};

use super::{Effect, Job, evidence};
use crate::world::endpoints;

const PAUSE: Duration = Duration::from_millis(50);
/// For a replica that ended and was started again before we looked to end once more: then it is known how.
const TELLING: Duration = Duration::from_secs(5);

pub async fn perform(job: &Job<'_>, slot: Color) -> Effect {
    let engine = &job.world.engine;
    let environment = &job.rollout.environment;
    let failed = |error: engine::EngineError| Evidence::of(error.to_string());
    let spec = slot_spec(job, slot).await?;
    engine.apply(&spec).await.map_err(failed)?;
    let began = Instant::now();
    let mut crashed = None;
    loop {
        let snapshot = engine.observe(environment).await.map_err(failed)?;
        let status = snapshot.slots.get(&slot).cloned();
        job.world.saw(environment, snapshot);
        let Some(status) = status else {
            return Err(Evidence::of(format!(
                "slot {slot} of {environment} vanished while it started"
            )));
        };
        if crashed.is_none() && status.ready() && status.release == spec.release {
            return Ok(RolloutEvent::Started { endpoints: endpoints(&status) });
        }
        if ended(&status) {
            let seen: &Instant = crashed.get_or_insert_with(Instant::now);
            if tells_how(&status) || seen.elapsed() > TELLING {
                return Err(evidence::of_slot(job, &status, "it ended before it was ready").await);
            }
        }
        if began.elapsed() > job.rollout.gates.start_limit {
            let limit = domain::units::Span(job.rollout.gates.start_limit);
            let why = format!("slot {slot} was not ready within {limit}");
            return Err(evidence::of_slot(job, &status, &why).await);
        }
        job.call.note(waiting_for(&status));
        tokio::time::sleep(PAUSE).await;
    }
}

/// What the engine is asked to run in the slot.
pub async fn slot_spec(job: &Job<'_>, slot: Color) -> Result<SlotSpec, Evidence> {
    let snapshot = job.world.engine.observe(&job.rollout.environment).await;
    let snapshot = snapshot.map_err(|error| Evidence::of(error.to_string()))?;
    let spec = job.world.slot_spec(&job.placed, slot, &snapshot).await;
    spec.map_err(|error| Evidence::of(error.to_string()))
}

/// A process that ended while it started is not waited for.
fn ended(status: &SlotStatus) -> bool {
    let mut replicas = status.services.values().flatten();
    replicas.any(|r| r.restarts > 0) || tells_how(status)
}

/// What became of a process is shown best until it is started again. That its supervisor was killed does not happen again.
fn tells_how(status: &SlotStatus) -> bool {
    let mut replicas = status.services.values().flatten();
    replicas.any(|replica| {
        matches!(replica.state, ReplicaState::Exited { .. })
            || evidence::end_before(replica) == Some(Exit::Unknown)
    })
}

fn waiting_for(status: &SlotStatus) -> String {
    let mut replicas = status.services.iter().flat_map(|(s, all)| all.iter().map(move |r| (s, r)));
    let unready = replicas.clone().find(|(_, replica)| replica.state != ReplicaState::Ready);
    let Some((service, replica)) = unready else {
        let ended = replicas.find_map(|(s, r)| Some((s, r.index, evidence::end_before(r)?)));
        return ended.map_or("all replicas are ready".into(), |(service, index, exit)| {
            format!("{service} {index} {} before it was ready", exit.predicate())
        });
    };
    match &replica.state {
        ReplicaState::Starting { transcript } | ReplicaState::Unready { transcript } => {
            let answer = transcript.last().map_or("not probed yet", |probe| &probe.answer);
            format!("{service} {}: {answer}", replica.index)
        }
        _ => format!("{service} {}", replica.index),
    }
}
