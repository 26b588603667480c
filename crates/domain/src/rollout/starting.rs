//! A slot that is not ready yet: whether to wait on, for what, and what is most likely the matter.

use crate::slot::{Exit, ProbeRecord, ReplicaState, ReplicaStatus, SlotStatus};

/// Whether a process ended while it started: such a slot is not waited for.
pub fn has_ended(status: &SlotStatus) -> bool {
    let mut replicas = status.services.values().flatten();
    replicas.any(|replica| replica.restarts > 0) || tells_how(status)
}

/// Whether the slot shows now what became of such a process, as it does best until it is started again. That its
/// supervisor was killed does not happen again.
pub fn tells_how(status: &SlotStatus) -> bool {
    let mut replicas = status.services.values().flatten();
    replicas.any(|replica| {
        matches!(replica.state, ReplicaState::Exited { .. })
            || replica.end_before() == Some(Exit::Unknown)
    })
}

/// The first thing that keeps the slot from being ready.
pub fn waiting_for(status: &SlotStatus) -> String {
    let mut replicas = status.services.iter().flat_map(|(s, all)| all.iter().map(move |r| (s, r)));
    let unready = replicas.clone().find(|(_, replica)| replica.state != ReplicaState::Ready);
    let Some((service, replica)) = unready else {
        let ended = replicas.find_map(|(s, r)| Some((s, r.index, r.end_before()?)));
        return ended.map_or("all replicas are ready".into(), |(service, index, exit)| {
            format!("{service} {index} {} before it was ready", exit.predicate())
        });
    };
    match &replica.state {
        ReplicaState::Starting { transcript } | ReplicaState::Unready { transcript } => {
            let answer = transcript.last().map_or("not probed yet", |probe| &probe.answer);
            format!("{service} {}: {answer}", replica.index)
        }
        _ => format!("{service} {}", replica.index),
    }
}

/// What is the matter with the replica that is most likely what is the matter with all. `None` if each is ready.
pub fn likeliest_cause(status: &SlotStatus) -> Option<String> {
    let causes = status.services.iter().flat_map(|(service, replicas)| {
        replicas.iter().filter_map(move |replica| {
            let (weight, cause) = cause(replica)?;
            Some((weight, format!("{service} {} {cause}", replica.index)))
        })
    });
    causes.min().map(|(_, cause)| cause)
}

/// How much a replica tells, the most first.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Weight {
    Ended,
    Unready,
    Starting,
}

fn cause(replica: &ReplicaStatus) -> Option<(Weight, String)> {
    let before = || {
        let said = replica.ends.as_ref().and_then(|ends| ends.said.as_deref());
        replica.end_before().map(|exit| ended(exit, said))
    };
    match &replica.state {
        ReplicaState::Exited { exit, tail } => {
            let said = tail.iter().rev().find(|line| !line.trim().is_empty());
            Some(ended(*exit, said.map(String::as_str)))
        }
        ReplicaState::Ready => before(),
        ReplicaState::Unready { transcript } => {
            before().or_else(|| Some((Weight::Unready, not_ready(transcript))))
        }
        ReplicaState::Starting { transcript } => {
            before().or_else(|| Some((Weight::Starting, not_ready(transcript))))
        }
    }
}

fn ended(exit: Exit, said: Option<&str>) -> (Weight, String) {
    let said = said.map_or(String::new(), |line| format!("; it last said: {line}"));
    (Weight::Ended, format!("{}{said}", exit.predicate()))
}

fn not_ready(transcript: &[ProbeRecord]) -> String {
    let Some(probe) = transcript.last() else { return "was never probed".into() };
    // The rest of it is among the probes.
    let answer = probe.answer.lines().next().unwrap_or_default();
    format!("is not ready: {} was answered with: {answer}", probe.request)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::path::PathBuf;

    use super::*;
    use crate::slot::{Endpoint, Ends};
    use crate::{ReleaseId, Timestamp};

    fn replica(index: u32, state: ReplicaState) -> ReplicaStatus {
        let endpoint = Endpoint::Files(PathBuf::from("/site"));
        ReplicaStatus { index, endpoint, state, restarts: 0, pid: None, ends: None }
    }

    fn again(mut replica: ReplicaStatus, exit: Exit, said: &str) -> ReplicaStatus {
        replica.restarts = 1;
        replica.ends = Some(Ends {
            recent: 1,
            exit: Some(exit),
            at: Timestamp::from_millis(0),
            said: Some(said.into()),
        });
        replica
    }

    fn starting(answer: &str) -> ReplicaState {
        let probe = ProbeRecord {
            at: Timestamp::from_millis(0),
            request: "GET /healthz".into(),
            answer: answer.into(),
            ok: false,
        };
        ReplicaState::Starting { transcript: vec![probe] }
    }

    fn slot(replicas: Vec<ReplicaStatus>) -> SlotStatus {
        let services = BTreeMap::from([("web".parse().unwrap(), replicas)]);
        SlotStatus { release: "r1".parse::<ReleaseId>().unwrap(), services }
    }

    #[test]
    fn a_process_that_ended_tells_more_than_one_that_does_not_answer() {
        let tail = vec!["no module named shop".into(), " ".into()];
        let exited = replica(1, ReplicaState::Exited { exit: Exit::Code(3), tail });
        let status = slot(vec![replica(0, starting("refused")), exited]);
        assert!(has_ended(&status) && tells_how(&status));
        let cause = "web 1 exited with code 3; it last said: no module named shop";
        assert_eq!(likeliest_cause(&status).as_deref(), Some(cause));
        assert_eq!(waiting_for(&status), "web 0: refused");
    }

    #[test]
    fn a_process_that_is_up_again_is_told_by_how_it_ended_and_not_by_what_it_does_now() {
        let status = slot(vec![again(replica(0, starting("refused")), Exit::Code(1), "bye")]);
        assert!(has_ended(&status) && !tells_how(&status));
        let cause = "web 0 exited with code 1; it last said: bye";
        assert_eq!(likeliest_cause(&status).as_deref(), Some(cause));
        let ready = slot(vec![again(replica(0, ReplicaState::Ready), Exit::Unknown, "bye")]);
        assert!(tells_how(&ready));
        assert!(waiting_for(&ready).contains("before it was ready"), "{}", waiting_for(&ready));
    }

    #[test]
    fn a_slot_that_takes_its_time_is_waited_for() {
        let status = slot(vec![replica(0, starting("503 Service Unavailable\nnot yet"))]);
        assert!(!has_ended(&status));
        let cause = "web 0 is not ready: GET /healthz was answered with: 503 Service Unavailable";
        assert_eq!(likeliest_cause(&status).as_deref(), Some(cause));
        assert_eq!(likeliest_cause(&slot(vec![replica(0, ReplicaState::Ready)])), None);
    }
}
