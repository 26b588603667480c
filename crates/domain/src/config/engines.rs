//! What runs the environments, and what each engine makes of a container's keys.

use super::compose;
use super::file;
use super::findings::Findings;
use super::mistake::{Extent, Mistakes, listed};
use super::project::EngineKind;
use super::reader::At;
use super::services::Ours;
use super::yaml::Key;
use crate::container::{Protocol, Source};

/// The names of the environments, by what runs them.
pub(super) struct Engines<'a> {
    pub process: Vec<&'a str>,
    pub docker: Vec<&'a str>,
    /// Services that a route leads to.
    pub routed: Vec<&'a str>,
}

impl<'a> Engines<'a> {
    /// As the file says it; an environment that could not be read counts for neither.
    pub fn of(file: &'a file::Launchway) -> Self {
        let all = || file.environments.0.iter().flat_map(|map| map.value.iter());
        let with = |kind: EngineKind| {
            all()
                .filter(|(_, e)| e.runs_on() == Some(kind))
                .map(|(key, _)| key.text.as_str())
                .collect()
        };
        let routes = file.routes.0.iter().flat_map(|map| map.value.iter());
        let routed = routes.map(|(_, route)| route.service().value.as_str()).collect();
        Self { process: with(EngineKind::Process), docker: with(EngineKind::Docker), routed }
    }

    /// ` in `a` and `b``, or nothing where there is only one kind.
    pub fn where_processes(&self) -> String {
        if self.docker.is_empty() {
            return String::new();
        }
        format!(" in {}", listed(self.process.iter().copied()))
    }
}

/// Says what each engine makes of the service, and refuses what one of them cannot do.
pub(super) fn service(
    key: &Key,
    service: &compose::Service,
    ours: &Ours<'_>,
    found: &mut Findings<'_>,
) {
    if !ours.engines.process.is_empty() {
        as_processes(key, service, ours, found);
    }
    if !ours.engines.docker.is_empty() {
        as_containers(key, service, ours, found);
    }
    everywhere(key, service, found);
}

/// Where a part stands, if it does.
fn title<T>(part: &Option<At<T>>) -> Option<Extent> {
    part.as_ref().map(|part| part.title)
}

/// What of a container is not there on the process engine.
fn as_processes(key: &Key, service: &compose::Service, ours: &Ours<'_>, found: &mut Findings<'_>) {
    let name = &key.text;
    let place = ours.engines.where_processes();
    let built = service.build.is_some();
    let instead = if built { "runs `native` instead" } else { "runs it with its own settings" };
    let replaced = [
        ("command", title(&service.command)),
        ("entrypoint", title(&service.entrypoint)),
        ("working_dir", title(&service.working_dir)),
        ("user", title(&service.user)),
    ];
    for (what, at) in replaced.into_iter().filter_map(|(what, at)| Some((what, at?))) {
        let note =
            format!("`{what}` of `{name}` is for containers; the process engine{place} {instead}");
        found.note_compose(at, note);
    }
    if let (Some(volumes), true) = (&service.volumes, built) {
        let note = format!(
            "`volumes` of `{name}` are for containers; the process engine{place} runs it from its artifact"
        );
        found.note_compose(volumes.title, note);
    }
    let resources = service.deploy.as_ref().and_then(|deploy| title(&deploy.resources));
    let limits = [
        ("resources", resources),
        ("mem_limit", title(&service.mem_limit)),
        ("mem_reservation", title(&service.mem_reservation)),
        ("cpus", title(&service.cpus)),
        ("pids_limit", title(&service.pids_limit)),
        ("ulimits", title(&service.ulimits)),
    ];
    for (what, at) in limits.into_iter().filter_map(|(what, at)| Some((what, at?))) {
        let note = format!(
            "`{what}` of `{name}` are for containers; the process engine{place} sets no limits"
        );
        found.note_compose(at, note);
    }
    let others = [
        ("stop_signal", title(&service.stop_signal)),
        ("tmpfs", title(&service.tmpfs)),
        ("read_only", title(&service.read_only)),
        ("cap_add", title(&service.cap_add)),
        ("cap_drop", title(&service.cap_drop)),
        ("security_opt", title(&service.security_opt)),
        ("sysctls", title(&service.sysctls)),
        ("extra_hosts", title(&service.extra_hosts)),
        ("group_add", title(&service.group_add)),
    ];
    for (what, at) in others.into_iter().filter_map(|(what, at)| Some((what, at?))) {
        let note = format!(
            "`{what}` of `{name}` is for containers; the process engine{place} does without"
        );
        found.note_compose(at, note);
    }
    for (what, at) in [("secrets", title(&service.secrets)), ("configs", title(&service.configs))] {
        let Some(at) = at else { continue };
        let message = format!("the process engine{place} has no `{what}`");
        let help = if what == "secrets" {
            "pass it as an environment variable from `variables` in launchway.yaml, or write `engine: docker`"
        } else {
            "keep the file in the repository, inside the build context, or write `engine: docker`"
        };
        found.compose.add(at, message, help);
    }
    let asked = ours.get().is_some_and(|service| service.health.is_some());
    if let (Some(check), false, true) = (&service.healthcheck, asked, built) {
        let note = format!(
            "`healthcheck` of `{name}` runs inside a container; say `health: /<path>` in launchway.yaml to have it asked here too",
        );
        found.note_compose(check.title, note);
    }
}

/// What of a container is another thing in an environment than with `docker compose up`.
fn as_containers(key: &Key, service: &compose::Service, ours: &Ours<'_>, found: &mut Findings<'_>) {
    let name = &key.text;
    if let Some(ports) = &service.ports
        && !(service.build.is_some() && ours.engines.routed.contains(&name.as_str()))
    {
        let note = format!(
            "`ports` of `{name}` are published by `launchway up` only; in an environment other services reach it by name"
        );
        found.note_compose(ports.title, note);
    }
    if let Some(container_name) = &service.container_name {
        let note = format!(
            "`container_name` of `{name}` has no effect in an environment: two slots run side by side there"
        );
        found.note_compose(container_name.title, note);
    }
    for volume in service.volumes.iter().flat_map(|at| &at.value) {
        let Source::Project(path) = &volume.value.mount.source else { continue };
        if path.starts_with("..") || path.starts_with("~") {
            let message =
                format!("`{}` is not in the project, so it is no part of a commit", path.display());
            let help = "move it into the project, or use a named volume";
            found.compose.add(volume.extent, message, help);
        } else if !volume.value.mount.read_only {
            let note = format!(
                "`{name}` gets `{}` read-only, as it is in the commit; for what it writes use a named volume",
                path.display()
            );
            found.note_compose(volume.extent, note);
        }
    }
    if service.build.is_some() {
        answers(key, service, ours, found);
    }
}

/// Requests go to one port of the container.
fn answers(key: &Key, service: &compose::Service, ours: &Ours<'_>, found: &mut Findings<'_>) {
    if ours.get().is_some_and(|service| service.port.is_some()) {
        return;
    }
    let published = service.ports.iter().flat_map(|at| &at.value).flat_map(|ports| &ports.0);
    let published = published.filter(|port| port.protocol == Protocol::Tcp).map(|port| port.target);
    let mut ports: Vec<u16> = published.collect();
    if ports.is_empty() {
        ports = service.expose.iter().flat_map(|at| &at.value).flat_map(|e| e.0.clone()).collect();
    }
    ports.sort_unstable();
    ports.dedup();
    if ports.len() < 2 {
        return;
    }
    let texts: Vec<String> = ports.iter().map(u16::to_string).collect();
    let message = format!(
        "`{}` has the ports {}: requests go to one",
        key.text,
        listed(texts.iter().map(String::as_str))
    );
    let help = format!(
        "add `services: {{ {}: {{ port: {} }} }}` to launchway.yaml, with the one that answers",
        key.text, texts[0]
    );
    let at = title(&service.ports).or(title(&service.expose)).unwrap_or(key.extent);
    found.compose.add(at, message, help);
}

/// What an environment does in its own way, whatever runs it.
fn everywhere(key: &Key, service: &compose::Service, found: &mut Findings<'_>) {
    let name = &key.text;
    if let Some(logging) = &service.logging {
        let note = format!(
            "`logging` of `{name}` has no effect: Launchway keeps the logs of every replica itself"
        );
        found.note_compose(logging.title, note);
    }
    for volume in service.volumes.iter().flat_map(|at| &at.value) {
        if volume.value.relabels {
            let note = format!("volumes of `{name}` are not labelled for SELinux (`z`)");
            found.note_compose(volume.extent, note);
        }
    }
}

/// What the file says of networks and volumes, where every environment has its own.
pub(super) fn parts(compose: &compose::Compose, engines: &Engines<'_>, found: &mut Findings<'_>) {
    if engines.docker.is_empty() {
        return;
    }
    for (name, network) in compose.networks() {
        if network.value.external {
            let message =
                format!("the network `{name}` is external: an environment has networks of its own");
            found.compose.add(
                network.key.extent,
                message,
                "remove `external`, and reach what is there by its address",
            );
        } else if network.value.internal {
            let message =
                format!("the network `{name}` is internal, which networks of environments are not");
            found.compose.add(network.key.extent, message, "remove `internal`");
        } else if name != "default" {
            let note = format!(
                "the network `{name}` keeps services apart with `launchway up` only: all of an environment reach each other"
            );
            found.note_compose(network.key.extent, note);
        }
        if let (Some(real), false) = (&network.value.name, network.value.external) {
            let note = format!(
                "the network `{name}` is called `{real}` with `launchway up` only: each environment has its own"
            );
            found.note_compose(network.key.extent, note);
        }
    }
    for (name, volume) in compose.volumes() {
        if volume.value.external {
            let message =
                format!("the volume `{name}` is external: an environment keeps volumes of its own");
            found.compose.add(volume.key.extent, message, "remove `external`");
        } else if !volume.value.options.is_empty() {
            let message =
                format!("the volume `{name}` has options, which volumes of environments do not");
            found.compose.add(volume.key.extent, message, "remove `driver_opts`");
        } else if let Some(real) = &volume.value.name {
            let note = format!(
                "the volume `{name}` is called `{real}` with `launchway up` only: each environment has its own"
            );
            found.note_compose(volume.key.extent, note);
        }
    }
}

/// What runs in an environment is what was good in the one before it (rule 4 of the design): the same artifacts.
pub(super) fn mixed(file: &file::Launchway, mistakes: &mut Mistakes<'_>) {
    if file.mixed_artifacts.is_some() {
        return;
    }
    let Some(map) = file.environments.0.as_ref() else { return };
    for (key, environment) in map.value.iter() {
        let Some(after) = &environment.after else { continue };
        let Some(before) = map.value.get(&after.value) else { continue };
        let (Some(here), Some(there)) = (environment.runs_on(), before.runs_on()) else { continue };
        if here == there {
            continue;
        }
        let message = format!(
            "`{}` would run {}, and `{}` before it tests {}",
            key.text,
            artifacts(here),
            after.value,
            artifacts(there)
        );
        let help = "give both the same `engine`, or allow it in writing: `mixed_artifacts: allow`";
        let written = environment.engine.as_ref().and_then(|engine| engine.0.as_ref());
        let at = written.map_or(key.extent, |at| at.extent);
        mistakes.add(at, message, help);
    }
}

/// What an engine runs, for people.
pub(super) fn artifacts(engine: EngineKind) -> &'static str {
    match engine {
        EngineKind::Process => "folders of files",
        EngineKind::Docker => "images",
    }
}
