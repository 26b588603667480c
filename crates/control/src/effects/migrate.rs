//! Migrations: once for each rollout, under the environment's lock, before the switch.

use domain::rollout::{Evidence, MIGRATE_LIMIT, RolloutEvent};

use super::{Effect, Job};
use crate::spec;

pub async fn perform(job: &Job<'_>) -> Effect {
    let slot = job.rollout.candidate.unwrap_or(domain::Color::Blue);
    let spec = super::start::slot_spec(job, slot).await?;
    let id = job.rollout.id.as_str();
    let mut notes = Vec::new();
    for migration in spec::migrations(job.placed.project, &spec, id, MIGRATE_LIMIT) {
        let outcome = job.world.engine.run(&migration).await;
        let outcome = outcome.map_err(|error| Evidence::of(error.to_string()))?;
        if !outcome.exit.success() {
            let command = &migration.command;
            let mut evidence =
                Evidence::of(format!("the migration `{command}` {}", outcome.exit.predicate()));
            if let Some(last) = outcome.tail.iter().rev().find(|line| !line.trim().is_empty()) {
                evidence.cause = format!("{}; it last said: {last}", evidence.cause);
            }
            evidence.logs.insert(migration.id, outcome.tail);
            evidence.differs = super::evidence::differs(job).await;
            return Err(evidence);
        }
        notes.extend(outcome.tail.last().map(|line| format!("migration: {line}")));
    }
    Ok(RolloutEvent::Migrated { notes })
}
