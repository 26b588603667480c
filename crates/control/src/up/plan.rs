//! What each container of a project is made of. Nothing is asked or changed here.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use domain::container::{Container, Source};
use domain::{Digest, ServiceName};
use engine::docker::project::{DIGEST, FOLDER, INDEX, PROJECT, SERVICE, Wish};

use super::{Project, Service};

/// Which services it depends on, so that `down` knows the order without the file.
pub(super) const DEPENDS: &str = "dev.launchway.depends";
/// Between the stop signal and SIGKILL, in milliseconds.
pub(super) const GRACE: &str = "dev.launchway.grace";
/// A container that takes the place of another is called like it, and this, until that one is gone.
pub(super) const SUCCESSOR: &str = ".new";

/// A container of the project.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Planned {
    pub index: u32,
    pub digest: String,
    pub wish: Wish,
}

/// The containers of a service, made of this image.
pub(super) fn containers(project: &Project, name: &ServiceName, image: &Digest) -> Vec<Planned> {
    let Some(service) = project.services.get(name) else { return Vec::new() };
    (1..=service.said.replicas).map(|index| planned(project, name, service, index, image)).collect()
}

fn planned(
    project: &Project,
    name: &ServiceName,
    service: &Service,
    index: u32,
    image: &Digest,
) -> Planned {
    let container = placed(project, &service.said.container);
    let networks = networks(project, name, &container);
    let grace = service.said.stop_grace;
    let parts = (image.as_str(), &container, &service.env, &networks, grace, &project.folder);
    // Its parts are plain maps, lists and texts: they can always be written.
    let digest =
        Digest::of(serde_json::to_vec(&parts).unwrap_or_default()).as_str()[..32].to_owned();
    let depends: Vec<&str> = service.said.depends_on.keys().map(|name| name.as_str()).collect();
    let mut labels = labels(project);
    let own = [
        (SERVICE, name.to_string()),
        (INDEX, index.to_string()),
        (DIGEST, digest.clone()),
        (DEPENDS, depends.join(",")),
        (GRACE, grace.as_millis().to_string()),
    ];
    labels.extend(own.map(|(label, value)| (label.to_owned(), value)));
    let given = service.said.container_name.clone();
    let wish = Wish {
        name: given.unwrap_or_else(|| format!("{}-{name}-{index}", project.name)),
        image: format!("sha256:{image}"),
        container,
        env: service.env.clone(),
        labels,
        networks,
        stop_grace: grace,
    };
    Planned { index, digest, wish }
}

/// What everything of the project is marked with.
pub(super) fn labels(project: &Project) -> BTreeMap<String, String> {
    let folder = project.folder.to_string_lossy().into_owned();
    BTreeMap::from([(PROJECT.to_owned(), project.name.clone()), (FOLDER.to_owned(), folder)])
}

/// With volumes by their real names, and paths of this machine.
fn placed(project: &Project, container: &Container) -> Container {
    let mut container = container.clone();
    for mount in &mut container.mounts {
        match &mount.source {
            Source::Volume(name) => mount.source = Source::Volume(project.volume_name(name)),
            Source::Project(path) => mount.source = Source::Host(project.path(path)),
            _ => {}
        }
    }
    container
}

fn networks(
    project: &Project,
    name: &ServiceName,
    container: &Container,
) -> Vec<(String, Vec<String>)> {
    let named = |network: &str, more: &[String]| {
        let mut aliases = vec![name.to_string()];
        aliases.extend(more.iter().filter(|alias| alias.as_str() != name.as_str()).cloned());
        (project.network_name(network), aliases)
    };
    if container.networks.is_empty() {
        return vec![named("default", &[])];
    }
    container
        .networks
        .iter()
        .map(|(network, attachment)| named(network, &attachment.aliases))
        .collect()
}

/// The container with the volumes without a name of the one whose place it takes, as Compose does it.
pub(super) fn inheriting(wish: &Wish, volumes: &BTreeMap<String, String>) -> Wish {
    let mut wish = wish.clone();
    for (target, volume) in volumes {
        let same = |path: &str| path.trim_end_matches('/') == target.trim_end_matches('/');
        match wish.container.mounts.iter_mut().find(|mount| same(&mount.target)) {
            Some(mount) if mount.source == Source::Anonymous => {
                mount.source = Source::Volume(volume.clone())
            }
            Some(_) => {}
            None if unnamed(volume) => wish.container.mounts.push(domain::container::Mount {
                source: Source::Volume(volume.clone()),
                target: target.clone(),
                read_only: false,
            }),
            None => {}
        }
    }
    wish
}

/// The Engine calls a volume that nobody named by 64 hexadecimal digits.
fn unnamed(volume: &str) -> bool {
    volume.len() == 64 && volume.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Folders of this machine that are mounted, and whether they must be there already: a file or folder that is only
/// read and is not there is a mistake, an empty folder in its place would hide it.
pub(super) fn folders(project: &Project) -> BTreeSet<(PathBuf, bool)> {
    let mounts = project.services.values().flat_map(|service| &service.said.container.mounts);
    mounts
        .filter_map(|mount| match &mount.source {
            Source::Project(path) => Some((project.path(path), mount.read_only)),
            Source::Host(path) => Some((path.clone(), mount.read_only)),
            _ => None,
        })
        .collect()
}

/// Names in layers: what a later layer depends on lies in the earlier ones. What is not there is left out; a circle
/// (only labels of others could have one) is one layer.
pub(super) fn layers(depends: &BTreeMap<String, BTreeSet<String>>) -> Vec<BTreeSet<String>> {
    let mut open: BTreeMap<&String, BTreeSet<&String>> = depends
        .iter()
        .map(|(name, on)| (name, on.iter().filter(|on| depends.contains_key(*on)).collect()))
        .collect();
    let mut layers = Vec::new();
    while !open.is_empty() {
        let free: BTreeSet<&String> = open
            .iter()
            .filter(|(_, on)| on.iter().all(|on| !open.contains_key(on)))
            .map(|(name, _)| *name)
            .collect();
        let free = if free.is_empty() { open.keys().copied().collect() } else { free };
        open.retain(|name, _| !free.contains(name));
        layers.push(free.into_iter().cloned().collect());
    }
    layers
}

#[cfg(test)]
mod tests {
    use super::*;

    fn depends(pairs: &[(&str, &[&str])]) -> BTreeMap<String, BTreeSet<String>> {
        let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        pairs.iter().map(|(name, on)| ((*name).to_owned(), owned(on))).collect()
    }

    #[test]
    fn what_is_depended_on_lies_in_an_earlier_layer() {
        let all = depends(&[
            ("web", &["api", "cache"]),
            ("api", &["db", "cache"]),
            ("db", &[]),
            ("cache", &["gone"]),
        ]);
        let layers: Vec<Vec<String>> =
            layers(&all).into_iter().map(|layer| layer.into_iter().collect()).collect();
        assert_eq!(layers, [vec!["cache", "db"], vec!["api"], vec!["web"]]);
    }

    #[test]
    fn a_circle_ends() {
        assert_eq!(layers(&depends(&[("a", &["b"]), ("b", &["a"])])).len(), 1);
    }
}
