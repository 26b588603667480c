//! What is the matter with a replica, each in the rest of a sentence about it.

use std::time::Duration;

use domain::Timestamp;
use domain::slot::Ends;

use crate::cli::paint::{ago, line, span};
use crate::view::ReplicaView;

/// The longest before a restart: what crashes at once does so this often.
const PAUSE: Duration = Duration::from_secs(30);

/// Whether it ends again and again, whatever it does just now.
pub fn is_looping(replica: &ReplicaView) -> bool {
    replica.ends.as_ref().is_some_and(Ends::crashing)
}

/// Whether it counts as ready: both the server and the edge find it so.
pub fn has_traffic(replica: &ReplicaView) -> bool {
    replica.state == "ready" && replica.ejected.is_none()
}

/// Nothing for one that is well.
pub fn troubles(replica: &ReplicaView, now: Timestamp) -> Vec<String> {
    let mut all = Vec::new();
    let ready = replica.state == "ready";
    match &replica.ends {
        Some(ends) if ends.crashing() => all.push(looping(ends, now)),
        _ if !ready => {
            let why = line(replica.problem.as_deref().unwrap_or("not probed yet"));
            all.push(format!("is {}: {why}", replica.state));
        }
        _ => {}
    }
    all.extend(replica.ejected.as_deref().map(line).map(|why| match ready {
        // Server and edge look at different moments.
        true => format!("answers again, and gets traffic once the edge has seen it too: it {why}"),
        false => format!("gets no traffic: it {why}"),
    }));
    all
}

/// That it keeps crashing, and how.
pub fn looping(ends: &Ends, now: Timestamp) -> String {
    let (times, within, when) = (ends.recent, span(Ends::WHILE), ago(now, ends.at));
    let what = match now.since(ends.at) < PAUSE * 2 {
        true => format!("keeps crashing: {times} times"),
        false => format!("crashed {times} times"),
    };
    let how = ends.exit.map_or(String::new(), |exit| format!(" ({exit})"));
    let said = ends.said.as_deref().map(|said| format!("; its last line: {}", line(said)));
    let said = said.unwrap_or_default();
    format!("{what} within {within}, last {when}{how}{said}")
}

#[cfg(test)]
mod tests {
    use domain::slot::{Endpoint, Exit};

    use super::*;

    fn replica(state: &str) -> ReplicaView {
        ReplicaView {
            service: "web".parse().unwrap(),
            index: 0,
            state: state.into(),
            problem: None,
            endpoint: Endpoint::Http(([127, 0, 0, 1], 80).into()),
            restarts: 4,
            pid: None,
            shim_pid: None,
            ejected: None,
            ends: None,
            usage: None,
        }
    }

    fn now() -> Timestamp {
        Timestamp::from_millis(600_000)
    }

    #[test]
    fn a_replica_that_crashes_again_and_again_is_called_that_whatever_it_does_just_now() {
        let at = Timestamp::from_millis(588_000);
        let (exit, said) = (Some(Exit::Code(1)), Some("no tea".to_owned()));
        let ends = Ends { recent: 5, exit, at, said };
        for state in ["ready", "starting", "ended", "unready"] {
            let replica = ReplicaView { ends: Some(ends.clone()), ..replica(state) };
            assert_eq!(
                troubles(&replica, now()),
                ["keeps crashing: 5 times within 5 min, last 12 s ago (exit status 1); \
                  its last line: no tea"]
            );
        }
        let over = ends.at.as_millis() + 200_000;
        let well = troubles(
            &ReplicaView { ends: Some(ends.clone()), ..replica("ready") },
            Timestamp::from_millis(over),
        );
        assert!(well[0].starts_with("crashed 5 times within 5 min, last 3 min ago"), "{well:?}");
        let once = ReplicaView { ends: Some(Ends { recent: 1, ..ends }), ..replica("ready") };
        assert_eq!(troubles(&once, now()), Vec::<String>::new());
    }

    #[test]
    fn a_replica_that_is_back_before_the_edge_has_seen_it_is_not_called_both() {
        let refused = Some("refused a connection".to_owned());
        let back = ReplicaView { ejected: refused.clone(), ..replica("ready") };
        assert!(has_traffic(&replica("ready")) && !has_traffic(&back));
        assert_eq!(
            troubles(&back, now()),
            ["answers again, and gets traffic once the edge has seen it too: \
              it refused a connection"]
        );
        let away = ReplicaView { ejected: refused, ..replica("starting") };
        assert_eq!(
            troubles(&away, now()),
            ["is starting: not probed yet", "gets no traffic: it refused a connection"]
        );
    }
}
