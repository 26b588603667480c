//! A Compose file beside launchway.yaml is read once for every environment: variables have other values there.
//!
//! Some keys must be the same everywhere, since what they say is built once or decides what there is at all.

use super::compose::Compose;
use super::env_file::Lookup;
use super::findings::Findings;
use super::interpolation::InterpolationError;
use super::mistake::{Extent, Mistakes};
use super::reader::FromNode;
use super::settings::Setting;
use super::tree::{self, Unfilled};
use super::yaml::{Key, Node, Value};

/// Keys of a service whose value may not depend on the environment.
const FIXED: [&str; 9] = [
    "image",
    "build",
    "depends_on",
    "env_file",
    "links",
    "profiles",
    "scale",
    "stop_grace_period",
    "extends",
];

/// Keys of a service that are no part of its container's template.
const NOT_OF_CONTAINERS: [&str; 6] =
    ["environment", "container_name", "logging", "pull_policy", "develop", "attach"];

/// Keys of `deploy` that a container depends on.
const OF_DEPLOY: [&str; 2] = ["resources", "restart_policy"];

/// The file as it is in the first setting, checked in all of them.
pub(super) fn read(
    root: &Node,
    settings: &[Setting<'_>],
    found: &mut Findings<'_>,
) -> Option<Compose> {
    let mut first = None;
    for setting in settings {
        let lookup = |name: &str| setting.value(name);
        let read = read_in(root, &lookup, found);
        if first.is_none() {
            first = read;
        }
    }
    first
}

fn read_in(root: &Node, lookup: Lookup<'_>, found: &mut Findings<'_>) -> Option<Compose> {
    let mut filling = Filling { lookup, broken: Vec::new(), mistakes: &mut found.compose };
    let filled = filling.root(root);
    let broken = filling.broken;
    let mut mistakes = Mistakes::new(found.compose.source());
    let read = Compose::read(&filled, &mut mistakes);
    if let Some(compose) = &read {
        super::compose::check(compose, lookup, &mut mistakes);
    }
    // A text that could not be filled in is one mistake already.
    found.compose.absorb(mistakes, &broken);
    read
}

struct Filling<'a, 's> {
    lookup: Lookup<'a>,
    /// Texts that have no value.
    broken: Vec<Extent>,
    mistakes: &'a mut Mistakes<'s>,
}

impl Filling<'_, '_> {
    fn root(&mut self, root: &Node) -> Node {
        map(root, |key, node| match key {
            "services" => map(node, |_, service| self.service(service)),
            _ => self.by_environment(node),
        })
    }

    fn service(&mut self, service: &Node) -> Node {
        map(service, |key, node| match key {
            // Filled in when it is deployed.
            "environment" => node.clone(),
            "deploy" => map(node, |key, node| match OF_DEPLOY.contains(&key) {
                true => self.by_environment(node),
                false => self.fixed(node),
            }),
            key if FIXED.contains(&key) => self.fixed(node),
            _ => self.by_environment(node),
        })
    }

    /// What is missing is told with the names of environments, by `settings::values`.
    fn by_environment(&mut self, node: &Node) -> Node {
        let (broken, mistakes) = (&mut self.broken, &mut *self.mistakes);
        tree::filled(node, self.lookup, &mut |unfilled, extent| {
            if let Unfilled::Error(error) = unfilled {
                broken.push(extent);
                if let InterpolationError::Invalid { .. } = error {
                    invalid(error, extent, mistakes);
                }
            }
        })
    }

    fn fixed(&mut self, node: &Node) -> Node {
        let (broken, mistakes) = (&mut self.broken, &mut *self.mistakes);
        tree::filled(node, &|_| None, &mut |unfilled, extent| {
            broken.push(extent);
            match unfilled {
                Unfilled::Blank(name) => no_value(name, extent, mistakes),
                Unfilled::Error(InterpolationError::Required { name, .. }) => {
                    no_value(name, extent, mistakes);
                }
                Unfilled::Error(error) => invalid(error, extent, mistakes),
            }
        })
    }
}

/// Notes a `$` that begins no variable.
pub(super) fn invalid(error: &InterpolationError, extent: Extent, mistakes: &mut Mistakes<'_>) {
    let extent = mistakes.within(extent, error.needle());
    mistakes.add(extent, error.to_string(), error.help());
}

fn no_value(name: &str, extent: Extent, mistakes: &mut Mistakes<'_>) {
    mistakes.add(
        extent,
        format!("`{name}` has no value here, where all environments must agree"),
        format!("give it a default, like `${{{name}:-...}}`, or write the value"),
    );
}

/// A mapping with other values; anything else as it is.
fn map(node: &Node, mut change: impl FnMut(&str, &Node) -> Node) -> Node {
    let Value::Map(entries) = &node.value else { return node.clone() };
    let entries = entries.iter().map(|(key, node)| (key.clone(), change(&key.text, node)));
    Node { value: Value::Map(entries.collect()), ..node.clone() }
}

/// The value of a key.
pub(super) fn child<'n>(node: &'n Node, name: &str) -> Option<&'n Node> {
    let Value::Map(entries) = &node.value else { return None };
    entries.iter().find(|(key, _)| key.text == name).map(|(_, node)| node)
}

/// What of a service, as it is written, says how its container is run.
pub(super) fn of_container(service: &Node) -> Node {
    let Value::Map(entries) = &service.value else { return service.clone() };
    let kept = |(key, node): &(Key, Node)| {
        let name = key.text.as_str();
        if name == "deploy" {
            return Some((key.clone(), only(node, &OF_DEPLOY)));
        }
        let other =
            FIXED.contains(&name) || NOT_OF_CONTAINERS.contains(&name) || name.starts_with("x-");
        (!other).then(|| (key.clone(), node.clone()))
    };
    Node { value: Value::Map(entries.iter().filter_map(kept).collect()), ..service.clone() }
}

/// A mapping with these keys alone.
pub(super) fn only(node: &Node, names: &[&str]) -> Node {
    let Value::Map(entries) = &node.value else { return node.clone() };
    let kept = entries.iter().filter(|(key, _)| names.contains(&key.text.as_str()));
    Node { value: Value::Map(kept.cloned().collect()), ..node.clone() }
}
