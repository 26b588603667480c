//! What the demo saw, as written to `summary.json`.

use std::collections::BTreeMap;

use control::load::LastingCounts;
use domain::config::EngineKind;
use serde::Serialize;

/// The whole story in numbers.
#[derive(Debug, Clone, Serialize)]
pub struct Summary {
    /// What the environments ran on.
    pub engine: EngineKind,
    /// Every step was as expected, no request was lost, and nothing was left running.
    pub ok: bool,
    pub steps: Vec<Step>,
    pub switches: Vec<Switched>,
    /// Requests of the whole story.
    pub sent: u64,
    /// Failed requests that the bad release of the step `bad in production` did not answer.
    pub failed_outside_bad_release: u64,
    /// Failed requests while that release had the traffic.
    pub failed_in_bad_release: u64,
    /// The longest way back to a warm slot, from the decision to the last request of the slot that
    /// was left, in milliseconds.
    pub rollback_ms: Option<u64>,
    /// WebSockets that were open through the whole story.
    pub websockets: u64,
    /// Streams of events, likewise.
    pub event_streams: u64,
    /// Their connections that were closed in good order, to be opened again; what a switch may do.
    pub polite_closes: u64,
    /// Their connections that broke. None may.
    pub abnormal_closes: u64,
    /// Attempts to open one again that failed and that the bad release did not answer. None may.
    pub failed_opens: u64,
    /// The same in full, by kind of client: `websockets` and `event_streams`.
    pub lasting: BTreeMap<&'static str, LastingCounts>,
    /// Processes that were still there after everything was taken down, and what Docker still had (containers, networks,
    /// volumes, images); none is looked for with `--stay`.
    pub left_running: usize,
    /// Why the story stopped before its end.
    pub stopped: Option<String>,
}

impl Summary {
    /// Of a story that has not begun.
    pub fn new(engine: EngineKind) -> Self {
        Self {
            engine,
            ok: false,
            steps: Vec::new(),
            switches: Vec::new(),
            sent: 0,
            failed_outside_bad_release: 0,
            failed_in_bad_release: 0,
            rollback_ms: None,
            websockets: 0,
            event_streams: 0,
            polite_closes: 0,
            abnormal_closes: 0,
            failed_opens: 0,
            lasting: BTreeMap::new(),
            left_running: 0,
            stopped: None,
        }
    }
}

/// One step of the story.
#[derive(Debug, Clone, Serialize)]
pub struct Step {
    pub name: &'static str,
    pub expected: String,
    pub seen: String,
    pub ok: bool,
    pub seconds: f64,
    /// Requests during the step.
    pub sent: u64,
    pub failed: u64,
}

/// One move of an environment's traffic.
#[derive(Debug, Clone, Serialize)]
pub struct Switched {
    pub environment: String,
    pub from: Option<String>,
    pub to: String,
    /// From the decision to the last request that the old slot got; none if it never got one.
    pub ms: Option<u64>,
}
