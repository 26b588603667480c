//! What the user wrote, read strictly: `launchway.yaml` beside an ordinary Compose file.
//!
//! Two texts go in, one [`Project`] or every mistake at once comes out.
//!
//! ```text
//! launchway.yaml ── yaml ──> tree ── reader ──> file ───────────────────────┐
//! compose.yaml ──── yaml ──> tree ── filling ──> compose, per environment ──┴─ services, steps, environments ──> Project
//!                            tree ── composing ──> Composition, with no launchway.yaml at all
//! ```
//!
//! A release keeps the container's part of Compose as it is written ([`ContainerTemplate`]): variables get their
//! values where it runs.

mod built;
mod compose;
mod composing;
mod composition;
mod engines;
mod env_file;
mod environments;
mod file;
mod filling;
mod findings;
mod hosts;
mod interpolation;
mod mistake;
mod outline;
mod paths;
mod project;
mod reader;
mod routes;
mod scan;
mod schema;
mod services;
mod settings;
mod steps;
mod template;
mod tls;
mod tree;
mod yaml;

pub use composition::{
    ComposedService, Composition, Condition, Dependency, ImageBuild, Network, Volume,
};
pub use env_file::{EnvFileError, Lookup, parse_env_file, with_env_files};
pub use findings::{ExpectedFile, Note, Reading, Unless};
pub use interpolation::{InterpolationError, interpolate};
pub use mistake::{Mistake, Source};
pub use outline::{OutlinedService, outline};
pub use project::*;
pub use schema::schema;
pub use template::{ContainerError, ContainerTemplate};

use crate::AppName;
use environments::Around;
use findings::Findings;
use mistake::{Extent, Mistakes};
use reader::FromNode;
use settings::Setting;

/// The project that the two files describe, or every mistake in them.
pub fn read(launchway: Source<'_>, compose: Source<'_>) -> Result<Project, Vec<Mistake>> {
    inspect(launchway, compose).map(|reading| reading.project)
}

/// [`read`], with what there is to know besides.
pub fn inspect(launchway: Source<'_>, compose: Source<'_>) -> Result<Reading, Vec<Mistake>> {
    let mut found = Findings::new(launchway, compose);
    let start = "begin with `app: <name>`, or let `launchway init` write a first one";
    let file: Option<file::Launchway> = document(launchway, start, &mut found.launchway);
    let start = "begin with `services:`, or correct the path of the Compose file";
    let compose = root(compose, start, &mut found.compose);
    let project = match (&file, &compose) {
        (Some(file), Some(compose)) => project(file, compose, &mut found),
        _ => None,
    };
    let (project, notes, files) = found.finish(project)?;
    Ok(Reading { project, notes, files })
}

fn document<T: FromNode>(
    source: Source<'_>,
    start: &str,
    mistakes: &mut Mistakes<'_>,
) -> Option<T> {
    T::read(&root(source, start, mistakes)?, mistakes)
}

/// The mapping that a file is.
fn root(source: Source<'_>, start: &str, mistakes: &mut Mistakes<'_>) -> Option<yaml::Node> {
    let root = yaml::parse(source, mistakes)?;
    if root.value == yaml::Value::Null {
        mistakes.add(Extent::default(), "the file is empty", start);
        return None;
    }
    if !matches!(root.value, yaml::Value::Map(_)) {
        mistakes.add(
            root.extent,
            format!("the file must be a mapping, it is {}", root.describe()),
            start,
        );
        return None;
    }
    Some(root)
}

fn project(file: &file::Launchway, root: &yaml::Node, found: &mut Findings<'_>) -> Option<Project> {
    let names = service_names(root);
    let settings = Setting::for_containers(Setting::all(file, &names), &names);
    let compose = filling::read(root, &settings, found)?;
    settings::values(root, &Setting::all(file, &names), found);
    if let Some(version) = &compose.version {
        found.note_compose(
            version.title,
            "`version` is obsolete in Compose and has no effect".into(),
        );
    }
    let theirs = services::without_profiles(&compose.services.0.as_ref()?.value, file, found);
    let names: Vec<String> = theirs.names().map(str::to_owned).collect();
    let theirs = &theirs;
    let engines = engines::Engines::of(file);
    engines::parts(&compose, &engines, found);
    engines::mixed(file, &mut found.launchway);
    // What is wrong with them was told when the file was read.
    let files = compose.files(&mut Mistakes::new(found.compose.source()));
    let written = services::Written { root, files: &files };
    let services =
        services::services(file.services.as_ref(), theirs, &written, &engines, &names, found);
    let routes =
        file.routes.0.as_ref().map(|map| routes::routes(map, theirs, &names, &mut found.launchway));
    let routes = routes.unwrap_or_default();
    let images = !engines.docker.is_empty();
    let build = steps::build(file.build.as_ref(), images, &names, found);
    let nameless = AppName::new("app").ok()?;
    let app = file.app.0.as_ref().map_or(&nameless, |app| &app.value);
    let prefixes: Vec<&str> = routes.keys().map(String::as_str).collect();
    let around =
        Around { app, compose: theirs, services: &services, names: &names, routes: &prefixes };
    let environments = file.environments.0.as_ref();
    let environments = environments.map(|map| environments::environments(map, &around, found));
    Some(Project {
        app: app.clone(),
        environments: environments?,
        services,
        routes,
        build,
        mixed_artifacts: file.mixed_artifacts.is_some(),
        registry: file
            .registry
            .as_ref()
            .map(|registry| self::registry(registry, &mut found.launchway)),
    })
}

/// Where images go: a name without what belongs to an address.
fn registry(file: &file::Registry, mistakes: &mut Mistakes<'_>) -> Registry {
    let push = file.push.value.trim_end_matches('/');
    let part = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-:/".contains(&b);
    if push.contains("//") || push.starts_with(['.', '-', ':', '/']) || !push.bytes().all(part) {
        let message = "`push` is not the beginning of an image's name";
        let help = "write registry and folder alone, in lower case, like `registry.example.com/team`; \
             who may push is in Docker's own configuration (`docker login`)";
        mistakes.add(file.push.extent, message, help);
    }
    Registry { push: push.into() }
}

/// The keys of `services`, even of those that cannot be read.
fn service_names(root: &yaml::Node) -> Vec<String> {
    match filling::child(root, "services").map(|node| &node.value) {
        Some(yaml::Value::Map(entries)) => {
            entries.iter().map(|(key, _)| key.text.clone()).collect()
        }
        _ => Vec::new(),
    }
}

/// Names that Compose looks for, in its order.
pub const COMPOSE_FILES: [&str; 4] =
    ["compose.yaml", "compose.yml", "docker-compose.yml", "docker-compose.yaml"];

/// Files that Compose merges over the one beside them. A project that has one is refused by name.
pub const COMPOSE_OVERRIDES: [&str; 4] = [
    "compose.override.yaml",
    "compose.override.yml",
    "docker-compose.override.yml",
    "docker-compose.override.yaml",
];

/// What a plain Compose file says, with no launchway.yaml, where variables have these values (those of the shell
/// over those of `.env`). Services with `profiles` are there if one of theirs is in `profiles`.
pub fn compose(
    source: Source<'_>,
    lookup: Lookup<'_>,
    profiles: &[String],
) -> Result<(Composition, Vec<Note>), Vec<Mistake>> {
    composing::read(source, lookup, profiles)
}
