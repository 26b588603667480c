//! The Compose file: what Launchway reads of it, what it passes over, and what it refuses by name.

use crate::config::env_file::Lookup;
use crate::config::mistake::{Mistakes, listed};
use crate::config::reader::{Any, At, FromNode, Loose, Map, Need, foreign_mapping, wrong};
use crate::config::yaml::{Key, Kind, Node, Value};

foreign_mapping! {
    /// A Compose file.
    Compose, "compose.yaml" {
        /// The services.
        "services" services: Need<At<Map<Service>>>,
        /// Kept for people: project names come from launchway.yaml.
        "version" version: Option<At<Any>>,
    }
    allow { "name", "volumes", "networks", "x-" }
    refuse {
        "secrets" => "pass it as an environment variable from `variables` in launchway.yaml",
        "configs" => "keep the file in the repository, inside the build context",
        "include" => "write the services of the other file into this one",
        "models" => "remove it",
    }
}

foreign_mapping! {
    /// A Compose service.
    Service, "a Compose service" {
        /// Of a backing service, or the tag of what is built.
        "image" image: Option<At<String>>,
        /// Makes it a service of ours.
        "build" build: Option<At<Build>>,
        /// Its environment.
        "environment" environment: Option<Variables>,
        /// What starts before it.
        "depends_on" depends_on: Option<Depends>,
        /// Replicas.
        "deploy" deploy: Option<Deploy>,
        /// Between SIGTERM and SIGKILL.
        "stop_grace_period" stop_grace_period: Option<At<Grace>>,
        /// What the container runs.
        "command" command: Option<At<Any>>,
        /// What the container runs it with.
        "entrypoint" entrypoint: Option<At<Any>>,
        /// The folder in the container.
        "working_dir" working_dir: Option<At<Any>>,
        /// The user in the container.
        "user" user: Option<At<Any>>,
        /// The container's own check.
        "healthcheck" healthcheck: Option<At<Any>>,
        /// Ports published on the machine.
        "ports" ports: Option<At<Vec<Any>>>,
        /// Folders of the container.
        "volumes" volumes: Option<At<Any>>,
    }
    allow {
        "expose", "restart", "networks", "container_name", "hostname", "init", "labels", "logging",
        "platform", "pull_policy", "stdin_open", "tty", "develop", "annotations", "shm_size", "x-",
    }
    refuse {
        "env_file" => "write the variables into `environment`",
        "profiles" => "remove it: every service of the file is part of the app",
        "extends" => "write the keys of the other service into this one, or share them with a YAML anchor",
        "secrets" => "pass it as an environment variable from `variables` in launchway.yaml",
        "configs" => "keep the file in the repository, inside the build context",
        "scale" => "write `deploy: { replicas: ... }`",
        "network_mode" => "remove it: services find each other through `<SERVICE>_HOST` and `<SERVICE>_PORT`",
        "links" => "remove it: services find each other through `<SERVICE>_HOST` and `<SERVICE>_PORT`",
        "external_links" => "remove it",
        "extra_hosts" => "remove it, or pass the address as an environment variable",
        "dns" => "remove it",
        "privileged" => "remove it",
        "cap_add" => "remove it",
        "cap_drop" => "remove it",
        "devices" => "remove it",
        "gpus" => "remove it",
        "security_opt" => "remove it",
        "sysctls" => "remove it",
        "ulimits" => "remove it",
        "tmpfs" => "remove it: a replica may write to its temporary folder",
        "read_only" => "remove it: artifacts are always read-only",
        "pid" => "remove it",
        "ipc" => "remove it",
        "stop_signal" => "remove it: replicas are stopped with SIGTERM",
        "mem_limit" => "remove it",
        "cpus" => "remove it",
        "volumes_from" => "remove it",
        "post_start" => "use `migrate` in launchway.yaml for work before the switch",
        "pre_stop" => "remove it: handle SIGTERM in the service",
        "provider" => "remove it",
        "models" => "remove it",
    }
}

foreign_mapping! {
    /// How the image is built, in full.
    BuildKeys, "`build`" {
        /// The folder.
        "context" context: Option<At<String>>,
        /// The Dockerfile, from the context.
        "dockerfile" dockerfile: Option<At<String>>,
    }
    allow { "target", "args", "labels", "tags", "cache_from", "cache_to", "platforms", "pull", "no_cache", "x-" }
    refuse {
        "dockerfile_inline" => "write a Dockerfile into the build context",
        "additional_contexts" => "keep all files inside the build context",
        "secrets" => "remove it",
        "ssh" => "remove it",
        "network" => "remove it",
    }
}

foreign_mapping! {
    /// Compose's `deploy`.
    Deploy, "`deploy`" {
        /// How many run side by side.
        "replicas" replicas: Option<At<u32>>,
        /// Limits of a container.
        "resources" resources: Option<At<Any>>,
    }
    allow { "restart_policy", "labels", "update_config", "rollback_config", "x-" }
    refuse {
        "mode" => "remove it and write `replicas`",
        "placement" => "remove it: everything runs on one machine",
        "endpoint_mode" => "remove it",
    }
}

/// `build: ./folder`, or in full.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::config) struct Build {
    pub context: Option<At<String>>,
    pub dockerfile: Option<At<String>>,
}

impl FromNode for Build {
    fn read(node: &Node, mistakes: &mut Mistakes<'_>) -> Option<Self> {
        if matches!(node.value, Value::Scalar { .. }) {
            return At::read(node, mistakes).map(|c| Self { context: Some(c), dockerfile: None });
        }
        let keys = BuildKeys::read(node, mistakes)?;
        Some(Self { context: keys.context, dockerfile: keys.dockerfile })
    }
}

/// `environment`, as a mapping or as a list of `NAME=value`.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::config) struct Variables(pub Vec<(Key, At<String>)>);

const FROM_SHELL: &str = "write `NAME=value`, or `NAME=${NAME}` with a value in `variables` of launchway.yaml; \
     nothing is taken from the shell";

impl FromNode for Variables {
    fn read(node: &Node, mistakes: &mut Mistakes<'_>) -> Option<Self> {
        if let Value::List(items) = &node.value {
            return Some(Self(
                items.iter().filter_map(|item| assignment(item, mistakes)).collect(),
            ));
        }
        let map = Map::<At<Loose>>::read(node, mistakes)?;
        let value =
            |at: &At<Loose>| At { value: at.value.0.clone(), extent: at.extent, title: at.title };
        Some(Self(map.iter().map(|(key, at)| (key.clone(), value(at))).collect()))
    }
}

fn assignment(item: &Node, mistakes: &mut Mistakes<'_>) -> Option<(Key, At<String>)> {
    let text = match &item.value {
        Value::Scalar { text, kind: Kind::Text } => text,
        _ => {
            wrong(item, mistakes, "text like `NAME=value`", FROM_SHELL);
            return None;
        }
    };
    let Some((name, value)) = text.split_once('=') else {
        mistakes.add(item.extent, format!("`{text}` has no value"), FROM_SHELL);
        return None;
    };
    let key = Key { text: name.into(), extent: item.extent };
    Some((key, At { value: value.into(), extent: item.extent, title: item.extent }))
}

/// `depends_on`, as a list of names or with conditions.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::config) struct Depends(pub Vec<At<String>>);

foreign_mapping! {
    /// One entry of `depends_on`.
    Dependency, "an entry of `depends_on`" {
        /// What it waits for.
        "condition" condition: Option<At<String>>,
    }
    allow { "restart", "required" }
}

impl FromNode for Depends {
    fn read(node: &Node, mistakes: &mut Mistakes<'_>) -> Option<Self> {
        if let Value::List(_) = node.value {
            return Vec::read(node, mistakes).map(Self);
        }
        let map = Map::<Dependency>::read(node, mistakes)?;
        for (_, dependency) in map.iter() {
            if let Some(condition) = &dependency.condition {
                check_condition(condition, mistakes);
            }
        }
        let name =
            |key: &Key| At { value: key.text.clone(), extent: key.extent, title: key.extent };
        Some(Self(map.0.iter().map(|(key, _)| name(key)).collect()))
    }
}

fn check_condition(condition: &At<String>, mistakes: &mut Mistakes<'_>) {
    const KNOWN: [&str; 2] = ["service_started", "service_healthy"];
    match condition.value.as_str() {
        text if KNOWN.contains(&text) => {}
        "service_completed_successfully" => mistakes.add(
            condition.extent,
            "`service_completed_successfully` is not supported yet by this version",
            "run work before the switch with `migrate` in launchway.yaml",
        ),
        other => mistakes.add(
            condition.extent,
            format!("`condition` cannot be `{other}`"),
            format!("write one of {}", listed(KNOWN)),
        ),
    }
}

/// A duration as Compose writes it: `1m30s`, `500ms`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::config) struct Grace(pub std::time::Duration);

impl FromNode for Grace {
    fn read(node: &Node, mistakes: &mut Mistakes<'_>) -> Option<Self> {
        let Value::Scalar { text, .. } = &node.value else {
            wrong(node, mistakes, "a duration", "write it like `10s` or `1m30s`");
            return None;
        };
        let duration = compose_duration(text);
        if duration.is_none() {
            let message = format!("`{text}` is not a duration");
            mistakes.add(node.extent, message, "write it like `10s` or `1m30s`");
        }
        duration.map(Self)
    }
}

/// The sum of parts like `1m30s`, each with a unit of its own.
fn compose_duration(text: &str) -> Option<std::time::Duration> {
    let mut total = std::time::Duration::ZERO;
    let mut rest = text;
    while !rest.is_empty() {
        let unit = rest.find(|c: char| c.is_ascii_alphabetic())?;
        let end =
            rest[unit..].find(|c: char| !c.is_ascii_alphabetic()).map_or(rest.len(), |n| unit + n);
        let part: crate::units::Span = rest[..end].parse().ok()?;
        total = total.checked_add(part.0)?;
        rest = &rest[end..];
    }
    (!text.is_empty()).then_some(total)
}

/// The secrets and configs of a Compose file.
pub(in crate::config) struct Files;

impl Files {
    pub fn read(_: &Node, _: &Node, _: &mut Mistakes<'_>) -> Self {
        Self
    }
}

/// The container of a service.
pub(in crate::config) fn container(
    _: &Key,
    _: &Service,
    _: &Files,
    _: Lookup<'_>,
    _: &mut Mistakes<'_>,
) -> crate::container::Container {
    crate::container::Container::default()
}
