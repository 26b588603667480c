//! Reads a Compose file by itself, with no launchway.yaml beside it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use super::compose::{self, Compose, Defined, Files, Service};
use super::composition::{ComposedService, Composition, Dependency, ImageBuild};
use super::env_file::Lookup;
use super::filling::invalid;
use super::findings::{Findings, Note};
use super::interpolation::InterpolationError;
use super::mistake::{Mistake, Mistakes, Source, listed};
use super::project::EnvFile;
use super::reader::FromNode;
use super::services::circles;
use super::steps::no_service;
use super::tree::{self, Unfilled};
use super::yaml::{Key, Node};
use crate::ServiceName;
use crate::container::{self, Container};

const STOP_GRACE: Duration = Duration::from_secs(10);

/// See [`super::compose`].
pub(super) fn read(
    source: Source<'_>,
    lookup: Lookup<'_>,
    profiles: &[String],
) -> Result<(Composition, Vec<Note>), Vec<Mistake>> {
    let mut found = Findings::new(Source { path: "", text: "" }, source);
    let root = super::root(source, "begin with `services:`", &mut found.compose);
    let root = root.map(|root| filled(&root, lookup, &mut found));
    let compose = root.and_then(|root| Compose::read(&root, &mut found.compose));
    let composition = compose.and_then(|compose| {
        let mut reading = Reading { compose: &compose, lookup, profiles, found: &mut found };
        reading.composition()
    });
    found.finish(composition).map(|(composition, notes, _)| (composition, notes))
}

/// The file with the values of its variables.
fn filled(root: &Node, lookup: Lookup<'_>, found: &mut Findings<'_>) -> Node {
    let mut blank = Vec::new();
    let mistakes = &mut found.compose;
    let filled = tree::filled(root, lookup, &mut |unfilled, extent| match unfilled {
        Unfilled::Blank(name) => blank.push((name.to_owned(), extent)),
        Unfilled::Error(InterpolationError::Required { name, message }) => mistakes.add(
            extent,
            format!("`{name}` has no value: {message}"),
            format!("give it one in the shell or in `.env` beside the file: `{name}=...`"),
        ),
        Unfilled::Error(error) => invalid(error, extent, mistakes),
    });
    for (name, extent) in blank {
        found.note_compose(extent, format!("`{name}` has no value and becomes empty text"));
    }
    filled
}

struct Reading<'a, 'f> {
    compose: &'a Compose,
    lookup: Lookup<'a>,
    profiles: &'a [String],
    found: &'a mut Findings<'f>,
}

impl Reading<'_, '_> {
    fn composition(&mut self) -> Option<Composition> {
        compose::check(self.compose, self.lookup, &mut self.found.compose);
        let map = &self.compose.services.0.as_ref()?.value;
        circles(map, &mut self.found.compose);
        let files = self.compose.files(&mut Mistakes::new(self.found.compose.source()));
        let mut services = BTreeMap::new();
        for (key, service) in map.iter() {
            if !self.is_active(service) {
                continue;
            }
            let Ok(name) = ServiceName::new(key.text.as_str()) else {
                let message = format!("`{}` is not a valid service name", key.text);
                let help = "use 1 to 63 letters, digits, `-`, `_` and `.`, beginning with a letter or digit";
                self.found.compose.add(key.extent, message, help);
                continue;
            };
            services.extend(self.service(key, service, &files).map(|service| (name, service)));
        }
        Some(self.with_parts(services))
    }

    fn with_parts(&self, services: BTreeMap<ServiceName, ComposedService>) -> Composition {
        let mut networks = BTreeSet::new();
        let mut volumes = BTreeSet::new();
        for service in services.values() {
            let container = &service.container;
            networks.extend(container.networks.keys().cloned());
            if container.networks.is_empty() {
                networks.insert("default".to_owned());
            }
            volumes.extend(container.mounts.iter().filter_map(|mount| match &mount.source {
                container::Source::Volume(name) => Some(name.clone()),
                _ => None,
            }));
        }
        Composition {
            name: self.compose.name.as_ref().map(|at| at.value.0.clone()),
            services,
            networks: of_names(networks, self.compose.networks()),
            volumes: of_names(volumes, self.compose.volumes()),
        }
    }

    fn is_active(&self, service: &Service) -> bool {
        let Some(own) = &service.profiles else { return true };
        let asked = |name: &str| self.profiles.iter().any(|active| active == name || active == "*");
        own.value.is_empty() || own.value.iter().any(|name| asked(&name.0))
    }

    fn service(&mut self, key: &Key, service: &Service, files: &Files) -> Option<ComposedService> {
        if service.image.is_none() && service.build.is_none() && service.extends.is_none() {
            let message = format!("the service `{}` has neither `build` nor `image`", key.text);
            self.found.compose.add(key.extent, message, "add one of them");
        }
        if let Some(logging) = &service.logging {
            let note = "`logging` has no effect: Launchway keeps the logs itself";
            self.found.note_compose(logging.title, note.into());
        }
        // What is wrong with it was told by the check of the whole file.
        let mut told = Mistakes::new(self.found.compose.source());
        let container = compose::container(key, service, files, self.lookup, &mut told);
        let replicas = service.replicas().unwrap_or(1);
        if let (Some(name), true) = (&service.container_name, replicas > 1) {
            let message = format!("{replicas} containers cannot all be called `{}`", name.value.0);
            self.found.compose.add(name.extent, message, "remove `container_name`");
        }
        let build = match &service.build {
            Some(build) => Some(self.build(&build.value, files)?),
            None => None,
        };
        let files = service.env_file.iter().flat_map(|files| &files.0);
        let file = |file: &compose::VariableFile| EnvFile {
            path: compose::path(&file.path.value),
            required: file.required,
            raw: file.raw,
        };
        Some(ComposedService {
            image: service.image.as_ref().map(|at| at.value.clone()),
            build,
            env: self.environment(service),
            env_files: files.map(file).collect(),
            container: self.at_home(container),
            depends_on: self.depends_on(key, service),
            replicas,
            stop_grace: service.stop_grace_period.as_ref().map_or(STOP_GRACE, |at| at.value.0),
            container_name: service.container_name.as_ref().map(|at| at.value.0.clone()),
        })
    }

    fn build(&mut self, build: &compose::Build, files: &Files) -> Option<ImageBuild> {
        if let Some(context) = build.context.as_ref().filter(|at| compose::is_remote(&at.value)) {
            let help = "clone it, and give the folder as `context`";
            self.found.compose.add(context.extent, "a remote build context is not supported", help);
            return None;
        }
        let path = |at: &super::reader::At<String>| compose::path(&at.value);
        Some(ImageBuild {
            context: build.context.as_ref().map(path).unwrap_or_default(),
            dockerfile: build.dockerfile.as_ref().map_or_else(|| "Dockerfile".into(), path),
            options: build.options(files, self.lookup, &mut self.found.compose),
        })
    }

    fn environment(&self, service: &Service) -> BTreeMap<String, String> {
        let variables = service.environment.iter().flat_map(|variables| &variables.0);
        let value = |(key, at): &(Key, super::reader::At<Option<String>>)| {
            let value = at.value.clone().or_else(|| (self.lookup)(&key.text))?;
            Some((key.text.clone(), value))
        };
        variables.filter_map(value).collect()
    }

    /// `~` is the home of who runs it.
    fn at_home(&self, mut container: Container) -> Container {
        for mount in &mut container.mounts {
            if let container::Source::Project(path) = &mount.source
                && let (Ok(rest), Some(home)) = (path.strip_prefix("~"), (self.lookup)("HOME"))
            {
                mount.source = container::Source::Host(PathBuf::from(home).join(rest));
            }
        }
        container
    }

    fn depends_on(&mut self, key: &Key, service: &Service) -> BTreeMap<ServiceName, Dependency> {
        let mut all = BTreeMap::new();
        let Some(map) = &self.compose.services.0 else { return all };
        let names: Vec<String> = map.value.names().map(str::to_owned).collect();
        for on in service.waits_for() {
            let name = &on.name;
            if !names.contains(&name.value) {
                let message = format!("there is no service `{}`", name.value);
                self.found.compose.add(name.extent, message, no_service(&name.value, &names));
                continue;
            }
            let other = map.value.get(&name.value);
            if let Some(other) = other.filter(|other| !self.is_active(other)) {
                if on.dependency.required {
                    self.needs_inactive(key, &on, other);
                }
                continue;
            }
            all.extend(ServiceName::new(name.value.as_str()).map(|name| (name, on.dependency)));
        }
        all
    }

    fn needs_inactive(&mut self, key: &Key, on: &compose::On, other: &Service) {
        let profiles: Vec<&str> =
            other.profiles.iter().flat_map(|at| &at.value).map(|text| text.0.as_str()).collect();
        let message = format!(
            "`{}` waits for `{}`, which runs with the profile {} only",
            key.text,
            on.name.value,
            listed(profiles.iter().copied())
        );
        let help = match profiles.first() {
            Some(profile) => format!("say `--profile {profile}`, or write `required: false`"),
            None => "write `required: false`".into(),
        };
        self.found.compose.add(on.name.extent, message, help);
    }
}

/// Those that are used, and `default` as it is where the file does not say.
fn of_names<T: Default>(
    used: BTreeSet<String>,
    mut defined: BTreeMap<String, Defined<T>>,
) -> BTreeMap<String, T> {
    let one = |name: String| {
        let value = defined.remove(&name).map(|defined| defined.value).unwrap_or_default();
        (name, value)
    };
    used.into_iter().map(one).collect()
}
