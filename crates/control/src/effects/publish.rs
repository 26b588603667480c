//! Gives the edge the newest table, until it has it.

use std::time::Duration;

use domain::Epoch;
use domain::app::Event;

use crate::control::Call;
use crate::world::World;

const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

pub async fn perform(world: &World, call: &Call, epoch: Epoch) -> Option<Event> {
    let mut pause = FIRST_PAUSE;
    loop {
        match world.edge.publish(&call.app.table).await {
            Ok(_) => return Some(Event::Published { epoch }),
            Err(error) => call.note(format!("giving the edge table {epoch}: {error}")),
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}
