//! Keeps what runs as it was decided: looks at every environment each second and mends what is missing.
//!
//! Nothing here decides anything: a slot that was started is applied again, a backing service that
//! is gone is brought back, an edge that lost its table gets it again.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use domain::app::{App, EnvironmentEvent, EnvironmentState, Event};
use domain::slot::{SlotSpec, SlotStatus, Snapshot};
use domain::{Color, EnvironmentName};

use crate::clock;
use crate::control::Handle;
use crate::world::{Placed, World, endpoints};

const EVERY: Duration = Duration::from_secs(1);

/// Looks and mends until it is dropped.
pub async fn reconcile(world: Arc<World>, handle: Handle) {
    let mut ticks = tokio::time::interval(EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let app = handle.app();
        if handle.closed() {
            continue;
        }
        for state in app.environments.values().filter(|state| state.going_down.is_none()) {
            if let Err(error) = environment(&world, &handle, &app, state).await {
                tracing::warn!(environment = %state.name, %error, "cannot look after an environment");
            }
        }
        edge(&world, &app).await;
    }
}

async fn environment(
    world: &World,
    handle: &Handle,
    app: &App,
    state: &EnvironmentState,
) -> Result<(), engine::EngineError> {
    let snapshot = world.engine.observe(&state.name).await?;
    world.saw(&state.name, snapshot.clone());
    // While a rollout is under way, its own effects look after what they start.
    if app.active(&state.name).is_none() {
        backing(world, app, state, &snapshot).await?;
    }
    for (slot, wanted) in state.slots.iter().filter(|(_, slot)| !slot.leaving) {
        let Ok(placed) = Placed::of(app, &state.name, &wanted.release) else { continue };
        let spec = match world.slot_spec(&placed, *slot, &snapshot).await {
            Ok(spec) => spec,
            Err(error) => {
                tracing::warn!(environment = %state.name, %slot, %error, "cannot look after a slot");
                continue;
            }
        };
        match snapshot.slots.get(slot) {
            Some(status) if complete(&spec, status) => {
                if endpoints(status) != wanted.endpoints {
                    moved(handle, &state.name, *slot, status).await;
                }
            }
            _ => world.engine.apply(&spec).await?,
        }
    }
    Ok(())
}

/// Brings back a backing service that is not there at all; one that is starting again is left to its shim.
async fn backing(
    world: &World,
    app: &App,
    state: &EnvironmentState,
    snapshot: &Snapshot,
) -> Result<(), engine::EngineError> {
    let Some(live) = state.live_release() else { return Ok(()) };
    let Ok(placed) = Placed::of(app, &state.name, live) else { return Ok(()) };
    // Data was loaded when the service was new; it is not new any more.
    let specs = world.backing_specs(&placed, &BTreeMap::new()).await;
    for spec in specs.unwrap_or_default() {
        if !snapshot.backing.contains_key(&spec.service) {
            world.engine.back(&spec).await?;
        }
    }
    Ok(())
}

fn complete(spec: &SlotSpec, status: &SlotStatus) -> bool {
    let count = |name| status.services.get(name).map_or(0, Vec::len);
    status.release == spec.release
        && spec.services.iter().all(|service| count(&service.name) == service.replicas as usize)
}

async fn moved(handle: &Handle, name: &EnvironmentName, slot: Color, status: &SlotStatus) {
    let event = EnvironmentEvent::Moved { slot, endpoints: endpoints(status) };
    let event = Event::Environment { environment: name.clone(), event };
    if let Err(declined) = handle.offer(event).await {
        tracing::warn!(environment = %name, %slot, %declined, "replicas answer elsewhere");
    }
}

/// An edge that lost its disk routes nothing; the table is given to it again.
async fn edge(world: &World, app: &App) {
    let Ok(status) = world.edge.status().await else { return };
    world.failures.note(&status, clock::wall());
    if app.synced() && status.epoch < app.published {
        match world.edge.publish(&app.table).await {
            Ok(_) => {
                tracing::warn!(epoch = %app.published, "the edge had lost its table and has it again")
            }
            Err(error) => tracing::warn!(%error, "the edge has lost its table"),
        }
    }
}
