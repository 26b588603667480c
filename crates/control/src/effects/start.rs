//! Replicas up, and every one of them ready.

use std::time::{Duration, Instant};

use domain::Color;
use domain::rollout::{Evidence, RolloutEvent, starting};
use domain::slot::SlotSpec;

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
        if starting::has_ended(&status) {
            let seen: &Instant = crashed.get_or_insert_with(Instant::now);
            if starting::tells_how(&status) || seen.elapsed() > TELLING {
                return Err(evidence::of_slot(job, &status, "it ended before it was ready").await);
            }
        }
        if began.elapsed() > job.rollout.gates.start_limit {
            let limit = domain::units::Span(job.rollout.gates.start_limit);
            let why = format!("slot {slot} was not ready within {limit}");
            return Err(evidence::of_slot(job, &status, &why).await);
        }
        job.call.note(starting::waiting_for(&status));
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
