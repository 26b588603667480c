//! Commands that run once, in a container of their own: never twice under one id, whoever crashes.
//!
//! ```text
//! outcome on disk             has run: answer from it
//! no container, not started   has not run: make it, note that it is started, start it
//! container, not started yet  we died before the command: start it
//! container runs or ended     attend it to its end
//! no container, but started   somebody removed it: ended unseen
//! ```
//! A watchdog inside of the container ends a command whose server died and nobody came back for.

use std::fs::{self, File};
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use domain::EnvironmentName;
use domain::container::{Container, Healthcheck};
use domain::slot::{Exit, JobOutcome, JobSpec, Place as JobPlace};
use futures_util::StreamExt;

use super::DockerEngine;
use super::connect::Trouble;
use super::containers::{Place, Plan};
use super::labels;
use super::logs::options;
use super::mounts::Owner;
use super::records::{Begun, Guard};
use super::state::{self, Life};
use crate::EngineError;
use crate::lock::FileLock;
use crate::process::layout::file_name;
use crate::process::{now, tail};

/// What is kept of a job's output.
const MOST: u64 = 16 << 20;
const DROPPED: &str = "launchway: the log is full, the rest was dropped\n";
const GRACE: Duration = Duration::from_secs(5);
/// An Engine that was asked to start a container has done so by then, or never will.
const STARTING: Duration = Duration::from_secs(15);

/// `$1` is the time limit with some room, in seconds: the engine's own is first unless it is gone.
const WATCHED: &str = r#"(sleep "$1"; kill -TERM -1; sleep 5; kill -KILL -1) </dev/null >/dev/null 2>&1 &
exec /bin/sh -c "$2""#;

/// What became of the attempt to start it.
enum Start {
    Container(String),
    Over(JobOutcome),
}

impl DockerEngine {
    pub(super) async fn run_job(&self, job: &JobSpec) -> Result<JobOutcome, EngineError> {
        let failed = |why: String| EngineError::new(format!("running job {}", job.id), why);
        let folder = self.records.job(&job.environment, &job.id);
        // Who asks for it twice waits for the same end.
        let _runner = self.records.guard(&folder.join("runner")).await;
        if let Some(outcome) = self.records.outcome(&job.environment, &job.id) {
            return Ok(outcome);
        }
        let _lock = match &job.lock {
            Some(lock) => Some(self.lock(&job.environment, lock).await.map_err(&failed)?),
            None => None,
        };
        let begun = self.begin(job).map_err(|error| failed(error.to_string()))?;
        let started = self.connection.steadily(|| self.start_job(job)).await;
        let outcome = match started.map_err(|trouble| failed(trouble.to_string()))? {
            Start::Over(outcome) => outcome,
            Start::Container(id) => {
                let attending = || self.attend(&job.environment, &job.id, &begun, &id);
                let attended = self.connection.steadily(attending).await;
                attended.map_err(|trouble| failed(trouble.to_string()))?
            }
        };
        self.conclude(&job.environment, &job.id, &outcome).await.map_err(failed)?;
        Ok(outcome)
    }

    /// Against other jobs of this server, and of another on this machine that is not quite dead.
    async fn lock(
        &self,
        environment: &EnvironmentName,
        name: &str,
    ) -> Result<(Guard, FileLock), String> {
        let folder = self.records.environment(environment).join("locks");
        let path = folder.join(file_name(name));
        let failed = |error: std::io::Error| format!("locking {}: {error}", path.display());
        fs::create_dir_all(&folder).map_err(failed)?;
        let guard = self.records.guard(&path).await;
        loop {
            if let Some(lock) = FileLock::take(&path).map_err(failed)? {
                return Ok((guard, lock));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Notes that it is about to run, once.
    fn begin(&self, job: &JobSpec) -> std::io::Result<Begun> {
        if let Some(begun) = self.records.begun(&job.environment, &job.id) {
            return Ok(begun);
        }
        let own = || self.records.job(&job.environment, &job.id).join("log");
        let log = job.log.clone().unwrap_or_else(own);
        let begun = Begun {
            log_offset: fs::metadata(&log).map_or(0, |meta| meta.len()),
            log,
            time_limit_ms: u64::try_from(job.time_limit.as_millis()).unwrap_or(u64::MAX),
            started: None,
            canceled: false,
        };
        self.records.keep_begun(&job.environment, &job.id, &begun)?;
        Ok(begun)
    }

    async fn start_job(&self, job: &JobSpec) -> Result<Start, Trouble> {
        let folder = self.records.job(&job.environment, &job.id);
        loop {
            let guard = self.records.guard(&folder).await;
            let Some(mut begun) = self.records.begun(&job.environment, &job.id) else {
                return Err(Trouble::refused("it was forgotten meanwhile"));
            };
            let found = self.job_container(&job.environment, &job.id).await?;
            let life = match &found {
                Some(id) => self.inspect(id).await?.map(|found| state::life(&found)),
                None => None,
            };
            match (found, life) {
                (Some(id), Some(Life::Running { .. } | Life::Ended { .. }))
                    if begun.started.is_some() =>
                {
                    return Ok(Start::Container(id));
                }
                _ if begun.canceled => return Ok(Start::Over(unrun(Exit::Signal(15)))),
                (None, _) if begun.started.is_some() => {
                    return Ok(Start::Over(unrun(Exit::Unknown)));
                }
                (found, _) => {
                    if self.locked_out(job).await? {
                        drop(guard);
                        tokio::time::sleep(Duration::from_millis(100)).await;
                        continue;
                    }
                    let id = match found {
                        // Whoever noted that had put it into its networks.
                        Some(id) if begun.started.is_some() => id,
                        Some(id) => {
                            self.discard(&id).await?;
                            self.make_job(job).await?
                        }
                        None => self.make_job(job).await?,
                    };
                    begun.started = Some(now());
                    self.note(job, &begun)?;
                    match self.start(&id).await {
                        Ok(()) => return Ok(Start::Container(id)),
                        Err(Trouble::Refused(why)) => {
                            // Never ran, so it may be tried again; unless a dead server's start came first.
                            let found = self.inspect(&id).await?;
                            if found.is_some_and(|found| state::life(&found) != Life::Created) {
                                return Ok(Start::Container(id));
                            }
                            // In this order: a container that is gone, and a start that is noted, mean that it ran.
                            begun.started = None;
                            self.note(job, &begun)?;
                            self.discard(&id).await?;
                            return Err(Trouble::Refused(why));
                        }
                        Err(lost) => return Err(lost),
                    }
                }
            }
        }
    }

    fn note(&self, job: &JobSpec, begun: &Begun) -> Result<(), Trouble> {
        let kept = self.records.keep_begun(&job.environment, &job.id, begun);
        kept.map_err(|error| Trouble::refused(format!("writing the state folder: {error}")))
    }

    /// Whether a job with the same lock runs, of a server before this one.
    async fn locked_out(&self, job: &JobSpec) -> Result<bool, Trouble> {
        let Some(lock) = &job.lock else { return Ok(false) };
        let wanted =
            [(labels::ENVIRONMENT, job.environment.as_str()), (labels::LOCK, lock.as_str())];
        let found = self.containers(&wanted).await?;
        Ok(found.iter().any(|found| {
            let other = labels::get(&found.labels, labels::JOB);
            let state = found.state.as_ref().map(ToString::to_string).unwrap_or_default();
            other != job.id
                && match state.as_str() {
                    "running" => true,
                    // The Engine may be starting it, though whoever asked for that is dead.
                    "created" => self.records.begun(&job.environment, other).is_some_and(|begun| {
                        begun.started.is_some_and(|started| now().since(started) < STARTING)
                    }),
                    _ => false,
                }
        }))
    }

    async fn job_container(
        &self,
        environment: &EnvironmentName,
        id: &str,
    ) -> Result<Option<String>, Trouble> {
        let wanted = [(labels::ENVIRONMENT, environment.as_str()), (labels::JOB, id)];
        Ok(self.containers(&wanted).await?.into_iter().find_map(|found| found.id))
    }

    async fn make_job(&self, job: &JobSpec) -> Result<String, Trouble> {
        let JobPlace::Container { slot, service, image, container } = &job.place else {
            return Err(Trouble::refused("it runs in a folder: that is for the process engine"));
        };
        let environment = &job.environment;
        let facts = self.artifact(image).await?;
        let app = self.app_of(environment);
        let networks = (
            self.slot_network(&app, environment, *slot).await?,
            self.environment_network(&app, environment).await?,
        );
        let owner = Owner {
            app: &app,
            environment,
            service: service.as_str(),
            texts: self.records.job(environment, &job.id).join("texts"),
            keeps: false,
        };
        let mounts = self.mounts(container, &facts.volumes, &owner).await?;
        let mut env = job.env.clone();
        env.insert("LAUNCHWAY_JOB".into(), job.id.clone());
        env.insert("LAUNCHWAY_ENVIRONMENT".into(), environment.to_string());
        let lock = job.lock.clone().unwrap_or_default();
        let pairs = [
            (labels::STATE, self.state.as_str()),
            (labels::APP, &app),
            (labels::ENVIRONMENT, environment.as_str()),
            (labels::SLOT, slot.as_str()),
            (labels::SERVICE, service.as_str()),
            (labels::JOB, &job.id),
            (labels::LOCK, &lock),
        ];
        let place = |network: String| Place { network, aliases: Vec::new(), address: None };
        self.create(Plan {
            name: format!("{app}-{environment}-job-{}", file_name(&job.id).replace('~', "-")),
            image: facts.id,
            container: &once(container, job),
            env,
            labels: labels::of(&pairs),
            mounts,
            networks: vec![place(networks.0.id), place(networks.1.id)],
            publish: None,
            restart: false,
            stop_grace: GRACE,
        })
        .await
    }

    /// The name of the app, as far as the environment knows it.
    fn app_of(&self, environment: &EnvironmentName) -> String {
        let slots = self.records.slots(environment);
        let backings = self.records.backings(environment);
        let app = slots.first().map(|spec| spec.app.to_string());
        app.or_else(|| backings.first().map(|record| record.spec.app.to_string()))
            .unwrap_or_else(|| "launchway".to_owned())
    }

    /// Copies its output until it ends, or ends it at its time limit.
    async fn attend(
        &self,
        environment: &EnvironmentName,
        id: &str,
        begun: &Begun,
        container: &str,
    ) -> Result<JobOutcome, Trouble> {
        let limit = Duration::from_millis(begun.time_limit_ms);
        let mut timed_out = false;
        let mut whole = false;
        loop {
            let Some(found) = self.inspect(container).await? else {
                // Whoever canceled it may have concluded it too.
                let known = self.records.outcome(environment, id);
                return Ok(known.unwrap_or_else(|| unrun(Exit::Unknown)));
            };
            let state = found.state.clone().unwrap_or_default();
            let started = state::time(state.started_at.as_deref());
            match state::life(&found) {
                Life::Ended { exit, .. } => {
                    if !whole {
                        self.copy_output(container, begun, false).await?;
                    }
                    let finished = state::time(state.finished_at.as_deref()).unwrap_or_else(now);
                    // The Engine may see the end of a short command before it notes the start.
                    let started = started.unwrap_or(finished).min(finished);
                    let late = matches!(exit, Exit::Signal(_)) && finished.since(started) >= limit;
                    let exit = if timed_out || late { Exit::TimedOut } else { exit };
                    let log = begun.log.clone();
                    let tail =
                        tokio::task::spawn_blocking(move || tail::of_file(log, tail::REPORT));
                    let tail = tail.await.unwrap_or_default();
                    return Ok(JobOutcome { exit, started, finished, tail });
                }
                Life::Created => return Err(Trouble::refused("its container was not started")),
                Life::Running { .. } => {
                    let left = limit.saturating_sub(now().since(started.unwrap_or_else(now)));
                    tokio::select! {
                        copied = self.copy_output(container, begun, true) => {
                            copied?;
                            whole = true;
                        }
                        () = tokio::time::sleep(left), if !timed_out => {
                            timed_out = true;
                            self.stop(container).await?;
                        }
                    }
                }
            }
        }
    }

    /// Writes all of its output to the log, from the start; `follow` goes on until it ends.
    async fn copy_output(&self, id: &str, begun: &Begun, follow: bool) -> Result<(), Trouble> {
        let failed = |error: std::io::Error| {
            Trouble::refused(format!("writing {}: {error}", begun.log.display()))
        };
        let mut copy = Copy::open(&begun.log, begun.log_offset).map_err(failed)?;
        let docker = self.docker().await?;
        let mut output = Box::pin(docker.logs(id, Some(options(follow, None))));
        while let Some(piece) = output.next().await {
            let piece = piece.map_err(|error| self.trouble(error))?;
            copy.write(&piece.into_bytes()).map_err(failed)?;
        }
        Ok(())
    }

    /// Remembers how it ended, then forgets its container: in this order, so that it never runs again.
    async fn conclude(
        &self,
        environment: &EnvironmentName,
        id: &str,
        outcome: &JobOutcome,
    ) -> Result<(), String> {
        let text = |error: &dyn std::fmt::Display| error.to_string();
        self.records.keep_outcome(environment, id, outcome).map_err(|error| text(&error))?;
        let texts = self.records.job(environment, id).join("texts");
        super::records::remove_folder(&texts).map_err(|error| text(&error))?;
        let forgetting = || async {
            match self.job_container(environment, id).await? {
                Some(container) => self.discard(&container).await,
                None => Ok(()),
            }
        };
        // A container that stays for now is no reason to fail what has ended; the next sweep finds it.
        if let Err(trouble) = self.connection.steadily(forgetting).await {
            tracing::warn!(job = id, %trouble, "the container of a job that has ended could not be removed");
        }
        Ok(())
    }

    /// Stops a job that runs. It counts as run: its record says how it ended.
    pub(super) async fn end_job(
        &self,
        environment: &EnvironmentName,
        id: &str,
    ) -> Result<(), EngineError> {
        let failed = |why: String| EngineError::new(format!("stopping job {id}"), why);
        let folder = self.records.job(environment, id);
        let container = {
            let _guard = self.records.guard(&folder).await;
            let Some(mut begun) = self.records.begun(environment, id) else { return Ok(()) };
            if self.records.outcome(environment, id).is_some() {
                return Ok(());
            }
            begun.canceled = true;
            let kept = self.records.keep_begun(environment, id, &begun);
            kept.map_err(|error| failed(error.to_string()))?;
            let stopping = || async {
                let found = self.job_container(environment, id).await?;
                if let Some(container) = &found {
                    self.stop(container).await?;
                }
                Ok(found)
            };
            let stopped = self.connection.steadily(stopping).await;
            stopped
                .map_err(|trouble| failed(trouble.to_string()))?
                .map(|container| (container, begun))
        };
        // Whoever waits for it concludes it; if nobody does any more, we do.
        let Some(_runner) = self.records.try_guard(&folder.join("runner")) else { return Ok(()) };
        let Some((container, begun)) = container else { return Ok(()) };
        if begun.started.is_none() {
            let gone = self.discard(&container).await;
            return gone.map_err(|trouble| failed(trouble.to_string()));
        }
        let outcome = self.attend(environment, id, &begun, &container).await;
        let outcome = outcome.map_err(|trouble| failed(trouble.to_string()))?;
        self.conclude(environment, id, &outcome).await.map_err(failed)
    }
}

/// The service's container with the job's command instead of its own.
fn once(container: &Container, job: &JobSpec) -> Container {
    let limit = job.time_limit.as_secs().saturating_add(GRACE.as_secs() + 10).to_string();
    let words = ["/bin/sh", "-c", WATCHED, "launchway", &limit, &job.command];
    Container {
        entrypoint: Some(words.map(str::to_owned).into()),
        command: None,
        healthcheck: Some(Healthcheck {
            test: vec!["NONE".into()],
            interval: None,
            timeout: None,
            start_period: None,
            start_interval: None,
            retries: None,
        }),
        stop_signal: Some("SIGTERM".into()),
        // The first process of a container ignores signals that it does not handle: a small init takes that place.
        init: true,
        tty: false,
        hostname: None,
        ..container.clone()
    }
}

/// Of a job that left no container to look at.
fn unrun(exit: Exit) -> JobOutcome {
    let at = now();
    JobOutcome { exit, started: at, finished: at, tail: Vec::new() }
}

/// A job's output on its way to a file, up to a limit.
struct Copy {
    file: File,
    room: u64,
}

impl Copy {
    /// What a copy before this one wrote behind `offset` is written again.
    fn open(path: &Path, offset: u64) -> std::io::Result<Self> {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        let mut options = fs::OpenOptions::new();
        let mut file = options.write(true).create(true).truncate(false).mode(0o640).open(path)?;
        file.set_len(offset)?;
        file.seek(SeekFrom::End(0))?;
        Ok(Self { file, room: MOST })
    }

    fn write(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        if self.room == 0 {
            return Ok(());
        }
        let fits = self.room.min(bytes.len() as u64);
        self.file.write_all(&bytes[..fits as usize])?;
        self.room -= fits;
        if self.room == 0 {
            self.file.write_all(b"\n")?;
            self.file.write_all(DROPPED.as_bytes())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_is_written_once_however_often_it_is_copied_and_not_without_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        fs::write(&path, "before\n").unwrap();
        for _ in 0..2 {
            let mut copy = Copy::open(&path, 7).unwrap();
            copy.write(b"one\n").unwrap();
            copy.write(b"two\n").unwrap();
        }
        assert_eq!(fs::read_to_string(&path).unwrap(), "before\none\ntwo\n");
        let mut copy = Copy::open(&path, 7).unwrap();
        for _ in 0..20 {
            copy.write(&vec![b'x'; 1 << 20]).unwrap();
        }
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.len() < (17 << 20) && text.matches("was dropped").count() == 1);
    }
}
