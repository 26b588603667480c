//! Joins what Compose and launchway.yaml say about each service.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use super::composition::Condition;
use super::compose;
use super::file;
use super::findings::Findings;
use super::filling::{child, of_container, only};
use super::interpolation::Template;
use super::mistake::{Extent, Mistakes, listed, nearest};
use super::paths::checked;
use super::project::{
    BackingKind, BuildOptions, Built, EngineKind, EnvFile, Native, Service, ServiceKind, variable_prefix,
};
use super::reader::{At, Map, Need};
use super::steps::{Names, between, is_variable, no_service, positive};
use super::template::ContainerTemplate;
use super::yaml::{Key, Node};
use crate::ServiceName;
use crate::slot::{HealthCheck, Launch, Probe};

const INTERVAL: Duration = Duration::from_secs(1);
const TIMEOUT: Duration = Duration::from_secs(2);
const START: Duration = Duration::from_secs(60);
const STOP_GRACE: Duration = Duration::from_secs(10);
/// More replicas than this on one machine are a slip of the keyboard.
pub(super) const MOST_REPLICAS: u32 = 100;

/// The names of the environments, by what runs them.
pub(super) struct Engines<'a> {
    pub process: Vec<&'a str>,
    pub docker: Vec<&'a str>,
}

impl<'a> Engines<'a> {
    /// As the file says it; an environment that could not be read counts for neither.
    pub fn of(file: &'a file::Launchway) -> Self {
        let all = || file.environments.0.iter().flat_map(|map| map.value.iter());
        let with = |kind: EngineKind| {
            let is = |e: &file::Environment| e.engine.unwrap_or(EngineKind::Process) == kind;
            all().filter(|(_, e)| is(e)).map(|(key, _)| key.text.as_str()).collect()
        };
        Self { process: with(EngineKind::Process), docker: with(EngineKind::Docker) }
    }

    /// ` in `a` and `b``, or nothing where there is only one kind.
    fn where_processes(&self) -> String {
        if self.docker.is_empty() {
            return String::new();
        }
        format!(" in {}", listed(self.process.iter().copied()))
    }
}

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

/// What launchway.yaml says about one service of the Compose file.
struct Ours<'a> {
    map: Option<&'a Map<file::Service>>,
    /// `services` is there, and is no mapping.
    unreadable: bool,
    key: &'a Key,
    written: &'a Written<'a>,
    engines: &'a Engines<'a>,
    names: Names<'a>,
}

impl<'a> Ours<'a> {
    fn get(&self) -> Option<&'a file::Service> {
        self.map?.get(&self.key.text)
    }

    /// Its key in launchway.yaml, if it is there, even if what follows could not be read.
    fn key(&self) -> Option<&'a Key> {
        self.map?.0.iter().map(|(key, _)| key).find(|key| key.text == self.key.text)
    }

    /// What should be here is a mistake already: it could not be read, or has another name by a slip.
    fn is_broken(&self) -> bool {
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
    let kind = match (&service.build, &service.image) {
        (Some(build), _) => ServiceKind::Built(Box::new(built(key, service, build, ours, found)?)),
        (None, Some(image)) => backing(key, service, image, ours, found)?,
        (None, None) => {
            let message = format!("the service `{name}` has neither `build` nor `image`");
            let help =
                "add `build: <folder>` if it is yours, or `image: postgres:16-alpine` and the like";
            found.compose.add(key.extent, message, help);
            return None;
        }
    };
    Some((name, Service { kind, env, env_files: env_files(service, &mut found.compose), depends_on, template }))
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
    for on in service.depends_on.iter().flat_map(|depends| &depends.0) {
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
    service: &compose::Service,
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
    for (part, name) in [(&service.command, "command"), (&service.entrypoint, "entrypoint")] {
        if let Some(part) = part {
            let note = format!(
                "`{name}` of `{}` is for containers; the process engine runs it with its own settings",
                key.text
            );
            found.note_compose(part.title, note);
        }
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

fn built(
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
    notes(key, service, ours, found);
    if ours.is_broken() {
        return None;
    }
    let said = ours.get();
    let native = match said.and_then(|service| service.native.as_ref()) {
        Some(native) => Some(self::native(native.0.as_ref()?, found)?),
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
fn options(
    build: &compose::Build,
    ours: &Ours<'_>,
    found: &mut Findings<'_>,
) -> BuildOptions {
    for (name, extent) in build.unset_args() {
        let help = format!("write `{name}=value`: nothing is taken from the shell");
        found.compose.add(extent, format!("the argument `{name}` has no value"), help);
    }
    build.options(ours.written.files, &|_| None, &mut found.compose)
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

fn env_files(service: &compose::Service, mistakes: &mut Mistakes<'_>) -> Vec<EnvFile> {
    let files = service.env_file.iter().flat_map(|files| &files.0);
    let read = |file: &compose::VariableFile| {
        let path = checked(&file.path, "the project", mistakes)?;
        Some(EnvFile { path, required: file.required, raw: file.raw })
    };
    files.filter_map(read).collect()
}

fn context(build: &At<compose::Build>, found: &mut Findings<'_>) -> Option<String> {
    let Some(context) = &build.value.context else { return Some(String::new()) };
    if ["://", "git@", "github.com"].iter().any(|mark| context.value.contains(mark)) {
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

fn native(native: &At<file::Native>, found: &mut Findings<'_>) -> Option<Native> {
    let launch = match (&native.value.run, &native.value.files) {
        (Some(run), None) => {
            if !run.value.contains("PORT") {
                let note = "the command does not use `$PORT`: each replica must listen on the port it is given there";
                found.note_launchway(run.extent, note.into());
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

/// Where a part stands, if it does.
fn title<T>(part: &Option<At<T>>) -> Option<Extent> {
    part.as_ref().map(|part| part.title)
}

/// What of a container is not there on the process engine.
fn notes(key: &Key, service: &compose::Service, ours: &Ours<'_>, found: &mut Findings<'_>) {
    let replaced = [
        ("command", title(&service.command)),
        ("entrypoint", title(&service.entrypoint)),
        ("working_dir", title(&service.working_dir)),
        ("user", title(&service.user)),
    ];
    for (what, place) in replaced {
        if let Some(place) = place {
            let note = format!(
                "`{what}` of `{}` is for containers; the process engine runs `native` instead",
                key.text
            );
            found.note_compose(place, note);
        }
    }
    if let Some(volumes) = &service.volumes {
        let note = format!(
            "`volumes` of `{}` are for containers; the process engine runs it from its artifact",
            key.text
        );
        found.note_compose(volumes.title, note);
    }
    if let Some(resources) = service.deploy.as_ref().and_then(|deploy| deploy.resources.as_ref()) {
        let note = format!(
            "`resources` of `{}` are for containers; the process engine sets no limits",
            key.text
        );
        found.note_compose(resources.title, note);
    }
    let asked = ours.get().is_some_and(|service| service.health.is_some());
    if let (Some(check), false) = (&service.healthcheck, asked) {
        let note = format!(
            "`healthcheck` of `{}` runs inside a container; say `health: /<path>` in launchway.yaml to have it asked here too",
            key.text
        );
        found.note_compose(check.title, note);
    }
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
fn circles(services: &Map<compose::Service>, mistakes: &mut Mistakes<'_>) {
    let next = |name: &str| -> Vec<&str> {
        let depends = services.get(name).and_then(|service| service.depends_on.as_ref());
        depends.iter().flat_map(|depends| &depends.0).map(|on| on.name.value.as_str()).collect()
    };
    for (key, service) in services.iter() {
        let mut reached = vec![key.text.as_str()];
        let mut at = 0;
        while at < reached.len() {
            for name in next(reached[at]) {
                if name == key.text {
                    let Some(depends) = &service.depends_on else { continue };
                    let Some(first) = depends.0.first() else { continue };
                    let message = format!(
                        "`{}` waits for itself: `depends_on` goes round in a circle",
                        key.text
                    );
                    mistakes.add(first.name.extent, message, "remove one of the entries of the circle");
                    return;
                }
                if !reached.contains(&name) {
                    reached.push(name);
                }
            }
            at += 1;
        }
    }
}
