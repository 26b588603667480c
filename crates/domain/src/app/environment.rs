//! An environment: two slots, which of them is live, and the way back.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::refusal::Refusal;
use crate::slot::Endpoint;
use crate::{Color, EnvironmentName, ReleaseId, ServiceName, Timestamp};

/// What is true of one environment.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct EnvironmentState {
    pub name: EnvironmentName,
    pub slots: BTreeMap<Color, SlotState>,
    /// The slot that has the traffic.
    pub live: Option<Color>,
    /// The releases that were live, oldest first, ending with the live one; what was rolled back
    /// is not among them.
    pub lineage: Vec<ReleaseId>,
    /// Releases that were good here: environments `after` this one take no others.
    pub proven: Vec<ReleaseId>,
    /// It is being taken down, with its data or without.
    pub going_down: Option<bool>,
}

/// A slot with ready replicas, or one that is being emptied.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SlotState {
    pub release: ReleaseId,
    pub endpoints: BTreeMap<ServiceName, Vec<Endpoint>>,
    /// It is on its way out: nothing routes to it.
    pub leaving: bool,
    /// When a slot that is not live is emptied.
    pub expires: Option<Timestamp>,
}

/// How many releases an environment can be rolled back over.
const LINEAGE: usize = 20;

impl EnvironmentState {
    pub(super) fn new(name: EnvironmentName) -> Self {
        Self {
            name,
            slots: BTreeMap::new(),
            live: None,
            lineage: Vec::new(),
            proven: Vec::new(),
            going_down: None,
        }
    }

    /// The release that has the traffic.
    pub fn live_release(&self) -> Option<&ReleaseId> {
        self.slots.get(&self.live?).map(|slot| &slot.release)
    }

    /// The release a rollback goes to.
    pub fn rollback_target(&self) -> Option<&ReleaseId> {
        self.lineage.len().checked_sub(2).and_then(|i| self.lineage.get(i))
    }

    /// The slot that still runs the rollback's target, ready for the traffic.
    pub fn warm(&self) -> Option<Color> {
        let target = self.rollback_target()?;
        let idle = self.live?.other();
        let slot = self.slots.get(&idle)?;
        (!slot.leaving && slot.release == *target).then_some(idle)
    }

    /// Whether `release` may be needed here again.
    pub(super) fn needs(&self, release: &ReleaseId) -> bool {
        self.lineage.contains(release) || self.slots.values().any(|s| s.release == *release)
    }

    pub(super) fn fill(
        &mut self,
        slot: Color,
        release: &ReleaseId,
        endpoints: BTreeMap<ServiceName, Vec<Endpoint>>,
    ) {
        let release = release.clone();
        self.slots.insert(slot, SlotState { release, endpoints, leaving: false, expires: None });
    }

    pub(super) fn moved(
        &mut self,
        slot: Color,
        endpoints: &BTreeMap<ServiceName, Vec<Endpoint>>,
    ) -> Result<(), Refusal> {
        let state = self.slots.get_mut(&slot).filter(|state| !state.leaving);
        let state = state
            .ok_or_else(|| Refusal::new(format!("slot {slot} of {} has nothing", self.name)))?;
        let same_services = state.endpoints.keys().eq(endpoints.keys());
        if !same_services || endpoints.values().any(Vec::is_empty) {
            return Err(Refusal::new(format!("a service of slot {slot} has no replica")));
        }
        state.endpoints = endpoints.clone();
        Ok(())
    }

    /// `release` proved itself in the live slot.
    pub(super) fn went_live(&mut self, release: &ReleaseId) {
        // A release deployed again, or returned to, cuts off what came after it.
        if let Some(index) = self.lineage.iter().position(|known| known == release) {
            self.lineage.truncate(index);
        }
        self.lineage.push(release.clone());
        let excess = self.lineage.len().saturating_sub(LINEAGE);
        self.lineage.drain(..excess);
        self.proven.retain(|known| known != release);
        self.proven.push(release.clone());
        let excess = self.proven.len().saturating_sub(super::KEPT);
        self.proven.drain(..excess);
    }

    pub(super) fn deadline(&self) -> Option<Timestamp> {
        self.slots.values().filter(|s| !s.leaving).filter_map(|s| s.expires).min()
    }

    pub(super) fn expire(&mut self, now: Timestamp) {
        for (color, slot) in &mut self.slots {
            if Some(*color) != self.live && slot.expires.is_some_and(|at| at <= now) {
                slot.leaving = true;
            }
        }
    }
}
