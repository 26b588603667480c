//! What waits to be done, as it follows from the state: nothing else has to be remembered.

use std::collections::BTreeSet;

use super::{Action, App, EnvironmentState};
use crate::rollout::{Phase, Rollout};

impl App {
    /// Every effect without a result yet, each once. After a crash these are done again.
    pub fn pending(&self) -> Vec<Action> {
        let mut actions = BTreeSet::new();
        for run in self.runs.values().filter(|run| self.run_before(run).is_none()) {
            let pending = run.pending().into_iter();
            actions.extend(pending.map(|action| Action::Run { run: run.id.clone(), action }));
        }
        if !self.synced() {
            actions.insert(Action::Publish { epoch: self.table.epoch });
        }
        actions.extend(self.rollouts.values().filter_map(|rollout| self.for_rollout(rollout)));
        for environment in self.environments.values() {
            actions.extend(self.for_environment(environment));
        }
        actions.into_iter().collect()
    }

    fn for_rollout(&self, rollout: &Rollout) -> Option<Action> {
        let id = rollout.id.clone();
        match &rollout.phase {
            Phase::Preparing => Some(Action::Prepare { rollout: id }),
            Phase::Migrating => Some(Action::Migrate { rollout: id }),
            Phase::Starting => Some(Action::Start { rollout: id, slot: rollout.candidate? }),
            Phase::Verifying { check } => Some(Action::Check { rollout: id, check: *check }),
            Phase::Baking { .. } => Some(Action::Watch { rollout: id }),
            Phase::Draining { .. } => Some(Action::Drain { rollout: id, slot: rollout.previous? }),
            Phase::Discarding { .. } if rollout.holds_slot && self.synced() => {
                Some(Action::Remove {
                    environment: rollout.environment.clone(),
                    slot: rollout.candidate?,
                    release: rollout.release.clone(),
                })
            }
            _ => None,
        }
    }

    /// Slots are taken away only when the edge is known not to route to them any more.
    fn for_environment(&self, environment: &EnvironmentState) -> Vec<Action> {
        if !self.synced() {
            return Vec::new();
        }
        if let Some(with_data) = environment.going_down {
            return vec![Action::TakeDown { environment: environment.name.clone(), with_data }];
        }
        let leaving = environment.slots.iter().filter(|(_, slot)| slot.leaving);
        leaving
            .map(|(color, slot)| Action::Remove {
                environment: environment.name.clone(),
                slot: *color,
                release: slot.release.clone(),
            })
            .collect()
    }
}
