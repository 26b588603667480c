//! Joins what Compose and launchway.yaml say about each service.

use std::collections::BTreeMap;

use super::built;
use super::compose;
use super::composition::Condition;
use super::engines::{self, Engines};
use super::file;
use super::filling::{child, of_container, only};
use super::findings::Findings;
use super::interpolation::Template;
use super::mistake::{Mistakes, nearest};
use super::paths::checked;
use super::project::{BackingKind, EnvFile, Service, ServiceKind, variable_prefix};
use super::reader::{At, Map, Need};
use super::steps::{Names, between, is_variable, no_service};
use super::template::ContainerTemplate;
use super::yaml::{Key, Node};
use crate::ServiceName;

/// More replicas than this on one machine are a slip of the keyboard.
pub(super) const MOST_REPLICAS: u32 = 100;

/// The Compose file as it is written, and its secrets and configs.
pub(super) struct Written<'a> {
    pub root: &'a Node,
    pub files: &'a compose::Files,
}

/// Every service of the Compose file that could be read.
pub(super) fn services(
    ours: Option<&Need<Map<file::Service>>>,
    theirs: &Map<compose::Service>,
    written: &Written<'_>,
    engines: &Engines<'_>,
    names: Names<'_>,
    found: &mut Findings<'_>,
) -> BTreeMap<ServiceName, Service> {
    let unreadable = ours.is_some_and(|need| need.0.is_none());
    let ours = ours.and_then(|need| need.0.as_ref());
    for (key, _) in ours.map_or(&[][..], |map| &map.0) {
        if !theirs.has(&key.text) {
            let message = format!("the Compose file has no service `{}`", key.text);
            found.launchway.add(key.extent, message, no_service(&key.text, names));
        }
    }
    let mut services = BTreeMap::new();
    for (key, service) in theirs.iter() {
        let ours = Ours { map: ours, unreadable, key, written, engines, names };
        let read = self::service(key, service, &ours, names, found);
        services.extend(read);
    }
    prefixes(theirs, &mut found.compose);
    circles(theirs, &mut found.compose);
    services
}

/// The services that every environment has: one with `profiles` is a tool for people, if nothing needs it.
pub(super) fn without_profiles(
    all: &Map<compose::Service>,
    file: &file::Launchway,
    found: &mut Findings<'_>,
) -> Map<compose::Service> {
    let mut kept = all.clone();
    for (key, service) in all.iter() {
        let Some(profiles) = service.profiles.as_ref().filter(|at| !at.value.is_empty()) else {
            continue;
        };
        let name = key.text.as_str();
        if let Some(user) = user_of(name, all, file) {
            let message = format!("`{name}` has `profiles`, so no environment has it, and {user}");
            found.compose.add(profiles.title, message, "remove `profiles`");
            continue;
        }
        let note = format!(
            "`{name}` has `profiles`, so no environment has it; `launchway up --profile {}` runs it",
            profiles.value[0].0
        );
        found.note_compose(profiles.title, note);
        kept.0.retain(|(other, _)| other.text != name);
    }
    kept
}

/// Who cannot do without the service.
fn user_of(name: &str, all: &Map<compose::Service>, file: &file::Launchway) -> Option<String> {
    let mut routes = file.routes.0.iter().flat_map(|map| map.value.iter());
    if let Some((prefix, _)) = routes.find(|(_, route)| route.service().value == name) {
        return Some(format!("the route `{}` leads to it", prefix.text));
    }
    let waits = |service: &compose::Service| {
        let profiled = service.profiles.as_ref().is_some_and(|at| !at.value.is_empty());
        let mut on = service.waits_for().into_iter();
        !profiled && on.any(|on| on.name.value == name && on.dependency.required)
    };
    if let Some((key, _)) = all.iter().find(|(_, service)| waits(service)) {
        return Some(format!("`{}` waits for it", key.text));
    }
    let said = file.services.as_ref().and_then(|need| need.0.as_ref());
    said.filter(|map| map.has(name)).map(|_| "launchway.yaml says how to run it".into())
}

/// What launchway.yaml says about one service of the Compose file.
pub(super) struct Ours<'a> {
    map: Option<&'a Map<file::Service>>,
    /// `services` is there, and is no mapping.
    unreadable: bool,
    key: &'a Key,
    pub written: &'a Written<'a>,
    pub engines: &'a Engines<'a>,
    names: Names<'a>,
}

impl<'a> Ours<'a> {
    pub fn get(&self) -> Option<&'a file::Service> {
        self.map?.get(&self.key.text)
    }

    /// Its key in launchway.yaml, if it is there, even if what follows could not be read.
    pub fn key(&self) -> Option<&'a Key> {
        self.map?.0.iter().map(|(key, _)| key).find(|key| key.text == self.key.text)
    }

    /// What should be here is a mistake already: it could not be read, or has another name by a slip.
    pub fn is_broken(&self) -> bool {
        let slip = |name: &str| {
            let names = || self.names.iter().map(String::as_str);
            !names().any(|known| known == name) && nearest(name, names()) == Some(&self.key.text)
        };
        let unread = self.key().is_some() && self.get().is_none();
        self.unreadable || unread || self.map.is_some_and(|map| map.names().any(slip))
    }
}

fn service(
    key: &Key,
    service: &compose::Service,
    ours: &Ours<'_>,
    names: Names<'_>,
    found: &mut Findings<'_>,
) -> Option<(ServiceName, Service)> {
    let name = match ServiceName::new(key.text.as_str()) {
        Ok(name) => name,
        Err(error) => {
            let message = format!("`{}` is not a valid service name", key.text);
            found.compose.add(key.extent, message, error.rule);
            return None;
        }
    };
    let env = environment(service, &mut found.compose);
    let depends_on = depends_on(service, names, &mut found.compose);
    let template = template(key, service, ours, &mut found.launchway);
    engines::service(key, service, ours, found);
    let kind = match (&service.build, &service.image) {
        (Some(build), _) => {
            ServiceKind::Built(Box::new(built::built(key, service, build, ours, found)?))
        }
        (None, Some(image)) => backing(key, image, ours, found)?,
        (None, None) if service.extends.is_some() => return None,
        (None, None) => {
            let message = format!("the service `{name}` has neither `build` nor `image`");
            let help =
                "add `build: <folder>` if it is yours, or `image: postgres:16-alpine` and the like";
            found.compose.add(key.extent, message, help);
            return None;
        }
    };
    Some((name, Service { kind, env, env_files: env_files(service, found), depends_on, template }))
}

const FROM_SHELL: &str = "write `NAME=value`, or `NAME=${NAME}` with a value in `variables` of launchway.yaml; \
     nothing is taken from the shell";

fn environment(
    service: &compose::Service,
    mistakes: &mut Mistakes<'_>,
) -> BTreeMap<String, String> {
    let mut env = BTreeMap::new();
    for (key, value) in service.environment.iter().flat_map(|variables| &variables.0) {
        if !is_variable(&key.text) {
            let message = format!("`{}` cannot be the name of a variable", key.text);
            mistakes.add(
                key.extent,
                message,
                "use letters, digits and `_`, beginning with a letter or `_`",
            );
        }
        let Some(text) = &value.value else {
            mistakes.add(value.title, format!("`{}` has no value", key.text), FROM_SHELL);
            continue;
        };
        if let Err(error) = Template::parse(text) {
            let extent = mistakes.within(value.extent, error.needle());
            mistakes.add(extent, error.to_string(), error.help());
        }
        env.insert(key.text.clone(), text.clone());
    }
    env
}

fn depends_on(
    service: &compose::Service,
    names: Names<'_>,
    mistakes: &mut Mistakes<'_>,
) -> Vec<ServiceName> {
    let mut all = Vec::new();
    for on in service.waits_for() {
        let name = &on.name;
        if on.dependency.condition == Condition::ServiceCompletedSuccessfully {
            mistakes.add(
                on.condition,
                "`service_completed_successfully` is not supported in environments",
                "run work before the switch with `migrate` in launchway.yaml",
            );
        }
        if !names.contains(&name.value) {
            let message = format!("there is no service `{}`", name.value);
            mistakes.add(name.extent, message, no_service(&name.value, names));
            continue;
        }
        all.extend(ServiceName::new(name.value.as_str()));
    }
    all
}

fn backing(
    key: &Key,
    image: &At<String>,
    ours: &Ours<'_>,
    found: &mut Findings<'_>,
) -> Option<ServiceKind> {
    if let Some(ours) = ours.key() {
        let message = format!(
            "`{}` has no `build` in the Compose file, so nothing can be said about it here",
            key.text
        );
        let help = "remove it: backing services need no more than the Compose file says, \
             and `environments.<name>.data` for what they begin with";
        found.launchway.add(ours.extent, message, help);
    }
    let image_text = image.value.clone();
    if BackingKind::of(&image_text).is_none() && !ours.engines.process.is_empty() {
        found.compose.add(
            image.extent,
            format!(
                "the process engine{} can run postgres and redis; `{image_text}` is neither",
                ours.engines.where_processes()
            ),
            "use `postgres:<version>` or `redis:<version>`, write `engine: docker`, or give the service a `build` if it is yours",
        );
        return None;
    }
    Some(ServiceKind::Backing { image: image_text })
}

/// What is kept with a release of how the container runs.
fn template(
    key: &Key,
    service: &compose::Service,
    ours: &Ours<'_>,
    mistakes: &mut Mistakes<'_>,
) -> ContainerTemplate {
    let port = ours.get().and_then(|service| service.port.as_ref());
    let port = between(port, 1, 65_535, "as a port", mistakes);
    let written = child(ours.written.root, "services").and_then(|all| child(all, &key.text));
    let Some(written) = written else { return ContainerTemplate::default() };
    let used = |given: &Option<At<Vec<compose::Given>>>, part: &str| {
        let names: Vec<&str> =
            given.iter().flat_map(|at| &at.value).map(|g| g.source.value.as_str()).collect();
        let defined = child(ours.written.root, part).filter(|_| !names.is_empty());
        defined.map(|defined| only(defined, &names))
    };
    let (secrets, configs) = (used(&service.secrets, "secrets"), used(&service.configs, "configs"));
    let port = port.and_then(|port| u16::try_from(port).ok());
    ContainerTemplate::new(&of_container(written), secrets.as_ref(), configs.as_ref(), port)
}

fn env_files(service: &compose::Service, found: &mut Findings<'_>) -> Vec<EnvFile> {
    let files = service.env_file.iter().flat_map(|files| &files.0);
    let mut read = |file: &compose::VariableFile| {
        let path = checked(&file.path, "the project", &mut found.compose)?;
        if file.required {
            found.expect_compose_file(&path, file.path.extent);
        }
        Some(EnvFile { path, required: file.required, raw: file.raw })
    };
    files.filter_map(&mut read).collect()
}

/// Two services must not share the names of their address variables.
fn prefixes(services: &Map<compose::Service>, mistakes: &mut Mistakes<'_>) {
    let mut seen: BTreeMap<String, &Key> = BTreeMap::new();
    for (key, _) in &services.0 {
        let prefix = variable_prefix(&key.text);
        if let Some(first) = seen.get(&prefix) {
            let message =
                format!("`{}` and `{}` would both be `{prefix}_HOST`", first.text, key.text);
            mistakes.add(key.extent, message, "rename one of them");
            continue;
        }
        seen.insert(prefix, key);
    }
}

/// Services that wait for each other would wait forever.
pub(super) fn circles(services: &Map<compose::Service>, mistakes: &mut Mistakes<'_>) {
    for (key, service) in services.iter() {
        let mut reached = vec![key.text.clone()];
        let mut at = 0;
        while at < reached.len() {
            let next = services.get(&reached[at]).map(compose::Service::waits_for);
            for on in next.unwrap_or_default() {
                if on.name.value == key.text {
                    let first = service.waits_for().first().map_or(key.extent, |on| on.name.extent);
                    let message = format!(
                        "`{}` waits for itself: `depends_on` goes round in a circle",
                        key.text
                    );
                    mistakes.add(first, message, "remove one of the entries of the circle");
                    return;
                }
                if !reached.contains(&on.name.value) {
                    reached.push(on.name.value);
                }
            }
            at += 1;
        }
    }
}
