//! What the user wrote, read strictly: `launchway.yaml` beside an ordinary Compose file.
//!
//! Two texts go in, one [`Project`] or every mistake at once comes out.
//!
//! ```text
//! text ── yaml ──> tree with places ── reader ──> file, compose ── services, steps, environments ──> Project
//! ```

mod compose;
mod composition;
mod env_file;
mod environments;
mod file;
mod findings;
mod hosts;
mod interpolation;
mod mistake;
mod outline;
mod paths;
mod project;
mod reader;
mod scan;
mod schema;
mod services;
mod steps;
mod template;
mod tls;
mod tree;
mod yaml;

use std::collections::BTreeMap;

pub use composition::{
    ComposedService, Composition, Condition, Dependency, ImageBuild, Network, Volume,
};
pub use env_file::{EnvFileError, Lookup, parse_env_file, with_env_files};
pub use findings::{ExpectedFile, Note, Reading};
pub use interpolation::{InterpolationError, interpolate};
pub use mistake::{Mistake, Source};
pub use outline::{OutlinedService, outline};
pub use project::*;
pub use schema::schema;
pub use template::{ContainerError, ContainerTemplate};

use crate::{AppName, ServiceName};
use environments::Around;
use findings::Findings;
use mistake::{Extent, Mistakes, listed};
use reader::{At, FromNode, Map};
use steps::{Names, no_service};

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
    let compose: Option<compose::Compose> = document(compose, start, &mut found.compose);
    let project = match (&file, &compose) {
        (Some(file), Some(compose)) => project(file, compose, &mut found),
        _ => None,
    };
    found.finish(project)
}

fn document<T: FromNode>(
    source: Source<'_>,
    start: &str,
    mistakes: &mut Mistakes<'_>,
) -> Option<T> {
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
    T::read(&root, mistakes)
}

fn project(
    file: &file::Launchway,
    compose: &compose::Compose,
    found: &mut Findings<'_>,
) -> Option<Project> {
    if let Some(version) = &compose.version {
        found.note_compose(
            version.title,
            "`version` is obsolete in Compose and has no effect".into(),
        );
    }
    let theirs = &compose.services.0.as_ref()?.value;
    let names: Vec<String> = theirs.names().map(str::to_owned).collect();
    let engines = services::Engines::of(file);
    let services = services::services(file.services.as_ref(), theirs, &engines, &names, found);
    let routes =
        file.routes.0.as_ref().map(|map| routes(map, theirs, &names, &mut found.launchway));
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
            .map(|registry| Registry { push: registry.push.value.clone() }),
    })
}

fn routes(
    map: &At<Map<file::Route>>,
    services: &Map<compose::Service>,
    names: Names<'_>,
    mistakes: &mut Mistakes<'_>,
) -> BTreeMap<String, Target> {
    if map.value.0.is_empty() {
        let help = "add one, like `routes: { /: frontend }`";
        mistakes.add(map.title, "no path is routed, so nothing would answer", help);
    }
    let mut routes = BTreeMap::new();
    for (key, route) in map.value.iter() {
        let service = route.service();
        if let Err((message, help)) = prefix(&key.text) {
            mistakes.add(key.extent, message, help);
        }
        if let Err((message, help)) = target(&service.value, services, names) {
            mistakes.add(service.extent, message, help);
        }
        if let Ok(service) = ServiceName::new(service.value.as_str()) {
            let target = Target { service, max_body: route.max_body() };
            routes.insert(key.text.clone(), target);
        }
    }
    routes
}

/// What is wrong and the way out.
type Wrong = (String, String);

fn prefix(text: &str) -> Result<(), Wrong> {
    let wrong = |message: String, help: String| Err((message, help));
    let Some(rest) = text.strip_prefix('/') else {
        return wrong(
            format!("the route `{text}` does not begin with `/`"),
            format!("write `/{text}`"),
        );
    };
    if text.len() > 1 && text.ends_with('/') {
        let plain = text.trim_end_matches('/');
        let plain = if plain.is_empty() { "/" } else { plain };
        let help = format!("write `{plain}`: it covers everything below it too");
        return wrong(format!("the route `{text}` ends with `/`"), help);
    }
    let odd = |c: char| c.is_whitespace() || c.is_control() || "*?#\\".contains(c);
    if text.contains(odd)
        || rest.split('/').any(|part| part == "." || part == "..")
        || text.contains("//")
    {
        let help = "write a plain prefix, like `/api`; it covers whole path segments";
        return wrong(format!("`{text}` is not a path prefix"), help.into());
    }
    Ok(())
}

fn target(name: &str, services: &Map<compose::Service>, names: Names<'_>) -> Result<(), Wrong> {
    if !services.has(name) {
        return Err((format!("there is no service `{name}` to route to"), no_service(name, names)));
    }
    let built = |service: &compose::Service| service.build.is_some();
    if services.get(name).is_some_and(|service| !built(service) && service.image.is_some()) {
        let ours: Vec<&str> =
            services.iter().filter(|(_, s)| built(s)).map(|(key, _)| key.text.as_str()).collect();
        let help = format!("route to a service with `build`: {}", listed(ours));
        return Err((
            format!("`{name}` is a backing service, requests cannot be routed to it"),
            help,
        ));
    }
    Ok(())
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
    composition::read(source, lookup, profiles)
}
