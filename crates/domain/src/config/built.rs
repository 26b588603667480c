//! A service that is built here: its image, how it is run without containers, and when it is ready.

use std::path::PathBuf;
use std::time::Duration;

use super::compose;
use super::file;
use super::findings::{Findings, Unless};
use super::mistake::{Extent, Mistakes};
use super::paths::checked;
use super::project::{BuildOptions, Built, Native};
use super::reader::At;
use super::services::{MOST_REPLICAS, Ours};
use super::steps::{between, positive};
use super::yaml::Key;
use crate::slot::{HealthCheck, Launch, Probe};

const INTERVAL: Duration = Duration::from_secs(1);
const TIMEOUT: Duration = Duration::from_secs(2);
const START: Duration = Duration::from_secs(60);
const STOP_GRACE: Duration = Duration::from_secs(10);
/// What both files say of it.
pub(super) fn built(
    key: &Key,
    service: &compose::Service,
    build: &At<compose::Build>,
    ours: &Ours<'_>,
    found: &mut Findings<'_>,
) -> Option<Built> {
    let context = context(build, found);
    let dockerfile = build.value.dockerfile.as_ref();
    let dockerfile = dockerfile.and_then(|d| checked(d, "the build context", &mut found.compose));
    let theirs = service.deploy.as_ref().and_then(|deploy| deploy.replicas.as_ref());
    let theirs = theirs.map(|at| At { value: at.value.0, extent: at.extent, title: at.title });
    let theirs = between(theirs.as_ref(), 1, MOST_REPLICAS, "replicas", &mut found.compose);
    if ours.is_broken() {
        return None;
    }
    let said = ours.get();
    let native = match said.and_then(|service| service.native.as_ref()) {
        Some(native) => Some(self::native(native.0.as_ref()?, context.as_deref(), found)?),
        None if ours.engines.process.is_empty() => None,
        None => {
            needs_native(key, ours, found);
            return None;
        }
    };
    let said_replicas = said.and_then(|service| service.replicas.as_ref());
    let replicas = between(said_replicas, 1, MOST_REPLICAS, "replicas", &mut found.launchway);
    let files = native.as_ref().is_some_and(|native| matches!(native.launch, Launch::Static(_)));
    if let (true, true, Some(said)) = (files, ours.engines.docker.is_empty(), said) {
        nothing_runs(said, &mut found.launchway);
    }
    let health = said.and_then(|service| service.health.as_ref());
    Some(Built {
        context: context?,
        dockerfile: dockerfile.unwrap_or_else(|| "Dockerfile".into()),
        health: health_check(health, &mut found.launchway),
        migrate: said.and_then(|service| Some(service.migrate.as_ref()?.value.clone())),
        options: options(&build.value, ours, found),
        native,
        replicas: replicas.or(theirs).unwrap_or(1),
        stop_grace: service.stop_grace_period.as_ref().map_or(STOP_GRACE, |grace| grace.value.0),
    })
}

/// An argument of a build is the same for everybody, so nothing of it comes from a shell.
fn options(build: &compose::Build, ours: &Ours<'_>, found: &mut Findings<'_>) -> BuildOptions {
    for (name, extent) in build.unset_args() {
        let help = format!("write `{name}=value`: nothing is taken from the shell");
        found.compose.add(extent, format!("the argument `{name}` has no value"), help);
    }
    build.options(ours.written.files, &|_| None, &mut found.compose)
}

fn context(build: &At<compose::Build>, found: &mut Findings<'_>) -> Option<String> {
    let Some(context) = &build.value.context else { return Some(String::new()) };
    if compose::is_remote(&context.value) {
        let help = "clone it into the project: what is built must be in the commit";
        found.compose.add(context.extent, "a remote build context is not supported", help);
        return None;
    }
    let path = checked(context, "the project", &mut found.compose)?;
    found.expect_compose_folder(&path, context.extent);
    Some(path)
}

fn needs_native(key: &Key, ours: &Ours<'_>, found: &mut Findings<'_>) {
    let place = ours.engines.where_processes();
    let message = format!("nothing says how to run `{}` without containers{place}", key.text);
    match ours.key() {
        Some(ours) => {
            let help = "add `native: { setup: ..., run: ... }`, or `native: { setup: ..., static: <folder> }`";
            found.launchway.add(ours.extent, message, help);
        }
        None => {
            let help = format!(
                "add `services: {{ {}: {{ native: {{ setup: ..., run: ... }} }} }}` to launchway.yaml",
                key.text
            );
            found.compose.add(key.extent, message, help);
        }
    }
}

/// Where a replica is told which port is its own.
const PORT: &str = "PORT";

/// The files of the build context that a command may name: what they are runs, and may read its port itself.
fn programs(command: &str, context: Option<&str>) -> Vec<String> {
    let words = command.split_whitespace().map(|word| word.trim_matches(['"', '\'', ';']));
    let inside = |word: &&str| !word.starts_with(['-', '/', '$']) && !word.contains("..");
    let folder = context.filter(|context| !context.is_empty());
    let path = |word: &str| match folder {
        Some(folder) => format!("{folder}/{word}"),
        None => word.to_owned(),
    };
    words.filter(inside).map(path).collect()
}

fn native(
    native: &At<file::Native>,
    context: Option<&str>,
    found: &mut Findings<'_>,
) -> Option<Native> {
    let launch = match (&native.value.run, &native.value.files) {
        (Some(run), None) => {
            if !run.value.contains(PORT) {
                let note = "the command does not use `$PORT`: each replica must listen on the port it is given there";
                let unless = Unless { word: PORT, files: programs(&run.value, context) };
                found.note_launchway(run.extent, note.into(), unless);
            }
            Launch::Command(run.value.clone())
        }
        (None, Some(files)) => Launch::Static(PathBuf::from(checked(
            files,
            "the build context",
            &mut found.launchway,
        )?)),
        (Some(_), Some(files)) => {
            let message = "a service either runs a command or is served as files";
            found.launchway.add(
                files.title,
                message,
                "keep `run` or `static`, and remove the other",
            );
            return None;
        }
        (None, None) => {
            let message = "`native` does not say how to serve the service";
            found.launchway.add(
                native.title,
                message,
                "add `run: <command>` or `static: <folder>`",
            );
            return None;
        }
    };
    Some(Native { setup: native.value.setup.clone(), launch })
}

/// Static services have no process: what asks for one is a mistake.
fn nothing_runs(said: &file::Service, mistakes: &mut Mistakes<'_>) {
    let title = |what: &'static str, title: Option<Extent>| Some((what, title?));
    let parts = [
        title("migrate", said.migrate.as_ref().map(|part| part.title)),
        title("health", said.health.as_ref().map(|part| part.title)),
        title("replicas", said.replicas.as_ref().map(|part| part.title)),
    ];
    for (what, extent) in parts.into_iter().flatten() {
        let message = format!("a static service cannot have `{what}`: nothing runs");
        let help = if what == "migrate" {
            "move it to the service that owns the database"
        } else {
            "remove it: the edge serves the files"
        };
        mistakes.add(extent, message, help);
    }
}

fn health_check(health: Option<&At<file::Health>>, mistakes: &mut Mistakes<'_>) -> HealthCheck {
    let mut check = HealthCheck {
        probe: Probe::Tcp,
        interval: INTERVAL,
        timeout: TIMEOUT,
        start_deadline: START,
    };
    let path = match health.map(|health| &health.value) {
        None => return check,
        Some(file::Health::Path(path)) => path,
        Some(file::Health::Full(full)) => {
            let mut time = |span: &Option<_>| positive(span.as_ref()?, mistakes);
            check.interval = time(&full.interval).unwrap_or(INTERVAL);
            check.timeout = time(&full.timeout).unwrap_or(TIMEOUT);
            check.start_deadline = time(&full.start).unwrap_or(START);
            &full.path
        }
    };
    if !path.value.starts_with('/') || path.value.contains(char::is_whitespace) {
        let message = format!("`{}` is not a path to ask", path.value);
        mistakes.add(path.extent, message, "write the path alone, from its `/` on, like `/health`");
    }
    check.probe = Probe::Http(path.value.clone());
    check
}
