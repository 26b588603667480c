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
            Err(error) => call.note(format!("the traffic stays as it is: {}", trouble(&error))),
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Why the edge did not do what it was asked, with the way out.
pub fn trouble(error: &ClientError) -> String {
    const DOCTOR: &str = "`launchway doctor` says what is in its way";
    match error {
        ClientError::Unreachable { source, .. } => {
            format!("the edge is down ({source}) and is started again; {DOCTOR}")
        }
        ClientError::Deadline { deadline, .. } => {
            format!("the edge did not answer within {}; {DOCTOR}", Span(*deadline))
        }
        error => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_edge_that_is_down_is_named_with_the_way_out() {
        let source = std::io::ErrorKind::ConnectionRefused.into();
        let down = ClientError::Unreachable { path: "/tmp/control.sock".into(), source };
        let said = trouble(&down);
        assert!(said.contains("the edge is down") && said.contains("`launchway doctor`"), "{said}");
        assert!(!said.contains('\n'), "it is one line: {said}");
    }
}
