//! The Compose file: what Launchway reads of it, and what it refuses by name.
//!
//! Everything here reads a tree whose variables are filled in already; nothing is passed over in silence but
//! what has no effect with Compose either.

use std::collections::BTreeMap;

mod build;
mod container;
mod depends;
mod files;
mod health;
mod limits;
mod mounts;
mod networks;
mod pairs;
mod ports;
mod scalars;
mod service;
mod words;

use super::composition::{Network, Volume};
use super::env_file::Lookup;
use super::mistake::{Extent, Mistakes};
use super::reader::{Any, At, Map, Need, foreign_mapping};
use super::yaml::{Node, Value};
use crate::container::Source;
use networks::{TopNetwork, TopVolume};
use scalars::{Maybe, Text};

pub(super) use build::Build;
pub(super) use container::container;
pub(super) use depends::On;
pub(super) use files::{Files, Given};
pub(super) use networks::Defined;
pub(super) use scalars::{mode_of, text_of};
pub(super) use service::{Service, VariableFile};

foreign_mapping! {
    /// A Compose file.
    Compose, "compose.yaml" {
        /// The services.
        "services" services: Need<At<Map<Service>>>,
        "name" name: Option<At<Text>>,
        /// Kept for people: it has no effect.
        "version" version: Option<At<Any>>,
        "networks" networks: Option<Maybe<Map<Maybe<TopNetwork>>>>,
        "volumes" volumes: Option<Maybe<Map<Maybe<TopVolume>>>>,
        "secrets" secrets: Option<Any>,
        "configs" configs: Option<Any>,
    }
    allow { "x-" }
    refuse {
        "include" => "write the services of the other file into this one",
        "models" => "remove it",
    }
}

impl Compose {
    /// The networks by name.
    pub fn networks(&self) -> BTreeMap<String, Defined<Network>> {
        let map = self.networks.as_ref().and_then(|map| map.0.as_ref());
        networks::networks(map)
    }

    /// The volumes by name.
    pub fn volumes(&self) -> BTreeMap<String, Defined<Volume>> {
        let map = self.volumes.as_ref().and_then(|map| map.0.as_ref());
        networks::volumes(map)
    }

    /// The file's secrets and configs.
    pub fn files(&self, mistakes: &mut Mistakes<'_>) -> Files {
        let nothing = Node { extent: Extent::default(), key: None, value: Value::Null };
        let part =
            |part: &'_ Option<Any>| part.as_ref().map_or(nothing.clone(), |any| any.0.clone());
        Files::read(&part(&self.secrets), &part(&self.configs), mistakes)
    }
}

/// Notes what is wrong with the containers of a file, and with the names that they use.
pub(super) fn check(compose: &Compose, lookup: Lookup<'_>, mistakes: &mut Mistakes<'_>) {
    let files = compose.files(mistakes);
    let (networks, volumes) = (compose.networks(), compose.volumes());
    for (key, service) in compose.services.0.iter().flat_map(|map| map.value.iter()) {
        service.check(key, mistakes);
        container(key, service, &files, lookup, mistakes);
        names(service, &networks, &volumes, mistakes);
    }
}

fn names(
    service: &Service,
    networks: &BTreeMap<String, Defined<Network>>,
    volumes: &BTreeMap<String, Defined<Volume>>,
    mistakes: &mut Mistakes<'_>,
) {
    for (key, _) in service.networks.iter().flat_map(|at| &at.value.0) {
        if key.text != "default" && !networks.contains_key(&key.text) {
            let message = format!("there is no network `{}`", key.text);
            let help = format!("add it to the file: `networks: {{ {}: {{}} }}`", key.text);
            mistakes.add(key.extent, message, help);
        }
    }
    for volume in service.volumes.iter().flat_map(|at| &at.value) {
        if let Source::Volume(name) = &volume.value.mount.source
            && !volumes.contains_key(name)
        {
            let message = format!("there is no volume `{name}`");
            let help = format!(
                "add it to the file: `volumes: {{ {name}: {{}} }}`, or write `./{name}` for a folder"
            );
            mistakes.add(volume.extent, message, help);
        }
    }
}

/// A path of the file in one spelling: from the project's root, which it may leave, or absolute.
pub(super) fn path(text: &str) -> String {
    if text.starts_with('/') {
        return text.to_owned();
    }
    mounts::tidy(text).to_string_lossy().into_owned()
}

/// A build context that is not on this machine.
pub(super) fn is_remote(context: &str) -> bool {
    ["://", "git@", "github.com"].iter().any(|mark| context.contains(mark))
}
