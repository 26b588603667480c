//! What the edge shall route, derived from the environments.

use std::collections::BTreeMap;

use super::{App, EnvironmentState, SlotState};
use crate::config::{Environment, Project};
use crate::route::{EnvironmentRoutes, Route, SlotRoutes, Table};
use crate::slot::Probe;
use crate::{Color, EnvironmentName, ReleaseId};

impl App {
    /// Gives the table a new epoch if what it has to say changed. Says whether it did.
    pub(super) fn refresh_table(&mut self) -> bool {
        let environments: BTreeMap<EnvironmentName, EnvironmentRoutes> = self
            .environments
            .iter()
            .filter_map(|(name, state)| Some((name.clone(), self.routes(name, state)?)))
            .collect();
        if environments == self.table.environments {
            return false;
        }
        self.table = Table { epoch: self.table.epoch.next(), environments };
        true
    }

    fn routes(
        &self,
        name: &EnvironmentName,
        state: &EnvironmentState,
    ) -> Option<EnvironmentRoutes> {
        let slots: BTreeMap<Color, SlotRoutes> = state
            .slots
            .iter()
            .filter(|(_, slot)| !slot.leaving)
            .filter_map(|(color, slot)| Some((*color, self.slot_routes(slot)?)))
            .collect();
        let (live, release) = shown(state, &slots)?;
        let project = self.projects.get(release)?;
        let config = project.environment(name)?;
        Some(EnvironmentRoutes {
            app: project.app.clone(),
            host: config.host.clone(),
            preview_host: preview_host(&config.host),
            live,
            slots,
            drain_deadline: config.drain,
            names: config.names.clone(),
            close_spread: config.spread,
            https: config.tls.as_ref().is_some_and(|tls| tls.redirect),
        })
    }

    /// The settings by which requests to an environment are routed now.
    pub fn routed(&self, name: &EnvironmentName) -> Option<&Environment> {
        let routes = self.table.environments.get(name)?;
        let slots = &routes.slots;
        let slot = slots.get(&routes.live).or_else(|| slots.values().next())?;
        self.projects.get(&slot.release)?.environment(name)
    }

    fn slot_routes(&self, slot: &SlotState) -> Option<SlotRoutes> {
        let project = self.projects.get(&slot.release)?;
        let routes = project.routes.iter().filter_map(|(prefix, target)| {
            Some(Route {
                prefix: prefix.clone(),
                service: target.service.clone(),
                endpoints: slot.endpoints.get(&target.service)?.clone(),
                health: health_path(project, &target.service),
                max_body: target.max_body,
            })
        });
        Some(SlotRoutes { release: slot.release.clone(), routes: routes.collect() })
    }
}

/// The live color, and the release whose settings hold.
fn shown<'a>(
    state: &EnvironmentState,
    slots: &'a BTreeMap<Color, SlotRoutes>,
) -> Option<(Color, &'a ReleaseId)> {
    if let Some((color, slot)) = state.live.and_then(|live| slots.get_key_value(&live)) {
        return Some((*color, &slot.release));
    }
    // Before anything is live, the candidate is reached by its preview host only.
    let (first, slot) = slots.first_key_value()?;
    Some((first.other(), &slot.release))
}

/// The host that answers with the slot that is not live.
pub fn preview_host(host: &str) -> String {
    format!("preview-{host}")
}

fn health_path(project: &Project, service: &crate::ServiceName) -> Option<String> {
    let (_, _, built) = project.built().find(|(name, ..)| *name == service)?;
    match &built.health.probe {
        Probe::Http(path) => Some(path.clone()),
        Probe::Tcp => None,
    }
}
