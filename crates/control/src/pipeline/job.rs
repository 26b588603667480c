//! Runs one command of a step as a job of the engine: it outlives a crash of ours and never runs twice.

use std::fs;
use std::io;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, lchown};
use std::path::{Path, PathBuf};
use std::time::Duration;

use domain::EnvironmentName;
use domain::slot::{Exit, JobOutcome, JobSpec, Place};
use engine::Engine;
use tokio_util::sync::CancellationToken;

use super::environment::Variables;
use super::error::PipelineError;
use super::files::{PRIVATE, RunAs};

/// After a job was stopped its outcome must be there within this time.
const STOP_LIMIT: Duration = Duration::from_secs(30);

/// One command to run.
pub(crate) struct Job {
    pub id: String,
    pub environment: EnvironmentName,
    pub command: String,
    pub place: Place,
    pub env: Variables,
    pub time_limit: Duration,
    pub log: PathBuf,
}

/// How a job ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Ended {
    Outcome(JobOutcome),
    Canceled,
}

impl Ended {
    /// Nobody saw how it ended: it has no verdict and is worth another go.
    pub fn unseen(&self) -> bool {
        matches!(self, Self::Outcome(outcome) if outcome.exit == Exit::Unknown)
    }
}

/// Runs the job, or waits for it if it runs already, or answers from its record. Stops it when canceled.
pub(crate) async fn run(
    engine: &dyn Engine,
    job: &Job,
    cancel: &CancellationToken,
) -> Result<Ended, PipelineError> {
    let spec = JobSpec {
        id: job.id.clone(),
        environment: job.environment.clone(),
        command: job.command.clone(),
        place: job.place.clone(),
        env: job.env.clone(),
        time_limit: job.time_limit,
        lock: None,
        log: Some(job.log.clone()),
    };
    if cancel.is_cancelled() {
        engine.cancel(&job.environment, &job.id).await?;
        return Ok(Ended::Canceled);
    }
    let mut running = engine.run(&spec);
    tokio::select! {
        outcome = &mut running => return Ok(Ended::Outcome(outcome?)),
        () = cancel.cancelled() => {}
    }
    let stop = async {
        let (stopped, _outcome) = tokio::join!(engine.cancel(&job.environment, &job.id), running);
        stopped
    };
    match tokio::time::timeout(STOP_LIMIT, stop).await {
        Ok(stopped) => stopped.map(|()| Ended::Canceled).map_err(PipelineError::from),
        Err(_) => Err(PipelineError::new(
            format!("stopping the job {}", job.id),
            format!(
                "it still runs after {} s; look for its process with `ps`",
                STOP_LIMIT.as_secs()
            ),
        )),
    }
}

/// The log, there and writable by the steps' user before a job appends to it.
pub(crate) fn open_log(log: &Path, owner: Option<RunAs>) -> Result<(), PipelineError> {
    let make = || {
        fs::create_dir_all(log.parent().unwrap_or(Path::new(".")))?;
        append_to(log)?.set_permissions(fs::Permissions::from_mode(PRIVATE))?;
        match owner {
            Some(user) => lchown(log, Some(user.uid), Some(user.gid)),
            None => Ok(()),
        }
    };
    make().map_err(|e| PipelineError::new(format!("opening the log {}", log.display()), e))
}

/// Adds a line of our own to a step's log.
pub(crate) fn note(log: &Path, line: &str) {
    let written = append_to(log).and_then(|mut file| {
        io::Write::write_all(&mut file, format!("launchway: {line}\n").as_bytes())
    });
    if let Err(error) = written {
        tracing::warn!(log = %log.display(), %error, "cannot write to the log of a step");
    }
}

/// Writes lines to a step's log as they come. A log that cannot be written stops no step.
pub(crate) fn appender(log: PathBuf) -> impl FnMut(&str) + Send + use<> {
    let mut file = append_to(&log).ok();
    move |line| {
        let written =
            file.as_mut().map(|file| io::Write::write_all(file, format!("{line}\n").as_bytes()));
        if let Some(Err(error)) = written {
            tracing::warn!(log = %log.display(), %error, "cannot write to the log of a step");
            file = None;
        }
    }
}

fn append_to(log: &Path) -> io::Result<fs::File> {
    fs::OpenOptions::new().append(true).create(true).mode(PRIVATE).open(log)
}
