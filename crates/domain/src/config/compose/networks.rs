//! Networks and volumes of the file, and which networks a service is in.

use std::collections::BTreeMap;

use crate::config::composition::{Network, Volume};
use crate::config::mistake::Mistakes;
use crate::config::reader::{At, FromNode, Map, foreign_mapping, wrong};
use crate::config::yaml::{Key, Node, Value};
use crate::container::Attachment;

use super::pairs::{Labels, Pairs};
use super::scalars::{Maybe, Text, Truth};

foreign_mapping! {
    /// A top-level network.
    TopNetwork, "a network" {
        "name" name: Option<At<Text>>,
        "external" external: Option<At<External>>,
        "internal" internal: Option<At<Truth>>,
        "driver" driver: Option<Bridge>,
        "labels" labels: Option<Labels>,
    }
    allow { "attachable", "x-" }
    refuse {
        "driver_opts" => "remove it: networks are plain bridges",
        "ipam" => "remove it: addresses are given by the engine, services find each other by name",
        "enable_ipv4" => "remove it",
        "enable_ipv6" => "remove it",
    }
}

foreign_mapping! {
    /// A top-level volume.
    TopVolume, "a volume" {
        "name" name: Option<At<Text>>,
        "external" external: Option<At<External>>,
        "driver" driver: Option<Local>,
        "driver_opts" options: Option<At<Pairs>>,
        "labels" labels: Option<Labels>,
    }
    allow { "x-" }
}

/// `external: true`, or the older `external: { name: ... }`.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::config) struct External {
    pub is: bool,
    pub name: Option<String>,
}

foreign_mapping! {
    /// The older form.
    Older, "`external`" {
        "name" name: Option<At<Text>>,
    }
}

impl FromNode for External {
    fn read(node: &Node, mistakes: &mut Mistakes<'_>) -> Option<Self> {
        if let Value::Map(_) = node.value {
            let older = Older::read(node, mistakes)?;
            return Some(Self { is: true, name: older.name.map(|at| at.value.0) });
        }
        Truth::read(node, mistakes).map(|truth| Self { is: truth.0, name: None })
    }
}

/// The driver of a network: a bridge.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::config) struct Bridge;

impl FromNode for Bridge {
    fn read(node: &Node, mistakes: &mut Mistakes<'_>) -> Option<Self> {
        let known = ["bridge", "default", ""];
        driver(node, "network", &known, "remove it: networks are plain bridges", mistakes)?;
        Some(Self)
    }
}

/// The driver of a volume: this machine.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::config) struct Local;

impl FromNode for Local {
    fn read(node: &Node, mistakes: &mut Mistakes<'_>) -> Option<Self> {
        driver(
            node,
            "volume",
            &["local", "default", ""],
            "remove it: volumes are on this machine",
            mistakes,
        )?;
        Some(Self)
    }
}

fn driver(
    node: &Node,
    what: &str,
    known: &[&str],
    help: &str,
    mistakes: &mut Mistakes<'_>,
) -> Option<()> {
    let Text(text) = Text::read(node, mistakes)?;
    if known.contains(&text.as_str()) {
        return Some(());
    }
    mistakes.add(node.extent, format!("the {what} driver `{text}` is not supported"), help);
    None
}

/// A network as the file defines it, and where.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::config) struct Defined<T> {
    pub key: Key,
    pub value: T,
}

/// The networks of the file by name.
pub(super) fn networks(map: Option<&Map<Maybe<TopNetwork>>>) -> BTreeMap<String, Defined<Network>> {
    let mut all = BTreeMap::new();
    for (key, top) in map.into_iter().flat_map(Map::iter) {
        let value = top.0.as_ref().map(|top| network(key, top)).unwrap_or_default();
        all.insert(key.text.clone(), Defined { key: key.clone(), value });
    }
    all
}

fn network(key: &Key, top: &TopNetwork) -> Network {
    let (external, name) = real_name(key, top.external.as_ref(), top.name.as_ref());
    Network {
        name,
        external,
        internal: top.internal.as_ref().is_some_and(|at| at.value.0),
        labels: top.labels.clone().map(|labels| labels.0).unwrap_or_default(),
    }
}

/// The volumes of the file by name.
pub(super) fn volumes(map: Option<&Map<Maybe<TopVolume>>>) -> BTreeMap<String, Defined<Volume>> {
    let mut all = BTreeMap::new();
    for (key, top) in map.into_iter().flat_map(Map::iter) {
        let value = top.0.as_ref().map(|top| volume(key, top)).unwrap_or_default();
        all.insert(key.text.clone(), Defined { key: key.clone(), value });
    }
    all
}

fn volume(key: &Key, top: &TopVolume) -> Volume {
    let options = top.options.iter().flat_map(|options| &options.value.0);
    let options = options.map(|(key, at)| (key.text.clone(), at.value.clone().unwrap_or_default()));
    let (external, name) = real_name(key, top.external.as_ref(), top.name.as_ref());
    Volume {
        name,
        external,
        options: options.collect(),
        labels: top.labels.clone().map(|labels| labels.0).unwrap_or_default(),
    }
}

/// Whether it exists already, and its name outside of the file: one that exists is called like its key.
fn real_name(
    key: &Key,
    external: Option<&At<External>>,
    name: Option<&At<Text>>,
) -> (bool, Option<String>) {
    let name = name.map(|at| at.value.0.clone());
    match external.map(|at| &at.value) {
        Some(external) if external.is => {
            let name = name.or_else(|| external.name.clone());
            (true, Some(name.unwrap_or_else(|| key.text.clone())))
        }
        _ => (false, name),
    }
}

/// `networks` of a service: a list of names, or a mapping.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::config) struct Networks(pub Vec<(Key, Attachment)>);

foreign_mapping! {
    /// How a service is in a network.
    In, "a network of a service" {
        "aliases" aliases: Option<Vec<Text>>,
    }
    allow { "x-" }
    refuse {
        "ipv4_address" => "remove it: services find each other by name",
        "ipv6_address" => "remove it: services find each other by name",
        "link_local_ips" => "remove it",
        "mac_address" => "remove it",
        "driver_opts" => "remove it",
        "interface_name" => "remove it",
        "gw_priority" => "remove it",
        "priority" => "remove it: the order of networks is not kept",
    }
}

impl FromNode for Networks {
    fn read(node: &Node, mistakes: &mut Mistakes<'_>) -> Option<Self> {
        match &node.value {
            Value::List(_) => {
                let names: Vec<At<Text>> = Vec::read(node, mistakes)?;
                let entry = |at: At<Text>| {
                    (Key { text: at.value.0, extent: at.extent }, Attachment::default())
                };
                Some(Self(names.into_iter().map(entry).collect()))
            }
            Value::Map(_) => {
                let map = Map::<Maybe<In>>::read(node, mistakes)?;
                let entry = |(key, within): (&Key, &Maybe<In>)| {
                    let aliases = within.0.iter().flat_map(|within| &within.aliases).flatten();
                    let aliases = aliases.map(|text| text.0.clone()).collect();
                    (key.clone(), Attachment { aliases })
                };
                Some(Self(map.iter().map(entry).collect()))
            }
            _ => {
                wrong(node, mistakes, "a list or a mapping", "write `[frontend, backend]`");
                None
            }
        }
    }
}
