//! Artifacts of the process engine: `native.setup` in a clean copy of the build context, at its final place
//! (what pip and others make cannot be moved), then read-only and named by its content.
//!
//! ```text
//! artifacts/KEY/tree            where it is built and run
//! artifacts/KEY/building.json   the job that makes it: found after a crash, it is waited for
//! artifacts/KEY/complete.json   written last: the artifact is there, whole
//! artifacts/KEY/lock            one builder at a time, over processes too
//! ```

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use domain::config::{Built, ServiceKind};
use domain::pipeline::Outcome;
use domain::pipeline::cause::likeliest;
use domain::slot::{ArtifactRef, Exit, JobOutcome, Launch, Location, Place};
use domain::{Digest, RunId, ServiceName};
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use super::checkout::{clear, export_fresh};
use super::command::{environment_of, go_id};
use super::error::PipelineError;
use super::files::{blocking, folder_of, lock, read_json, real_inside, write_json};
use super::job::{self, Ended, Job};
use super::verdict::Verdict;
use super::{Inner, StepRequest, layout, tree};

/// For the setup of one service.
const TIME_LIMIT: Duration = Duration::from_secs(30 * 60);
/// Another run that builds the same is waited for this long before it is told.
const SILENCE: Duration = Duration::from_secs(1);
const GOES: u32 = 3;

/// What an image step came to.
pub(crate) enum Image {
    Made(ArtifactRef),
    /// Made by this run before.
    Reused(ArtifactRef, RunId),
    Not(Verdict),
}

#[derive(Debug, Serialize, Deserialize)]
struct Complete {
    digest: Digest,
    run: RunId,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Building {
    scope: String,
    job: String,
}

impl Inner {
    /// The artifact of `service` for the inputs `key`: the one there is, or a new one.
    pub(super) async fn image(
        &self,
        request: &StepRequest<'_>,
        service: &ServiceName,
        key: &Digest,
        cancel: &CancellationToken,
    ) -> Result<Image, PipelineError> {
        let Some(built) = built(request, service) else {
            return Ok(Image::Not(cannot(format!("`{service}` is not built here"))));
        };
        let Some(native) = &built.native else {
            return Ok(Image::Not(cannot(format!(
                "the process engine cannot build {}; say how to run `{service}` without containers: \
                 add `services.{service}.native` with `setup` and `run` (or `static`)",
                built.dockerfile
            ))));
        };
        let folder = self.layout.artifact(key);
        let held = self.hold_or_say(&folder, key, request);
        let _held = tokio::select! {
            held = held => held?,
            () = cancel.cancelled() => return Ok(Image::Not(Verdict::canceled())),
        };
        if let Some(done) = finished(&folder) {
            let artifact = artifact(&folder, done.digest);
            return Ok(match done.run == *request.run {
                true => Image::Made(artifact),
                false => Image::Reused(artifact, done.run),
            });
        }
        if let Some(setup) = &native.setup
            && let Some(verdict) = self.set_up(request, built, setup, &folder, cancel).await?
        {
            clear(&folder.join("tree")).await?;
            return Ok(Image::Not(verdict));
        }
        if native.setup.is_none() {
            self.export_context(request, built, &folder, None).await?;
        }
        let part = match &native.launch {
            Launch::Static(part) => Some(part.clone()),
            Launch::Command(_) | Launch::Container(_) => None,
        };
        self.seal(request, &folder, part).await
    }

    /// [`Inner::hold`]; a wait for another run is told in the step's log, with the way out of it.
    async fn hold_or_say(
        &self,
        folder: &Path,
        key: &Digest,
        request: &StepRequest<'_>,
    ) -> Result<impl Sized + use<>, PipelineError> {
        let mut held = std::pin::pin!(self.hold(folder, key));
        if let Ok(held) = tokio::time::timeout(SILENCE, &mut held).await {
            return held;
        }
        let builder: Option<Building> = read_json(&folder.join("building.json"));
        let said = builder.filter(|builder| builder.scope != request.run.as_str()).map_or_else(
            || "waits for another run, which builds the same".to_owned(),
            |Building { scope, .. }| {
                format!(
                    "waits for {scope}, which builds the same; after `launchway abort {scope}` \
                     this run builds it"
                )
            },
        );
        job::note(&layout::log(&self.layout.step(request.run, &request.step.name)), &said);
        held.await
    }

    /// One builder per artifact: among our tasks, then among processes.
    async fn hold(&self, folder: &Path, key: &Digest) -> Result<impl Sized + use<>, PipelineError> {
        let ours = self.locks.take(&format!("artifact {key}")).await;
        folder_of(folder, None)?;
        let theirs = lock(folder.join("lock")).await?;
        Ok((ours, theirs))
    }

    /// Runs the setup to its end. `None`: it succeeded.
    async fn set_up(
        &self,
        request: &StepRequest<'_>,
        built: &Built,
        setup: &str,
        folder: &Path,
        cancel: &CancellationToken,
    ) -> Result<Option<Verdict>, PipelineError> {
        let step = self.layout.step(request.run, &request.step.name);
        let id = self.job_id(request.run.as_str(), &request.step.name);
        for go in 1..=GOES {
            let job = Job {
                id: go_id(&id, 1, go),
                environment: environment_of(request.run.as_str())?,
                command: setup.to_owned(),
                place: Place::Folder(folder.join("tree")),
                env: self.environment_in(request.run.as_str())?,
                time_limit: TIME_LIMIT,
                log: layout::log(&step),
            };
            job::open_log(&job.log, self.config.run_as)?;
            self.begin(request, built, folder, &job).await?;
            let ended = job::run(&*self.config.engine, &job, cancel).await?;
            if ended.unseen() && go < GOES {
                job::note(&job.log, "its supervisor was killed, so it is run again");
                continue;
            }
            return Ok(match ended {
                Ended::Canceled => Some(Verdict::canceled()),
                Ended::Outcome(outcome) if outcome.exit.success() => None,
                Ended::Outcome(outcome) => Some(failed(outcome)),
            });
        }
        unreachable!("the last go returns")
    }

    /// A fresh context for `job`, unless it has one because it was started before a crash of ours.
    async fn begin(
        &self,
        request: &StepRequest<'_>,
        built: &Built,
        folder: &Path,
        job: &Job,
    ) -> Result<(), PipelineError> {
        let record = folder.join("building.json");
        let building = Building { scope: request.run.to_string(), job: job.id.clone() };
        match read_json::<Building>(&record) {
            Some(before) if before == building => return Ok(()),
            Some(before) => {
                let environment = environment_of(&before.scope)?;
                self.config.engine.cancel(&environment, &before.job).await?;
            }
            None => {}
        }
        forget(&record)?;
        self.export_context(request, built, folder, self.config.run_as).await?;
        write_json(&record, &building)
    }

    async fn export_context(
        &self,
        request: &StepRequest<'_>,
        built: &Built,
        folder: &Path,
        owner: Option<super::RunAs>,
    ) -> Result<(), PipelineError> {
        let tree = folder.join("tree");
        export_fresh(&self.repository, request.commit, &built.context, &tree, owner).await
    }

    /// Makes the tree read-only and says, as the last act, that it is whole.
    async fn seal(
        &self,
        request: &StepRequest<'_>,
        folder: &Path,
        part: Option<PathBuf>,
    ) -> Result<Image, PipelineError> {
        let root = folder.join("tree");
        if let Some(part) = &part
            && !real_inside(&root, &root.join(part)).is_some_and(|served| served.is_dir())
        {
            clear(&root).await?;
            let cause =
                format!("the setup did not make the folder `{}` that is served", part.display());
            return Ok(Image::Not(cannot(cause)));
        }
        let doing = || format!("sealing the artifact {}", root.display());
        let tree = root.clone();
        let digest = blocking(move || {
            if let Some(part) = &part {
                tree::keep_only(&tree, part)?;
            }
            tree::make_read_only(&tree)?;
            tree::digest(&tree)
        });
        let digest = digest.await.map_err(|e| PipelineError::new(doing(), e))?;
        let complete = Complete { digest: digest.clone(), run: request.run.clone() };
        write_json(&folder.join("complete.json"), &complete)?;
        forget(&folder.join("building.json"))?;
        Ok(Image::Made(artifact(folder, digest)))
    }
}

/// Whether what lies there is what `artifact` names.
pub(crate) async fn verify(artifact: &ArtifactRef) -> Result<bool, PipelineError> {
    let Some(root) = artifact.folder().map(Path::to_owned) else { return Ok(true) };
    let doing = format!("verifying the artifact {}", root.display());
    let digest = blocking(move || tree::digest(&root)).await;
    digest.map(|digest| digest == artifact.digest).map_err(|e| PipelineError::new(doing, e))
}

pub(super) fn built<'a>(request: &'a StepRequest<'_>, service: &ServiceName) -> Option<&'a Built> {
    match &request.project.services.get(service)?.kind {
        ServiceKind::Built(built) => Some(built),
        ServiceKind::Backing { .. } => None,
    }
}

fn finished(folder: &Path) -> Option<Complete> {
    read_json(&folder.join("complete.json")).filter(|_| folder.join("tree").is_dir())
}

fn artifact(folder: &Path, digest: Digest) -> ArtifactRef {
    ArtifactRef { digest, location: Location::Folder(folder.join("tree")) }
}

pub(super) fn cannot(cause: String) -> Verdict {
    Verdict::without_reports(Outcome::Failed, cause, Vec::new())
}

fn failed(outcome: JobOutcome) -> Verdict {
    match outcome.exit {
        Exit::TimedOut => {
            let cause = format!("the setup had not ended after {TIME_LIMIT:?} and was stopped");
            Verdict::without_reports(Outcome::TimedOut, cause, outcome.tail)
        }
        exit => {
            let cause = likeliest(exit, &outcome.tail);
            Verdict::without_reports(Outcome::Failed, cause, outcome.tail)
        }
    }
}

fn forget(path: &Path) -> Result<(), PipelineError> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(PipelineError::new(format!("removing {}", path.display()), e))
        }
        _ => Ok(()),
    }
}
