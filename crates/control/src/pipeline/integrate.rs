//! A throwaway environment around a step: services and databases of its own, free ports, always torn down.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use domain::config::{EngineKind, InterpolationError, Project, ServiceKind, Step};
use domain::pipeline::Outcome;
use domain::pipeline::cause::likeliest;
use domain::slot::{Endpoint, Exit, Launch, ReplicaState, SlotSpec, SlotStatus};
use domain::{Color, CommitId, Digest, EnvironmentName, ReleaseId, RunId, ServiceName};
use engine::LogSource;
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::command::{Surroundings, go_id};
use super::error::PipelineError;
use super::files::{PRIVATE, read_json, write, write_json};
use super::job::{self, Ended, Job};
use super::mounts::EnvFiles;
use super::verdict::Verdict;
use super::{Inner, StepRequest, layout};
use crate::spec::{self, SlotRequest, SpecError, Variables};

/// Nothing routes here, so one slot is enough.
const SLOT: Color = Color::Blue;
const MIGRATION_LIMIT: Duration = Duration::from_secs(600);
/// Beyond the services' own start deadlines.
const READY_SLACK: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(20);
const TEAR_DOWN_LIMIT: Duration = Duration::from_secs(120);
const EVIDENCE_LINES: usize = 200;

/// Why the environment could not be brought up.
enum Trouble {
    /// A service or a migration failed: evidence for people.
    Verdict(Verdict),
    Ours(PipelineError),
}

impl<E: Into<PipelineError>> From<E> for Trouble {
    fn from(error: E) -> Self {
        Self::Ours(error.into())
    }
}

/// The environment around a step.
struct Throwaway<'a> {
    project: &'a Project,
    environment: &'a EnvironmentName,
    engine: EngineKind,
    files: &'a EnvFiles,
}

/// Left on disk while a throwaway environment may run.
#[derive(Debug, Serialize, Deserialize)]
struct Record {
    run: RunId,
}

impl Inner {
    /// One attempt at an integration step, in an environment of its own.
    pub(super) async fn integrate(
        &self,
        request: &StepRequest<'_>,
        step: &Step,
        around: &Surroundings<'_>,
        attempt: u32,
        cancel: &CancellationToken,
    ) -> Result<Verdict, PipelineError> {
        let environment = name(request.run, step, attempt)?;
        let record = self.layout.throwaway().join(environment.as_str());
        if !record.exists() {
            // What a torn down environment ran is forgotten, here too.
            let begun = around.folder.join("begun");
            let _absent =
                fs::remove_file(begun.join(layout::file_name(&go_id(&around.id, attempt, 1))));
            write_json(&record, &Record { run: request.run.clone() })?;
        }
        let up = self.bring_up(request, step, &environment, around, attempt, cancel);
        let up = tokio::select! {
            up = up => up,
            () = cancel.cancelled() => Err(Trouble::Verdict(Verdict::canceled())),
        };
        let verdict = match up {
            Ok(env) => {
                let around =
                    Surroundings { environment: environment.clone(), env, ..around.clone() };
                self.attempt(step, &around, attempt, |o, r| Verdict::of_command(step, o, r), cancel)
                    .await
            }
            Err(Trouble::Verdict(verdict)) => Ok(verdict),
            Err(Trouble::Ours(error)) => Err(error),
        };
        if !verdict.as_ref().is_ok_and(|v| v.outcome == Outcome::Passed) {
            self.keep_service_logs(&environment, around).await;
        }
        self.tear_down(&environment).await?;
        verdict
    }

    /// Removes throwaway environments whose run is not among `under_way`.
    pub(super) async fn sweep_throwaway(
        &self,
        under_way: &BTreeSet<String>,
    ) -> Result<(), PipelineError> {
        let Ok(records) = fs::read_dir(self.layout.throwaway()) else { return Ok(()) };
        for record in records.flatten() {
            let of_running = read_json::<Record>(&record.path())
                .is_some_and(|record| under_way.contains(record.run.as_str()));
            let name = record.file_name().to_str().and_then(|n| EnvironmentName::new(n).ok());
            if let (false, Some(environment)) = (of_running, name) {
                self.tear_down(&environment).await?;
            }
        }
        Ok(())
    }

    /// Brings everything up and waits until it is ready; the environment of the command.
    async fn bring_up(
        &self,
        request: &StepRequest<'_>,
        step: &Step,
        environment: &EnvironmentName,
        around: &Surroundings<'_>,
        attempt: u32,
        cancel: &CancellationToken,
    ) -> Result<BTreeMap<String, String>, Trouble> {
        let project = with_only(request.project, &step.with);
        let engine = project.tested_on();
        let files = self.env_files(request.commit, &project).await?;
        let mut variables = Variables::of(environment, &BTreeMap::new());
        let place = Throwaway { project: &project, environment, engine, files: &files };
        self.back(&place, request.commit, &mut variables).await?;
        let release = ReleaseId::nth(0);
        let slot = SlotRequest {
            environment,
            slot: SLOT,
            release: &release,
            commit: request.commit,
            engine,
            artifacts: match engine {
                EngineKind::Process => request.artifacts,
                EngineKind::Docker => request.images,
            },
            replicas: &BTreeMap::new(),
        };
        let backing = self.config.engine.observe(environment).await?.backing;
        let inside = |variables: &Variables| {
            let mut variables = variables.clone();
            backing.iter().for_each(|(service, status)| variables.backed_by(service, status));
            variables
        };
        let mut slot = self.filling_in(&mut variables, |variables| {
            spec::slot_spec(&project, slot, &inside(variables), &files)
        })?;
        for service in &mut slot.services {
            if let Launch::Container(container) = &mut service.launch {
                self.ground(request.commit, container).await?;
            }
        }
        self.migrate(&project, &slot, &format!("{}.{attempt}", around.id), around, cancel).await?;
        let mut env = around.env.clone();
        if !slot.services.is_empty() {
            self.config.engine.apply(&slot).await?;
            let status = self.ready(&slot).await?;
            for (service, address) in addresses(&status) {
                variables.answers_at(&service, address);
            }
            env.extend(base_url(&project, &status).map(|url| ("BASE_URL".to_owned(), url)));
        }
        env.extend(variables.iter().map(|(name, value)| (name.clone(), value.clone())));
        env.extend(step.env.clone());
        Ok(env)
    }

    /// Backing services, side by side; their addresses become variables.
    async fn back(
        &self,
        place: &Throwaway<'_>,
        commit: &CommitId,
        variables: &mut Variables,
    ) -> Result<(), PipelineError> {
        let none = BTreeMap::new();
        let (project, environment) = (place.project, place.environment);
        let mut specs = self.filling_in(variables, |variables| {
            spec::backing_specs(project, (environment, place.engine), variables, place.files, &none)
        })?;
        for container in specs.iter_mut().filter_map(|spec| spec.container.as_mut()) {
            self.ground(commit, container).await?;
        }
        let mut starting = JoinSet::new();
        for spec in specs {
            let engine = self.config.engine.clone();
            starting.spawn(async move { (spec.service.clone(), engine.back(&spec).await) });
        }
        while let Some(started) = starting.join_next().await {
            let (service, address) = started.map_err(|e| {
                PipelineError::new(format!("starting services of {environment}"), e)
            })?;
            variables.answers_at(&service, address?);
        }
        Ok(())
    }

    /// Makes specs, giving every required variable that nobody set a value of its own: nothing outside can know it.
    fn filling_in<T>(
        &self,
        variables: &mut Variables,
        make: impl Fn(&Variables) -> Result<T, SpecError>,
    ) -> Result<T, PipelineError> {
        loop {
            match make(variables) {
                Err(SpecError::Interpolation {
                    source: InterpolationError::Required { name, .. },
                    ..
                }) if variables.get(&name).is_none() => {
                    let environment = variables.get("LAUNCHWAY_ENVIRONMENT").unwrap_or_default();
                    // The same after a crash, when the database has it already.
                    let mut text = self.secret.clone();
                    text.extend(format!("password {environment} {name}").bytes());
                    let value = Digest::of(text).as_str()[..32].to_owned();
                    variables.set(name, value);
                }
                made => {
                    return made
                        .map_err(|e| PipelineError::new("planning a throwaway environment", e));
                }
            }
        }
    }

    async fn migrate(
        &self,
        project: &Project,
        slot: &SlotSpec,
        id: &str,
        around: &Surroundings<'_>,
        cancel: &CancellationToken,
    ) -> Result<(), Trouble> {
        for migration in spec::migrations(project, slot, id, MIGRATION_LIMIT) {
            let log = layout::log(around.folder);
            job::open_log(&log, self.config.run_as)?;
            let job = Job {
                id: migration.id,
                environment: migration.environment,
                command: migration.command,
                place: migration.place,
                env: migration.env,
                time_limit: migration.time_limit,
                log,
            };
            match job::run(&*self.config.engine, &job, cancel).await? {
                Ended::Canceled => return Err(Trouble::Verdict(Verdict::canceled())),
                Ended::Outcome(outcome) if !outcome.exit.success() => {
                    let cause = format!(
                        "the migration `{}` failed: {}",
                        job.command,
                        likeliest(outcome.exit, &outcome.tail)
                    );
                    let verdict = Verdict::without_reports(Outcome::Failed, cause, outcome.tail);
                    return Err(Trouble::Verdict(verdict));
                }
                Ended::Outcome(_) => {}
            }
        }
        Ok(())
    }

    /// Waits until every replica is ready; fails at once when one ends.
    async fn ready(&self, slot: &SlotSpec) -> Result<SlotStatus, Trouble> {
        let limit = slot.services.iter().map(|s| s.health.start_deadline).max().unwrap_or_default();
        let deadline = Instant::now() + limit + READY_SLACK;
        loop {
            let snapshot = self.config.engine.observe(&slot.environment).await?;
            let status = snapshot.slots.get(&SLOT);
            if let Some(status) = status.filter(|status| status.ready()) {
                return Ok(status.clone());
            }
            if let Some(verdict) = status.and_then(ended_replica) {
                return Err(Trouble::Verdict(verdict));
            }
            if Instant::now() > deadline {
                return Err(Trouble::Verdict(not_ready(status, limit)));
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// What the services said, beside the step's log, before they are gone.
    async fn keep_service_logs(&self, environment: &EnvironmentName, around: &Surroundings<'_>) {
        let Ok(snapshot) = self.config.engine.observe(environment).await else { return };
        let replicas = snapshot.slots.iter().flat_map(|(slot, status)| {
            status.services.iter().flat_map(|(service, replicas)| {
                replicas.iter().map(|replica| {
                    let (slot, service, index) = (*slot, service.clone(), replica.index);
                    (format!("{service}.{index}"), LogSource::Replica { slot, service, index })
                })
            })
        });
        let backing = snapshot
            .backing
            .keys()
            .map(|service| (service.to_string(), LogSource::Backing { service: service.clone() }));
        let sources: Vec<(String, LogSource)> = replicas.chain(backing).collect();
        for (name, source) in sources {
            let Ok(lines) = self.config.engine.logs(environment, &source, EVIDENCE_LINES).await
            else {
                continue;
            };
            let path = around.folder.join("services").join(format!("{name}.log"));
            let kept = write(&path, lines.join("\n").as_bytes(), PRIVATE);
            if let Err(error) = kept {
                tracing::warn!(path = %path.display(), %error, "cannot keep the log of a service");
            }
        }
    }

    async fn tear_down(&self, environment: &EnvironmentName) -> Result<(), PipelineError> {
        let doing = || format!("tearing down the throwaway environment {environment}");
        let down = self.config.engine.down(environment, true);
        tokio::time::timeout(TEAR_DOWN_LIMIT, down).await.map_err(|_| {
            PipelineError::new(doing(), format!("not done after {TEAR_DOWN_LIMIT:?}"))
        })??;
        let record = self.layout.throwaway().join(environment.as_str());
        match fs::remove_file(record) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                Err(PipelineError::new(doing(), e))
            }
            _ => Ok(()),
        }
    }
}

/// `it-12-api-1`: short enough for a host name, and another one for each attempt.
fn name(run: &RunId, step: &Step, attempt: u32) -> Result<EnvironmentName, PipelineError> {
    let run = run.as_str().trim_start_matches("run-");
    let plain: String = step.name.as_str().to_ascii_lowercase();
    let plain = layout::file_name(&plain).replace('_', "-");
    let short = match plain.len() {
        0..=30 if plain == step.name.as_str() => plain,
        _ => format!("{:.20}-{:.8}", plain, Digest::of(step.name.as_str()).as_str()),
    };
    let name = format!("it-{run}-{short}-{attempt}");
    EnvironmentName::new(&name).map_err(|e| PipelineError::new("naming a throwaway environment", e))
}

/// The project with these services and all that they depend on.
fn with_only(project: &Project, services: &[ServiceName]) -> Project {
    let mut wanted: BTreeSet<ServiceName> = BTreeSet::new();
    let mut open: Vec<ServiceName> = services.to_vec();
    while let Some(name) = open.pop() {
        if let Some(service) = project.services.get(&name)
            && wanted.insert(name)
        {
            open.extend(service.depends_on.iter().cloned());
        }
    }
    let mut only = project.clone();
    only.services.retain(|name, _| wanted.contains(name));
    only
}

fn addresses(status: &SlotStatus) -> Vec<(ServiceName, SocketAddr)> {
    let first = |(service, replicas): (&ServiceName, &Vec<domain::slot::ReplicaStatus>)| {
        replicas.iter().find_map(|replica| match &replica.endpoint {
            Endpoint::Http(address) => Some((service.clone(), *address)),
            Endpoint::Files(_) => None,
        })
    };
    status.services.iter().filter_map(first).collect()
}

/// Of the first service that answers requests, those with a route first.
fn base_url(project: &Project, status: &SlotStatus) -> Option<String> {
    let mut found = addresses(status);
    let routed =
        |service: &ServiceName| project.routes.values().any(|target| target.service == *service);
    let built = |service: &ServiceName| {
        matches!(project.services.get(service).map(|s| &s.kind), Some(ServiceKind::Built(_)))
    };
    found.retain(|(service, _)| built(service));
    found.sort_by_key(|(service, _)| !routed(service));
    found.first().map(|(_, address)| format!("http://{address}"))
}

fn ended_replica(status: &SlotStatus) -> Option<Verdict> {
    status.services.iter().find_map(|(service, replicas)| {
        replicas.iter().find_map(|replica| match &replica.state {
            ReplicaState::Exited { exit, tail } => Some(Verdict::without_reports(
                Outcome::Failed,
                format!("service `{service}` ended while it was starting: {}", why(*exit, tail)),
                tail.clone(),
            )),
            _ => None,
        })
    })
}

fn why(exit: Exit, tail: &[String]) -> String {
    match exit {
        Exit::Code(0) => "it ended by itself with exit status 0; a service has to stay".into(),
        exit => likeliest(exit, tail),
    }
}

fn not_ready(status: Option<&SlotStatus>, limit: Duration) -> Verdict {
    let mut evidence = Vec::new();
    let mut late = Vec::new();
    for (service, replicas) in status.into_iter().flat_map(|status| &status.services) {
        for replica in replicas {
            if let ReplicaState::Starting { transcript } | ReplicaState::Unready { transcript } =
                &replica.state
            {
                late.push(format!("`{service}`"));
                let probes =
                    transcript.iter().map(|p| format!("{service}: {} -> {}", p.request, p.answer));
                evidence.extend(probes);
            }
        }
    }
    late.dedup();
    let last = evidence.last().map(|last| format!("; last: {last}")).unwrap_or_default();
    let cause = format!("{} not ready after {limit:?}{last}", late.join(", "));
    Verdict::without_reports(Outcome::Failed, cause, evidence)
}
