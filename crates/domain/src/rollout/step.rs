//! How a rollout takes an event.

use super::{End, Evidence, Phase, Rollout, RolloutEvent};
use crate::config::Approval;
use crate::refusal::Refusal;
use crate::{Identity, Timestamp};

impl Rollout {
    /// Takes one event. An event that does not fit changes nothing and says why.
    /// `Started` is noted here; its endpoints belong to the environment.
    pub fn step(&mut self, event: &RolloutEvent, now: Timestamp) -> Result<(), Refusal> {
        match (event, self.phase.clone()) {
            (RolloutEvent::Approved { by, groups }, Phase::AwaitingApproval { expires }) => {
                self.admit(by, groups, true)?;
                if now >= expires {
                    return Err(Refusal::by_gate(format!("the approval of {} expired", self.id)));
                }
                self.approved = Some((by.clone(), now));
                self.enter(Phase::Queued, now);
            }
            (RolloutEvent::Rejected { by, groups, reason }, Phase::AwaitingApproval { .. }) => {
                self.admit(by, groups, false)?;
                self.end(End::Rejected { by: by.clone(), reason: reason.clone() }, now);
            }
            (RolloutEvent::Aborted { by }, _) => self.abort(by, now)?,
            (RolloutEvent::Prepared, Phase::Preparing) => {
                let next = if self.gates.migrate { Phase::Migrating } else { Phase::Clearing };
                self.enter(next, now);
            }
            (RolloutEvent::Migrated { notes }, Phase::Migrating) => {
                self.notes.extend(notes.iter().cloned());
                self.enter(Phase::Clearing, now);
            }
            (RolloutEvent::Started { .. }, Phase::Starting) => self.enter(Phase::Exposing, now),
            (RolloutEvent::CheckPassed { check, notes }, Phase::Verifying { check: running })
                if *check == running =>
            {
                self.notes.extend(notes.iter().cloned());
                self.verify_from(check + 1, now);
            }
            (RolloutEvent::Baked { notes, unjudged }, Phase::Baking { .. }) => {
                self.notes.extend(notes.iter().cloned());
                self.unjudged = *unjudged;
                self.drain(now);
            }
            (RolloutEvent::Breached { evidence, last_request }, Phase::Baking { .. }) => {
                self.note_last_request(*last_request);
                self.breach(evidence.clone(), now);
            }
            (RolloutEvent::Drained { last_request }, Phase::Draining { .. }) => {
                self.note_last_request(*last_request);
                self.enter(Phase::Live, now);
            }
            (
                RolloutEvent::EffectFailed { evidence },
                Phase::Preparing | Phase::Migrating | Phase::Starting | Phase::Verifying { .. },
            ) => self.fail(evidence.clone(), now),
            (_, phase) => {
                return Err(Refusal::new(format!("{} is {}", self.id, phase.name())));
            }
        }
        Ok(())
    }

    /// Time has come to [`Rollout::deadline`].
    pub(crate) fn time_out(&mut self, now: Timestamp) {
        let cause = format!(
            "it was {} for {} s without an answer",
            self.phase.name(),
            now.since(self.since).as_secs()
        );
        match self.phase {
            Phase::AwaitingApproval { .. } => self.end(End::Expired, now),
            // The edge may have switched without saying so: only a newer table settles it.
            Phase::Switching => self.breach(Evidence::of(cause), now),
            Phase::Baking { .. } => self.breach(
                Evidence::of(format!(
                    "the bake could not be judged, and that is not a pass: {cause}"
                )),
                now,
            ),
            // Whatever still holds on to the old slot has had its time.
            Phase::Draining { .. } => self.enter(Phase::Live, now),
            _ => self.fail(Evidence::of(cause), now),
        }
    }

    /// Goes on to the check with index `check`, or to the switch when there is none left.
    pub(crate) fn verify_from(&mut self, check: usize, now: Timestamp) {
        if check < self.gates.checks.len() {
            self.enter(Phase::Verifying { check }, now);
        } else {
            self.enter(Phase::Switching, now);
        }
    }

    /// The traffic has moved: watch it, or let the old slot go.
    pub(crate) fn switched(&mut self, now: Timestamp) {
        if let Some(switch) = self.switches.last_mut() {
            switch.published = Some(now);
        }
        match &self.gates.bake {
            Some(bake) => {
                let until = now + bake.duration;
                self.enter(Phase::Baking { until }, now);
            }
            None => self.drain(now),
        }
    }

    pub(crate) fn end(&mut self, end: End, now: Timestamp) {
        self.enter(Phase::Ended { end }, now);
    }

    fn note_last_request(&mut self, at: Option<Timestamp>) {
        if let Some(switch) = self.switches.last_mut() {
            switch.last_request = at;
        }
    }

    fn drain(&mut self, now: Timestamp) {
        if self.previous.is_some() {
            let until = now + self.gates.drain;
            self.enter(Phase::Draining { until }, now);
        } else {
            self.enter(Phase::Live, now);
        }
    }

    fn fail(&mut self, evidence: Evidence, now: Timestamp) {
        let end = End::Failed { cause: evidence.cause.clone() };
        self.evidence = Some(evidence);
        self.enter(Phase::Discarding { end }, now);
    }

    fn breach(&mut self, evidence: Evidence, now: Timestamp) {
        let cause = evidence.cause.clone();
        self.evidence = Some(evidence);
        match self.previous {
            Some(_) => self.enter(Phase::Reverting { end: End::RolledBack { cause } }, now),
            None => self.end(End::Stranded { cause }, now),
        }
    }

    fn abort(&mut self, by: &Identity, now: Timestamp) -> Result<(), Refusal> {
        let end = End::Aborted { by: by.clone() };
        if self.way_out().is_none() {
            let phase = self.phase.name();
            return Err(Refusal::new(format!("{} is {phase}, too late to abort", self.id)));
        }
        match self.phase {
            Phase::AwaitingApproval { .. } | Phase::Queued => self.end(end, now),
            Phase::Switching | Phase::Baking { .. } | Phase::Draining { .. } => {
                self.enter(Phase::Reverting { end }, now);
            }
            _ => self.enter(Phase::Discarding { end }, now),
        }
        Ok(())
    }

    /// Whether `by` may decide about it.
    fn admit(&self, by: &Identity, groups: &[String], approving: bool) -> Result<(), Refusal> {
        let Some(Approval { from, not_author, .. }) = &self.gates.approval else {
            return Err(Refusal::new(format!("{} needs no approval", self.id)));
        };
        if !from.iter().any(|name| name == by.as_str() || groups.contains(name)) {
            let wanted = from.join(", ");
            return Err(Refusal::by_gate(format!("{by} is none of: {wanted}")));
        }
        if approving && *not_author && self.authors.iter().any(|author| author == by.as_str()) {
            return Err(Refusal::by_gate(format!(
                "{by} is the author of {}; somebody else has to approve it",
                self.release
            )));
        }
        Ok(())
    }
}
