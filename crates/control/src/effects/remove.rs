//! Takes away what nothing routes to any more.

use std::time::Duration;

use domain::app::{EnvironmentEvent, Event};
use domain::{Color, EnvironmentName, ReleaseId};

use super::drain;
use crate::clock;
use crate::control::Call;
use crate::world::World;

/// For the last WebSockets to be closed politely before their replica is stopped.
const GOODBYES: Duration = Duration::from_secs(2);
const PAUSE: Duration = Duration::from_millis(500);

/// Drains the slot and stops its replicas, however often that has to be tried.
pub async fn slot(
    world: &World,
    call: &Call,
    environment: &EnvironmentName,
    slot: Color,
    release: &ReleaseId,
) -> Option<Event> {
    let config = call.app.projects.get(release).and_then(|p| p.environment(environment));
    // What is still open then is closed over the spread, and each close takes its moment.
    let limit = config.map_or(Duration::ZERO, |config| config.drain + config.spread + GOODBYES);
    drain::wait(world, call, environment, slot, clock::wall() + limit).await;
    while let Err(error) = world.engine.remove(environment, slot).await {
        call.note(error.to_string());
        tokio::time::sleep(PAUSE).await;
    }
    let last_request = drain::last_request(world, environment, slot, release).await;
    let event = EnvironmentEvent::Removed { slot, last_request };
    Some(Event::Environment { environment: environment.clone(), event })
}

/// Stops everything of the environment.
pub async fn environment(
    world: &World,
    call: &Call,
    environment: &EnvironmentName,
    with_data: bool,
) -> Option<Event> {
    while let Err(error) = world.engine.down(environment, with_data).await {
        call.note(error.to_string());
        tokio::time::sleep(PAUSE).await;
    }
    let event = EnvironmentEvent::WentDown;
    Some(Event::Environment { environment: environment.clone(), event })
}
