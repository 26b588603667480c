//! How often a container ended of late. The Engine tells only a total since it was made, and how it ended only until
//! it runs again: what it told before is remembered.

use bollard::models::ContainerInspectResponse;
use domain::Timestamp;
use domain::slot::{Ends, Exit};

use super::state;

/// What was seen of one container's ends; may be lost at any time.
#[derive(Debug, Default)]
pub(super) struct Ended {
    /// How often it had ended by then, whenever that had changed; the oldest is from before [`Ends::WHILE`] at most.
    totals: Vec<(Timestamp, u32)>,
    last: Option<Last>,
}

/// An end that was seen before the container ran again.
#[derive(Debug)]
struct Last {
    at: Timestamp,
    exit: Exit,
    said: Option<String>,
}

impl Ended {
    /// Notes what the Engine says at `now`; `seen` of a container that is ended.
    pub fn look(
        &mut self,
        found: &ContainerInspectResponse,
        restarts: u32,
        seen: Option<(Exit, Option<String>)>,
        now: Timestamp,
    ) -> Option<Ends> {
        let total = restarts + u32::from(seen.is_some());
        let recent = self.recent(total, made(found), now);
        let at = state::time(found.state.as_ref()?.finished_at.as_deref())?;
        if let Some((exit, said)) = seen {
            self.last = Some(Last { at, exit, said });
        }
        let last = self.last.as_ref().filter(|last| last.at == at);
        let said = last.and_then(|last| last.said.clone());
        Some(Ends { recent, exit: last.map(|last| last.exit), at, said })
    }

    fn recent(&mut self, total: u32, made: Option<Timestamp>, now: Timestamp) -> u32 {
        let old = |at: Timestamp| now.since(at) >= Ends::WHILE;
        // Started by hand, it counts anew.
        if self.totals.last().is_some_and(|(_, before)| *before > total) {
            self.totals.clear();
        }
        if self.totals.is_empty() {
            // Of what was before the first look, nobody knows when it was, unless all of it is recent.
            let young = made.filter(|made| !old(*made));
            self.totals.push(young.map_or((now, total), |made| (made, 0)));
        }
        if self.totals.last().is_some_and(|(_, before)| *before < total) {
            self.totals.push((now, total));
        }
        // The newest of the old ones is where the recent ones begin.
        let before = self.totals.iter().rposition(|(at, _)| old(*at)).unwrap_or(0);
        self.totals.drain(..before);
        total - self.totals.first().map_or(total, |(_, first)| *first)
    }
}

fn made(found: &ContainerInspectResponse) -> Option<Timestamp> {
    let created = serde_json::to_value(found.created.as_ref()?).ok()?;
    state::time(created.as_str())
}

#[cfg(test)]
mod tests {
    use bollard::models::ContainerState;

    use super::*;

    const START: i64 = 1_700_000_000_000;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_millis(START + seconds * 1000)
    }

    /// What the Engine says of one that ended last at this second.
    fn found(finished: i64) -> ContainerInspectResponse {
        let finished_at = serde_json::to_value(at(finished)).unwrap();
        let state = ContainerState {
            finished_at: finished_at.as_str().map(str::to_owned),
            ..Default::default()
        };
        ContainerInspectResponse { state: Some(state), ..Default::default() }
    }

    #[test]
    fn a_container_that_ends_again_and_again_is_known_while_it_runs_too() {
        let mut ended = Ended::default();
        let boom = Some((Exit::Code(3), Some("boom".to_owned())));
        assert!(!ended.look(&found(0), 7, None, at(1)).unwrap().crashing(), "7 in its whole life");
        ended.look(&found(10), 8, None, at(11));
        ended.look(&found(20), 8, boom, at(20));
        ended.look(&found(20), 9, None, at(21));
        let running = ended.look(&found(20), 10, None, at(40)).unwrap();
        assert!(running.crashing(), "{running:?}");
        assert_eq!((running.exit, running.said.as_deref()), (Some(Exit::Code(3)), Some("boom")));
        let unseen = ended.look(&found(50), 11, None, at(51)).unwrap();
        assert_eq!((unseen.exit, unseen.recent), (None, 4));
        let well = ended.look(&found(50), 11, None, at(500)).unwrap();
        assert_eq!(well.recent, 0, "it runs since then");
        assert!(!well.crashing());
    }

    #[test]
    fn one_that_never_ended_has_no_end() {
        let never = ContainerState {
            finished_at: Some("0001-01-01T00:00:00Z".into()),
            ..Default::default()
        };
        let found = ContainerInspectResponse { state: Some(never), ..Default::default() };
        assert_eq!(Ended::default().look(&found, 0, None, at(0)), None);
    }
}
