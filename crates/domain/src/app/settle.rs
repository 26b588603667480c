//! Moves on whatever can move on without an effect: the environment's side of rollouts.

use super::App;
use crate::rollout::{Kind, Phase, Rollout, Switch};
use crate::{Color, EnvironmentName, RolloutId, Timestamp};

impl App {
    /// Applies every consequence until nothing changes any more.
    pub(super) fn settle(&mut self, now: Timestamp) {
        loop {
            let names: Vec<EnvironmentName> = self.environments.keys().cloned().collect();
            let mut moved = false;
            for name in &names {
                moved |= self.begin_next(name, now);
                moved |= self.advance_active(name, now);
                moved |= self.record_live(name, now);
                moved |= self.empty_when_going_down(name);
            }
            moved |= self.refresh_table();
            if !moved {
                return;
            }
        }
    }

    /// The oldest queued rollout takes its place when nothing else is under way.
    fn begin_next(&mut self, name: &EnvironmentName, now: Timestamp) -> bool {
        if self.active(name).is_some() {
            return false;
        }
        let queued = self.rollouts.values_mut().filter(|r| r.environment == *name);
        let next = queued
            .filter(|r| r.phase == Phase::Queued)
            .min_by_key(|rollout| super::number(&rollout.id));
        let (Some(rollout), Some(environment)) = (next, self.environments.get(name)) else {
            return false;
        };
        rollout.previous = environment.live;
        rollout.candidate = Some(environment.live.map_or(Color::Blue, Color::other));
        rollout.enter(Phase::Preparing, now);
        true
    }

    fn advance_active(&mut self, name: &EnvironmentName, now: Timestamp) -> bool {
        let synced = self.synced();
        let active = self.rollouts.values_mut().find(|r| r.environment == *name && r.under_way());
        let (Some(rollout), Some(environment)) = (active, self.environments.get_mut(name)) else {
            return false;
        };
        let Some(candidate) = rollout.candidate else { return false };
        let slot = environment.slots.get_mut(&candidate);
        match &rollout.phase {
            Phase::Clearing => match slot {
                Some(slot) if slot.release != rollout.release || slot.leaving => {
                    !std::mem::replace(&mut slot.leaving, true)
                }
                slot => {
                    if let Some(slot) = slot {
                        slot.expires = None;
                    }
                    rollout.holds_slot = true;
                    rollout.enter(Phase::Starting, now);
                    true
                }
            },
            Phase::Exposing if synced => {
                rollout.verify_from(0, now);
                true
            }
            Phase::Switching if environment.live != Some(candidate) => {
                environment.live = Some(candidate);
                rollout.switches.push(switch(rollout.previous, candidate, now));
                true
            }
            Phase::Switching if synced => {
                rollout.switched(now);
                true
            }
            Phase::Reverting { end } => match rollout.previous {
                Some(previous) if environment.live == Some(candidate) => {
                    environment.live = Some(previous);
                    rollout.switches.push(switch(Some(candidate), previous, now));
                    true
                }
                _ if synced => {
                    let end = end.clone();
                    if let Some(switch) = rollout.switches.last_mut() {
                        switch.published = Some(now);
                    }
                    rollout.enter(Phase::Discarding { end }, now);
                    true
                }
                _ => false,
            },
            Phase::Discarding { end } if !rollout.holds_slot => {
                let end = end.clone();
                rollout.end(end, now);
                true
            }
            Phase::Discarding { .. } => {
                slot.is_some_and(|slot| !std::mem::replace(&mut slot.leaving, true))
            }
            _ => false,
        }
    }

    /// Notes a rollout that went live, once: the way back, how long it stays warm, what comes after.
    fn record_live(&mut self, name: &EnvironmentName, now: Timestamp) -> bool {
        let fresh =
            |r: &&mut Rollout| r.environment == *name && r.phase == Phase::Live && !r.recorded;
        let (Some(rollout), Some(environment)) =
            (self.rollouts.values_mut().find(fresh), self.environments.get_mut(name))
        else {
            return false;
        };
        rollout.recorded = true;
        environment.went_live(&rollout.release);
        let expires = now + rollout.gates.keep;
        for (color, slot) in &mut environment.slots {
            slot.expires = (Some(*color) != environment.live).then_some(expires);
        }
        if rollout.kind == Kind::Deploy {
            let id = rollout.id.clone();
            self.promote(&id, now);
        }
        true
    }

    /// A release that was good here goes on to the environments after this one.
    fn promote(&mut self, id: &RolloutId, now: Timestamp) {
        let Some(rollout) = self.rollouts.get(id) else { return };
        let (release, here, by) =
            (rollout.release.clone(), rollout.environment.clone(), rollout.by.clone());
        let Some(project) = self.projects.get(&release).cloned() else { return };
        for next in project.environments.iter().filter(|e| e.after.as_ref() == Some(&here)) {
            // An environment that is being taken down takes nothing: no failure of this rollout.
            let _refused = self.request_deploy(&next.name, &release, &by, now);
        }
    }

    fn empty_when_going_down(&mut self, name: &EnvironmentName) -> bool {
        let Some(environment) = self.environments.get_mut(name) else { return false };
        if environment.going_down.is_none() {
            return false;
        }
        let mut staying = environment.slots.values_mut().filter(|slot| !slot.leaving).peekable();
        let any = staying.peek().is_some();
        staying.for_each(|slot| slot.leaving = true);
        any
    }

    /// Whether a rollout waits for its own slot to be taken away.
    pub(super) fn discards(&self, name: &EnvironmentName, slot: Color) -> bool {
        self.active(name).is_some_and(|r| {
            r.holds_slot && r.candidate == Some(slot) && matches!(r.phase, Phase::Discarding { .. })
        })
    }

    pub(super) fn slot_removed(
        &mut self,
        name: &EnvironmentName,
        slot: Color,
        last_request: Option<Timestamp>,
        now: Timestamp,
    ) {
        if let Some(environment) = self.environments.get_mut(name) {
            environment.slots.remove(&slot);
        }
        let active = self.rollouts.values_mut().find(|r| r.environment == *name && r.under_way());
        let Some(rollout) = active.filter(|r| r.candidate == Some(slot)) else { return };
        let Phase::Discarding { end } = rollout.phase.clone() else { return };
        if let Some(switch) = rollout.switches.last_mut().filter(|s| s.from == Some(slot)) {
            switch.last_request = last_request;
        }
        rollout.holds_slot = false;
        rollout.end(end, now);
    }
}

fn switch(from: Option<Color>, to: Color, decided: Timestamp) -> Switch {
    Switch { from, to, decided, published: None, last_request: None }
}
