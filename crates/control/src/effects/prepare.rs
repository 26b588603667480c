//! Backing services up and ready.

use std::collections::BTreeMap;

use domain::rollout::{Evidence, RolloutEvent};
use domain::slot::BackingSpec;
use engine::LogSource;

use super::evidence::LINES;
use super::{Effect, Job};

pub async fn perform(job: &Job<'_>) -> Effect {
    let environment = &job.placed.environment.name;
    for backing in backing_specs(job).await? {
        job.call.note(format!("waiting for {}", backing.service));
        if let Err(error) = job.world.engine.back(&backing).await {
            let mut evidence = Evidence::of(error.to_string());
            let source = LogSource::Backing { service: backing.service.clone() };
            // A service that never started has no log.
            if let Ok(log) = job.world.engine.logs(environment, &source, LINES).await {
                evidence.logs.insert(backing.service.to_string(), log);
            }
            return Err(evidence);
        }
    }
    Ok(RolloutEvent::Prepared)
}

async fn backing_specs(job: &Job<'_>) -> Result<Vec<BackingSpec>, Evidence> {
    let mut load = BTreeMap::new();
    for (service, path) in &job.placed.environment.load {
        let file = job.world.pipeline.file(&job.placed.release.commit.id, path).await;
        load.insert(service.clone(), file.map_err(|error| Evidence::of(error.to_string()))?);
    }
    let specs = job.world.backing_specs(&job.placed, &load).await;
    specs.map_err(|error| Evidence::of(error.to_string()))
}
