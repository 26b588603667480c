//! Gives the edge the newest table, until it has it.

use std::time::Duration;

use domain::Epoch;
use domain::app::Event;
use domain::units::Span;
use edge::ClientError;

use crate::control::Call;
use crate::world::World;

const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

pub async fn perform(world: &World, call: &Call, epoch: Epoch) -> Option<Event> {
    let mut pause = FIRST_PAUSE;
    loop {
        match world.edge.publish(&call.app.table).await {
            Ok(_) => return Some(Event::Published { epoch }),
            Err(error) => call.note(note(epoch, &error)),
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// What is in the way. The edge comes back by itself, as far as it can.
fn note(epoch: Epoch, error: &ClientError) -> String {
    match error {
        ClientError::Unreachable { source, .. } => format!(
            "the traffic cannot move while the edge is down ({source}); the server starts it again, \
             `launchway doctor` says what is in its way"
        ),
        ClientError::Deadline { deadline, .. } => format!(
            "the traffic cannot move: the edge did not answer within {}; `launchway doctor` says more",
            Span(*deadline)
        ),
        error => format!("giving the edge table {epoch}: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_edge_that_is_down_is_named_with_the_way_out() {
        let source = std::io::ErrorKind::ConnectionRefused.into();
        let down = ClientError::Unreachable { path: "/tmp/control.sock".into(), source };
        let said = note(Epoch::default(), &down);
        assert!(said.contains("the edge is down") && said.contains("`launchway doctor`"), "{said}");
        assert!(!said.contains('\n'), "it is one line: {said}");
    }
}
