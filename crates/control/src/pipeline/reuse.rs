//! Results of steps that need not run again, by the key of their inputs.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use domain::pipeline::{Outcome, StepResult, Task};
use domain::{Digest, RunId, Timestamp};
use serde::{Deserialize, Serialize};

use super::error::PipelineError;
use super::files::{read_json, write_json};
use super::layout::Layout;

/// What a scanner knows comes from databases outside of the inputs, so its answer goes stale.
const SCAN_AGE: Duration = Duration::from_secs(24 * 3600);

#[derive(Debug, Serialize, Deserialize)]
struct Known {
    run: RunId,
    at: Timestamp,
    result: StepResult,
}

/// The passed result for these inputs, if it still stands, and the run that has it.
pub(crate) fn find(layout: &Layout, task: &Task, key: &Digest) -> Option<(RunId, StepResult)> {
    if !reusable(task) {
        return None;
    }
    let known: Known = read_json(&layout.result_of(key))?;
    let stale = matches!(task, Task::Scan { .. }) && now().since(known.at) > SCAN_AGE;
    (!stale && known.result.outcome == Outcome::Passed).then_some((known.run, known.result))
}

/// Remembers a result that later runs may reuse: passed at the first attempt.
pub(crate) fn remember(
    layout: &Layout,
    task: &Task,
    key: &Digest,
    run: &RunId,
    result: &StepResult,
) -> Result<(), PipelineError> {
    let clean = result.outcome == Outcome::Passed && !result.flaky && result.reused.is_none();
    if !clean || !reusable(task) {
        return Ok(());
    }
    let known = Known { run: run.clone(), at: now(), result: result.clone() };
    write_json(&layout.result_of(key), &known)
}

/// Artifacts have a store of their own, which knows whether they are still there; what an inspection says depends on
/// the day and on databases, so it is asked again.
fn reusable(task: &Task) -> bool {
    !matches!(task, Task::Image(_) | Task::Container(_) | Task::Inspect(_) | Task::NoScanner)
}

pub(crate) fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_millis(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}
