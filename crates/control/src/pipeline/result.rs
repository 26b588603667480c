//! Step results, from verdicts, artifacts, earlier runs and failures of our own.

use std::path::Path;
use std::time::Duration;

use domain::RunId;
use domain::pipeline::{Outcome, StepResult};

use super::artifact::Image;
use super::error::PipelineError;
use super::files::{read_json, write_json};
use super::verdict::Verdict;
use super::{job, layout};

/// The result of what was performed, recorded in the step's folder. A stopped step has no result to keep: if it
/// is asked for again, it runs again.
pub(crate) fn kept(
    performed: Result<StepResult, PipelineError>,
    duration: Duration,
    folder: &Path,
) -> StepResult {
    let mut result = performed.unwrap_or_else(|error| of_our_failure(&error));
    result.duration = duration;
    let kept = match result.outcome {
        Outcome::Canceled => write_json(&layout::canceled(folder), &(times_canceled(folder) + 1)),
        _ => write_json(&layout::result(folder), &result),
    };
    if let Err(error) = kept {
        tracing::warn!(step = %folder.display(), %error, "cannot keep the result of a step");
    }
    result
}

/// How often the step was stopped so far.
pub(crate) fn times_canceled(folder: &Path) -> u32 {
    read_json(&layout::canceled(folder)).unwrap_or(0)
}

/// A result without anything.
fn bare(outcome: Outcome) -> StepResult {
    StepResult {
        outcome,
        duration: Duration::ZERO,
        attempts: 0,
        flaky: false,
        reused: None,
        tests: None,
        findings: None,
        artifact: None,
        cause: None,
        tail: Vec::new(),
    }
}

pub(crate) fn of_verdict(verdict: Verdict, attempts: u32) -> StepResult {
    StepResult {
        attempts,
        flaky: verdict.outcome == Outcome::Passed && attempts > 1,
        tests: verdict.reports.tests,
        findings: verdict.reports.findings,
        cause: verdict.cause,
        tail: verdict.tail,
        ..bare(verdict.outcome)
    }
}

pub(crate) fn of_image(image: Image, log: &Path) -> StepResult {
    match image {
        Image::Made(artifact) => {
            StepResult { attempts: 1, artifact: Some(artifact), ..bare(Outcome::Passed) }
        }
        Image::Reused(artifact, run) => {
            job::note(log, &format!("reused what {run} built: its inputs have not changed"));
            StepResult { artifact: Some(artifact), reused: Some(run), ..bare(Outcome::Passed) }
        }
        Image::Not(verdict) => of_verdict(verdict, 1),
    }
}

/// An earlier run's result, as this run's.
pub(crate) fn reused(known: StepResult, run: RunId) -> StepResult {
    StepResult { reused: Some(run), attempts: 0, ..known }
}

pub(crate) fn no_scanner() -> StepResult {
    let cause = "no scanner is configured; add `scan.steps` or write `scan: off`";
    StepResult { cause: Some(cause.into()), ..bare(Outcome::Unavailable) }
}

fn of_our_failure(error: &PipelineError) -> StepResult {
    StepResult { cause: Some(error.to_string()), ..bare(Outcome::Failed) }
}
