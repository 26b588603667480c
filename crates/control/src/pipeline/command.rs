//! The attempts of a step that is a command: prepare, run, read its reports, judge, perhaps again.

use std::path::Path;

use domain::EnvironmentName;
use domain::config::Step;
use domain::pipeline::Outcome;
use domain::slot::Place;
use tokio_util::sync::CancellationToken;

use super::environment::Variables;
use super::error::PipelineError;
use super::files::{blocking, inside, write_json};
use super::job::{self, Ended, Job};
use super::verdict::{self, Verdict};
use super::{Inner, layout};

/// A job whose supervisor died has no verdict; it gets this many goes in all.
const GOES: u32 = 3;

/// Where and with what a command of a step runs.
#[derive(Clone)]
pub(crate) struct Surroundings<'a> {
    /// Where its jobs belong: an environment named like its run, or the throwaway one around it.
    pub environment: EnvironmentName,
    /// Begins the ids of its jobs.
    pub id: String,
    pub checkout: &'a Path,
    pub env: Variables,
    /// The step's own folder of logs and reports.
    pub folder: &'a Path,
}

/// Runs `once` until it passes or its retries are used up. True: it passed, but not at first.
pub(crate) async fn retrying<F>(
    step: &Step,
    log: &Path,
    once: impl Fn(u32) -> F,
) -> Result<(Verdict, u32), PipelineError>
where
    F: Future<Output = Result<Verdict, PipelineError>>,
{
    let mut attempt = 1;
    loop {
        let verdict = once(attempt).await?;
        let last = matches!(verdict.outcome, Outcome::Passed | Outcome::Canceled);
        if last || attempt > step.retries {
            return Ok((verdict, attempt));
        }
        attempt += 1;
        job::note(log, &format!("attempt {attempt} of {}", step.retries + 1));
    }
}

impl Inner {
    /// One attempt at a command; `judge` makes the verdict of its end and its reports.
    pub(super) async fn attempt(
        &self,
        step: &Step,
        around: &Surroundings<'_>,
        attempt: u32,
        judge: impl Fn(domain::slot::JobOutcome, verdict::Reports) -> Verdict,
        cancel: &CancellationToken,
    ) -> Result<Verdict, PipelineError> {
        for go in 1..=GOES {
            let job = self.job_of(step, around, &go_id(&around.id, attempt, go))?;
            self.prepare(step, around, &job)?;
            let ended = job::run(&*self.config.engine, &job, cancel).await?;
            if ended.unseen() && go < GOES {
                job::note(&job.log, "its supervisor was killed, so it is run again");
                continue;
            }
            let Ended::Outcome(outcome) = ended else { return Ok(Verdict::canceled()) };
            let (root, keep) = (around.checkout.to_path_buf(), around.folder.join("reports"));
            let of = step.clone();
            let reports = blocking(move || verdict::read(&root, &of, &keep)).await?;
            return Ok(judge(outcome, reports));
        }
        unreachable!("the last go returns")
    }

    fn job_of(
        &self,
        step: &Step,
        around: &Surroundings<'_>,
        id: &str,
    ) -> Result<Job, PipelineError> {
        Ok(Job {
            id: id.to_owned(),
            environment: around.environment.clone(),
            command: step.run.clone(),
            place: Place::Folder(inside(around.checkout, &step.folder)?),
            env: around.env.clone(),
            time_limit: step.time_limit,
            log: layout::log(around.folder),
        })
    }

    /// Before a job is first asked for, never after: then its reports may be there already.
    fn prepare(
        &self,
        step: &Step,
        around: &Surroundings<'_>,
        job: &Job,
    ) -> Result<(), PipelineError> {
        let begun = around.folder.join("begun").join(layout::file_name(&job.id));
        if begun.exists() {
            return Ok(());
        }
        job::open_log(&job.log, self.config.run_as)?;
        verdict::remove_stale(around.checkout, step)?;
        write_json(&begun, &job.id)
    }
}

/// Jobs of a run live in an environment of the run's own name.
pub(crate) fn environment_of(scope: &str) -> Result<EnvironmentName, PipelineError> {
    EnvironmentName::new(scope)
        .map_err(|e| PipelineError::new(format!("naming the jobs of {scope}"), e))
}

/// Names one go of one attempt; the same after a crash.
pub(crate) fn go_id(id: &str, attempt: u32, go: u32) -> String {
    match go {
        1 => format!("{id}.{attempt}"),
        _ => format!("{id}.{attempt}.{go}"),
    }
}
