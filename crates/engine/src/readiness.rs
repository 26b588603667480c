//! What is remembered of one replica's probes, and what they come to.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use domain::slot::{ProbeRecord, ReplicaState};

/// How many probes of a replica are kept.
const TRANSCRIPT: usize = 20;

/// The probes of one life of a replica.
#[derive(Debug, Clone, Default)]
pub(crate) struct Readiness {
    transcript: VecDeque<ProbeRecord>,
    last: Option<Instant>,
    ready: bool,
    was_ready: bool,
}

impl Readiness {
    /// Whether a good answer is young enough not to ask again.
    pub fn fresh(&self, interval: Duration) -> bool {
        self.ready && self.last.is_some_and(|last| last.elapsed() < interval)
    }

    pub fn note(&mut self, record: ProbeRecord) {
        if self.transcript.len() == TRANSCRIPT {
            self.transcript.pop_front();
        }
        self.transcript.push_back(record);
    }

    /// What the probes of just now came to.
    pub fn settle(&mut self, ready: bool) {
        self.ready = ready;
        self.was_ready |= ready;
        self.last = Some(Instant::now());
    }

    pub fn state(&self) -> ReplicaState {
        let transcript = || self.transcript.iter().cloned().collect();
        match (self.ready, self.was_ready) {
            (true, _) => ReplicaState::Ready,
            (false, true) => ReplicaState::Unready { transcript: transcript() },
            (false, false) => ReplicaState::Starting { transcript: transcript() },
        }
    }
}
