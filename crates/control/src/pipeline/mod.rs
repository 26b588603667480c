//! The build pipeline: performs the steps of a run, one at a time as it is asked.
//!
//! The order of stages and steps is decided in `domain::pipeline`; here each step finds its clean checkout, its
//! few environment variables and its inputs, and ends with a result. Everything may be asked again after a
//! crash: what has run answers from its record, what runs is waited for.
//!
//! ```text
//! step ─▶ inputs ─▶ the same as before? ─yes─▶ the earlier result
//!                     │no
//!                     ▼
//!          checkout ─▶ job of the engine ─▶ reports ─▶ verdict ─▶ result
//! ```

mod artifact;
mod checkout;
mod command;
mod environment;
mod error;
mod files;
mod images;
mod inputs;
mod integrate;
mod job;
mod layout;
mod locks;
mod mounts;
mod plan;
mod repository;
mod result;
mod reuse;
mod scan;
mod tools;
mod tree;
mod verdict;
mod why;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use domain::config::{Project, Step};
use domain::judge::scan::Policy;
use domain::pipeline::{PlannedStep, StepResult, Task};
use domain::release::Commit;
use domain::slot::ArtifactRef;
use domain::{CommitId, RunId, ServiceName, StepName};
use engine::Engine;
use tokio_util::sync::CancellationToken;

pub use error::{PipelineError, PlanError};
pub use files::RunAs;
pub use images::{Images, Needed};
pub use mounts::EnvFiles;
pub use why::Difference;

use command::{Surroundings, environment_of};
use inputs::{Inputs, Manifest, Sources};
use layout::Layout;
use locks::Locks;
use repository::Repository;
use verdict::Verdict;

/// Performs the build pipeline of one app. Cheap to clone.
#[derive(Clone)]
pub struct Pipeline {
    inner: Arc<Inner>,
}

/// How to build a [`Pipeline`].
pub struct PipelineConfig {
    /// The app's state folder. The steps' user must be able to enter it.
    pub state: PathBuf,
    /// The project's folder, in its git repository. It is read and never written.
    pub repository: PathBuf,
    /// Runs the steps' commands and the throwaway environments.
    pub engine: Arc<dyn Engine>,
    /// Where images of containers are built, if the project has any.
    pub images: Arc<Images>,
    /// Whom commands run as if we are root: the same user that `engine` runs them as.
    pub run_as: Option<RunAs>,
    /// Our own environment, of which steps see what is on the list; `std::env::vars` in a server.
    pub environment: BTreeMap<String, String>,
}

/// One step to perform.
#[derive(Clone, Copy)]
pub struct StepRequest<'a> {
    pub run: &'a RunId,
    pub commit: &'a CommitId,
    pub project: &'a Project,
    pub step: &'a PlannedStep,
    /// The trees that the image steps of this run made so far.
    pub artifacts: &'a BTreeMap<ServiceName, ArtifactRef>,
    /// The images of containers, likewise.
    pub images: &'a BTreeMap<ServiceName, ArtifactRef>,
}

impl StepRequest<'_> {
    /// Everything that was built so far, each service's image before its tree.
    pub(crate) fn built(&self) -> impl Iterator<Item = (&ServiceName, &ArtifactRef)> {
        self.images.iter().chain(self.artifacts)
    }
}

/// A command to run in a clean checkout outside of a run, for example a test of a deployed candidate.
#[derive(Clone, Copy)]
pub struct CheckRequest<'a> {
    /// Names the checkout, for example `ro-12`. Within it the same step runs only once.
    pub scope: &'a str,
    pub commit: &'a CommitId,
    pub step: &'a Step,
    /// Beside what every step sees, for example `BASE_URL`.
    pub env: &'a BTreeMap<String, String>,
}

struct Inner {
    config: PipelineConfig,
    layout: Layout,
    repository: Repository,
    secret: Vec<u8>,
    locks: Locks,
    texts: Mutex<mounts::Texts>,
}

impl Pipeline {
    /// Opens the repository; makes what is missing in the state folder.
    pub fn new(config: PipelineConfig) -> Result<Self, PipelineError> {
        let state = std::path::absolute(&config.state)
            .map_err(|e| PipelineError::new("finding the state folder", e))?;
        let layout = Layout::new(state);
        let repository = Repository::open(&config.repository)?;
        let secret = inputs::secret(&layout)?;
        let (locks, texts) = (Locks::default(), Mutex::default());
        let inner = Inner { config, layout, repository, secret, locks, texts };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// What the commit is and what its project says, read from the commit and nowhere else.
    pub async fn plan(&self, commit: &CommitId) -> Result<(Commit, Project), PlanError> {
        let repository = &self.inner.repository;
        Ok((repository.commit(commit).await?, plan::project(repository, commit).await?))
    }

    /// The commit that `revision` names.
    pub async fn resolve(&self, revision: &str) -> Result<CommitId, PipelineError> {
        self.inner.repository.resolve(revision).await
    }

    /// The newest commit of every branch.
    pub async fn branches(&self) -> Result<BTreeMap<String, CommitId>, PipelineError> {
        self.inner.repository.branches().await
    }

    /// The branch that is checked out, if one is.
    pub(crate) async fn checked_out(&self) -> Option<String> {
        self.inner.repository.checked_out().await
    }

    /// Changes when the head of a branch may have moved.
    pub(crate) async fn stamp(&self) -> repository::Stamp {
        self.inner.repository.stamp().await
    }

    /// The files that differ between two commits, at most 50.
    pub async fn changed(
        &self,
        from: &CommitId,
        to: &CommitId,
    ) -> Result<Vec<String>, PipelineError> {
        let (before, after) =
            (self.inner.repository.files(from).await?, self.inner.repository.files(to).await?);
        let paths: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
        let differs = paths.into_iter().filter(|path| before.get(*path) != after.get(*path));
        Ok(differs.take(50).cloned().collect())
    }

    /// A file of the commit, laid out on disk under the name of its content: test data, for example.
    pub async fn file(&self, commit: &CommitId, path: &str) -> Result<PathBuf, PipelineError> {
        let doing = || format!("laying out {path} of {}", commit.short());
        let content = self.inner.repository.bytes(commit, path).await?;
        let content =
            content.ok_or_else(|| PipelineError::new(doing(), "the commit has no such file"))?;
        let digest = domain::Digest::of(&content);
        let name = path.rsplit('/').next().unwrap_or(path);
        let placed = self.inner.layout.files().join(digest.as_str()).join(name);
        if !placed.is_file() {
            files::write(&placed, &content, files::OPEN)
                .map_err(|e| PipelineError::new(doing(), e))?;
        }
        Ok(placed)
    }

    /// Performs a step to its end, or answers from its record. A failure of our own is a failed step with its cause.
    pub async fn step(&self, request: StepRequest<'_>, cancel: CancellationToken) -> StepResult {
        let began = Instant::now();
        let folder = self.inner.layout.step(request.run, &request.step.name);
        if let Some(result) = files::read_json(&layout::result(&folder)) {
            return result;
        }
        let performed = self.inner.perform(&request, &cancel).await;
        result::kept(performed, began.elapsed(), &folder)
    }

    /// Runs a step's command in a clean checkout, without reuse.
    pub async fn check(&self, request: CheckRequest<'_>, cancel: CancellationToken) -> StepResult {
        let began = Instant::now();
        let folder = self.inner.layout.scoped_step(request.scope, &request.step.name);
        if let Some(result) = files::read_json(&layout::result(&folder)) {
            return result;
        }
        let performed = self.inner.check(&request, &folder, &cancel).await;
        result::kept(performed, began.elapsed(), &folder)
    }

    /// The log of a step; it grows while the step runs. `scope` is a run, or that of a check.
    pub fn log_path(&self, scope: &str, step: &StepName) -> PathBuf {
        layout::log(&self.inner.layout.scoped_step(scope, step))
    }

    /// The last `lines` lines of a step's log, oldest first.
    pub async fn tail(
        &self,
        scope: &str,
        step: &StepName,
        lines: usize,
    ) -> Result<Vec<String>, PipelineError> {
        let path = self.log_path(scope, step);
        let doing = format!("reading the log of step `{step}` in {scope}");
        let text = files::blocking(move || fs::read(path)).await;
        let text = text.map_err(|e| PipelineError::new(doing, e))?;
        let text = String::from_utf8_lossy(&text);
        let all: Vec<&str> = text.lines().collect();
        let last = &all[all.len().saturating_sub(lines)..];
        Ok(last.iter().map(|&line| line.to_owned()).collect())
    }

    /// What differed from the last run of that step: why it ran again.
    pub async fn why(
        &self,
        run: &RunId,
        step: &StepName,
    ) -> Result<Vec<Difference>, PipelineError> {
        let (inner, run, step) = (self.inner.clone(), run.clone(), step.clone());
        files::blocking(move || why::why(&inner.layout, &run, &step)).await
    }

    /// Whether what lies at an artifact's place is still what was built.
    pub async fn verify(&self, artifact: &ArtifactRef) -> Result<bool, PipelineError> {
        artifact::verify(artifact).await
    }

    /// Ends whatever a run (or the checks of a scope) still runs and removes its checkout. Logs, reports, results
    /// and manifests of inputs stay.
    pub async fn finish(&self, scope: &str) -> Result<(), PipelineError> {
        self.inner.finish(scope).await
    }

    /// After a start: clears away what runs and checks have left that are not among `under_way`.
    pub async fn sweep(&self, under_way: &BTreeSet<String>) -> Result<(), PipelineError> {
        self.inner.sweep_throwaway(under_way).await?;
        let Ok(scopes) = fs::read_dir(self.inner.layout.runs()) else { return Ok(()) };
        for scope in scopes.flatten() {
            let name = scope.file_name().to_string_lossy().into_owned();
            if !under_way.contains(&name) {
                self.inner.finish(&name).await?;
            }
        }
        Ok(())
    }
}

impl Inner {
    async fn perform(
        &self,
        request: &StepRequest<'_>,
        cancel: &CancellationToken,
    ) -> Result<StepResult, PipelineError> {
        let step = request.step;
        if step.task == Task::NoScanner {
            return Ok(result::no_scanner());
        }
        let folder = self.layout.step(request.run, &step.name);
        let log = layout::log(&folder);
        let key = self.keep_inputs(request, &folder).await?;
        if let Some((run, known)) = reuse::find(&self.layout, &step.task, &key) {
            job::note(&log, &format!("reused from {run}: nothing that it depends on has changed"));
            return Ok(result::reused(known, run));
        }
        let result = match &step.task {
            Task::Image(service) => {
                let image = self.image(request, service, &key, cancel).await?;
                result::of_image(image, &log)
            }
            Task::Container(service) => {
                let image = self.container(request, service, &key, cancel).await?;
                result::of_image(image, &log)
            }
            Task::Command(command) | Task::Integrate(command) => {
                self.run_command(request, command, None, &folder, cancel).await?
            }
            Task::Scan { step: command, fail_on } => {
                self.run_command(request, command, Some(*fail_on), &folder, cancel).await?
            }
            Task::Inspect(inspection) => {
                self.inspect(request, *inspection, &folder, cancel).await?
            }
            Task::NoScanner => result::no_scanner(),
        };
        reuse::remember(&self.layout, &step.task, &key, request.run, &result)?;
        Ok(result)
    }

    async fn run_command(
        &self,
        request: &StepRequest<'_>,
        command: &Step,
        fail_on: Option<domain::config::Severity>,
        folder: &std::path::Path,
        cancel: &CancellationToken,
    ) -> Result<StepResult, PipelineError> {
        let scope = request.run.as_str();
        let checkout = self.checkout(scope, request.commit).await?;
        let mut env = self.environment_in(scope)?;
        if fail_on.is_some() {
            let named = |(service, artifact): (&ServiceName, &ArtifactRef), what: &str| {
                let name = format!("{}_{what}", crate::spec::variable_name(service));
                (name, artifact.location.to_string())
            };
            env.extend(request.artifacts.iter().map(|made| named(made, "ARTIFACT")));
            env.extend(request.images.iter().map(|made| named(made, "IMAGE")));
        }
        env.extend(command.env.clone());
        let around = Surroundings {
            environment: environment_of(scope)?,
            id: self.job_id(scope, &request.step.name),
            checkout: &checkout,
            env,
            folder,
        };
        let (ignore, today) = (scan::ignored(request.project), reuse::now().date());
        let judge = |outcome, reports| match fail_on {
            Some(fail_on) => {
                let policy = Policy { fail_on, fixable_only: false, ignore };
                Verdict::of_scanner(command, &policy, today, outcome, reports)
            }
            None => Verdict::of_command(command, outcome, reports),
        };
        let integrates = matches!(request.step.task, Task::Integrate(_));
        let (around, judge) = (&around, &judge);
        let once = |attempt| async move {
            match integrates {
                true => self.integrate(request, command, around, attempt, cancel).await,
                false => self.attempt(command, around, attempt, judge, cancel).await,
            }
        };
        let (verdict, attempts) = command::retrying(command, &layout::log(folder), once).await?;
        Ok(result::of_verdict(verdict, attempts))
    }

    async fn check(
        &self,
        request: &CheckRequest<'_>,
        folder: &std::path::Path,
        cancel: &CancellationToken,
    ) -> Result<StepResult, PipelineError> {
        let checkout = self.checkout(request.scope, request.commit).await?;
        let mut env = self.environment_in(request.scope)?;
        env.extend(request.env.clone());
        env.extend(request.step.env.clone());
        let around = Surroundings {
            environment: environment_of(request.scope)?,
            id: self.job_id(request.scope, &request.step.name),
            checkout: &checkout,
            env,
            folder,
        };
        let judge = |outcome, reports| Verdict::of_command(request.step, outcome, reports);
        let once = |attempt| self.attempt(request.step, &around, attempt, judge, cancel);
        let (verdict, attempts) =
            command::retrying(request.step, &layout::log(folder), once).await?;
        Ok(result::of_verdict(verdict, attempts))
    }

    /// Records what the step depends on; the key of it.
    async fn keep_inputs(
        &self,
        request: &StepRequest<'_>,
        folder: &std::path::Path,
    ) -> Result<domain::Digest, PipelineError> {
        let files = self.repository.files(request.commit).await?;
        let environment = environment::allowed(&self.config.environment, self.config.run_as);
        let around = match &request.step.task {
            Task::Container(service) => match artifact::built(request, service) {
                Some(built) => Some(self.around(request.commit, built).await?),
                None => None,
            },
            _ => None,
        };
        let sources = Sources {
            project: request.project,
            files: &files,
            environment: &environment,
            artifacts: request.artifacts,
            images: request.images,
            around: around.as_ref(),
            secret: &self.secret,
        };
        let (inputs, files) = Inputs::of(&request.step.task, &sources);
        let manifest = Manifest { commit: request.commit.clone(), inputs };
        inputs::keep(&self.layout, folder, &manifest, &files)?;
        Ok(manifest.inputs.key())
    }

    async fn checkout(&self, scope: &str, commit: &CommitId) -> Result<PathBuf, PipelineError> {
        let _held = self.locks.take(&format!("checkout {scope}")).await;
        checkout::ensure(&self.layout, &self.repository, scope, commit, self.config.run_as).await
    }

    /// What every command of this scope sees.
    fn environment_in(&self, scope: &str) -> Result<BTreeMap<String, String>, PipelineError> {
        let mut env = environment::allowed(&self.config.environment, self.config.run_as);
        let (home, temporary) = (self.layout.home(), self.layout.temporary(scope));
        for (name, folder) in [("HOME", home), ("TMPDIR", temporary)] {
            files::folder_of(&folder, self.config.run_as)?;
            env.insert(name.into(), folder.display().to_string());
        }
        Ok(env)
    }

    /// Begins the names of a step's jobs. A job that was stopped has had its go: the step gets a new name then.
    fn job_id(&self, scope: &str, step: &StepName) -> String {
        let name = format!("{scope}.{}", layout::file_name(step.as_str()));
        match result::times_canceled(&self.layout.scoped_step(scope, step)) {
            0 => name,
            times => format!("{name}~{times}"),
        }
    }

    async fn finish(&self, scope: &str) -> Result<(), PipelineError> {
        let _held = self.locks.take(&format!("checkout {scope}")).await;
        let temporary = self.layout.temporary(scope);
        if !temporary.exists() {
            return Ok(());
        }
        self.config.engine.down(&environment_of(scope)?, true).await?;
        let run = self.layout.run(scope);
        for name in ["checkout", "checkout.new", "checkout.index", "contexts", "scan"] {
            checkout::clear(&run.join(name)).await?;
        }
        // Removed last: it says that there is something to clear away.
        checkout::clear(&temporary).await
    }
}
