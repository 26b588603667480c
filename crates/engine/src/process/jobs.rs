//! Commands that run once: never twice under one id, whoever crashes.
//!
//! ```text
//! no spec, no status      has not run: record the spec, start the shim
//! spec, no status         we died before the shim wrote its first word, so before the command: start
//! attended                runs: wait
//! status Ended            has run: answer from it
//! any other status        the shim was killed: ended unseen; what is left is swept up
//! ```

use std::fs;
use std::path::Path;
use std::time::Duration;

use domain::slot::{JobOutcome, JobSpec, Place};
use domain::{Digest, EnvironmentName};
use nix::sys::signal::Signal;

use super::keeper::blocking;
use super::{ProcessEngine, clock, tail};
use crate::EngineError;
use crate::unit::{LogPlan, Mode, Phase, Unit, UnitSpec};

impl ProcessEngine {
    pub(super) async fn run_job(&self, job: &JobSpec) -> Result<JobOutcome, EngineError> {
        let unit = self.layout.job(&job.environment, &job.id);
        self.start_job(job, &unit)
            .await
            .map_err(|error| EngineError::new(format!("running job {}", job.id), error.why))?;
        let exit = self.keeper.finish(&unit).await;
        let status = unit.status();
        let ended = status.as_ref().and_then(|status| status.last_exit_at);
        let finished = ended.unwrap_or_else(clock::now);
        let started = status.and_then(|status| status.started).unwrap_or(finished);
        let log = job.log.clone().unwrap_or_else(|| unit.log_path());
        let tail = blocking(move || tail::of_file(log, tail::REPORT)).await;
        Ok(JobOutcome { exit, started, finished, tail })
    }

    async fn start_job(&self, job: &JobSpec, unit: &Unit) -> Result<(), EngineError> {
        let _guard = self.keeper.guard(unit.folder()).await;
        if unit.attended() || unit.status().is_some() {
            return Ok(());
        }
        let spec = self.job_spec(job).map_err(|why| EngineError::new("preparing it", why))?;
        self.keeper.launch(unit, spec, false).await
    }

    fn job_spec(&self, job: &JobSpec) -> Result<UnitSpec, String> {
        let text = |error: std::io::Error| error.to_string();
        self.config.own_folder(&self.config.home(), 0o755).map_err(text)?;
        let Place::Folder(folder) = &job.place else {
            return Err("it runs in a container: that is for the docker engine".into());
        };
        self.config.check_reach(folder)?;
        let lock = job.lock.as_ref().map(|name| self.layout.job_lock(&job.environment, name));
        if let Some(lock) = &lock {
            fs::create_dir_all(lock.parent().unwrap_or(Path::new("/"))).map_err(text)?;
        }
        let mut env = self.config.base_env();
        env.extend(job.env.clone());
        env.insert("LAUNCHWAY_JOB".into(), job.id.clone());
        env.insert("LAUNCHWAY_ENVIRONMENT".into(), job.environment.to_string());
        Ok(UnitSpec {
            digest: Digest::of(&job.id).to_string(),
            command: vec!["/bin/sh".into(), "-c".into(), job.command.clone()],
            folder: folder.clone(),
            env,
            port: None,
            user: self.config.run_as.as_ref().map(|user| user.ids()),
            mode: Mode::Once { time_limit: job.time_limit, lock, streams: false },
            stop_signal: Signal::SIGTERM as i32,
            grace: Duration::from_secs(5),
            log: LogPlan::once(job.log.clone()),
        })
    }

    /// Stops a job that runs. It counts as run: its record says how it ended.
    pub(super) async fn end_job(
        &self,
        environment: &EnvironmentName,
        id: &str,
    ) -> Result<(), EngineError> {
        let unit = self.layout.job(environment, id);
        let _guard = self.keeper.guard(unit.folder()).await;
        if unit.status().is_none_or(|status| status.phase == Phase::Ended) {
            return Ok(());
        }
        self.keeper.halt(&unit).await?;
        self.keeper.finish(&unit).await;
        Ok(())
    }
}
