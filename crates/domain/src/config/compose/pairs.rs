//! Names with values, as a mapping or as a list of `NAME=value`: environment, labels, arguments, host names.

use std::collections::BTreeMap;

use crate::config::mistake::Mistakes;
use crate::config::reader::{At, FromNode, Map, wrong};
use crate::config::yaml::{Key, Kind, Node, Value};

use super::scalars::{Maybe, Text};

/// `environment`, `args` of a build, `labels`, `sysctls`: a value may be missing.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::config) struct Pairs(pub Vec<(Key, At<Option<String>>)>);

impl FromNode for Pairs {
    fn read(node: &Node, mistakes: &mut Mistakes<'_>) -> Option<Self> {
        if let Value::List(items) = &node.value {
            return Some(Self(items.iter().filter_map(|item| pair(item, mistakes)).collect()));
        }
        let map = Map::<At<Maybe<Text>>>::read(node, mistakes)?;
        let value = |at: &At<Maybe<Text>>| At {
            value: at.value.0.as_ref().map(|text| text.0.clone()),
            extent: at.extent,
            title: at.title,
        };
        Some(Self(map.iter().map(|(key, at)| (key.clone(), value(at))).collect()))
    }
}

fn pair(item: &Node, mistakes: &mut Mistakes<'_>) -> Option<(Key, At<Option<String>>)> {
    let Value::Scalar { text, kind: Kind::Text } = &item.value else {
        wrong(item, mistakes, "text like `NAME=value`", "write `NAME=value`, in quotes");
        return None;
    };
    let (name, value) = match text.split_once('=') {
        Some((name, value)) => (name, Some(value.to_owned())),
        None => (text.as_str(), None),
    };
    let key = Key { text: name.into(), extent: item.extent };
    Some((key, At { value, extent: item.extent, title: item.extent }))
}

/// Labels of a container, an image, a network or a volume.
#[derive(Debug, Clone, PartialEq, Default)]
pub(in crate::config) struct Labels(pub BTreeMap<String, String>);

/// What Launchway marks its own things with.
const OURS: &str = "dev.launchway.";

impl FromNode for Labels {
    fn read(node: &Node, mistakes: &mut Mistakes<'_>) -> Option<Self> {
        let Pairs(pairs) = Pairs::read(node, mistakes)?;
        for (key, _) in pairs.iter().filter(|(key, _)| key.text.starts_with(OURS)) {
            let message = format!("the label `{}` is Launchway's own", key.text);
            mistakes.add(key.extent, message, "give it another name");
        }
        let label = |(key, at): (Key, At<Option<String>>)| (key.text, at.value.unwrap_or_default());
        Some(Self(pairs.into_iter().map(label).collect()))
    }
}

/// `extra_hosts`: `name:address`, `name=address`, or a mapping.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::config) struct Hosts(pub Vec<(String, String)>);

impl FromNode for Hosts {
    fn read(node: &Node, mistakes: &mut Mistakes<'_>) -> Option<Self> {
        let mut hosts = Vec::new();
        match &node.value {
            Value::List(items) => {
                for item in items {
                    let Some(Text(text)) = Text::read(item, mistakes) else { continue };
                    match text.split_once('=').or_else(|| text.split_once(':')) {
                        Some((name, address)) => host(name, address, item, mistakes, &mut hosts),
                        None => no_address(&text, item, mistakes),
                    }
                }
            }
            _ => {
                for (key, address) in Map::<At<Text>>::read(node, mistakes)?.iter() {
                    let place = Node { extent: address.extent, ..node.clone() };
                    host(&key.text, &address.value.0, &place, mistakes, &mut hosts);
                }
            }
        }
        Some(Self(hosts))
    }
}

fn host(
    name: &str,
    address: &str,
    place: &Node,
    mistakes: &mut Mistakes<'_>,
    hosts: &mut Vec<(String, String)>,
) {
    let (name, address) = (name.trim(), address.trim());
    let plain =
        address.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(address);
    if name.is_empty() || (plain != "host-gateway" && plain.parse::<std::net::IpAddr>().is_err()) {
        return no_address(address, place, mistakes);
    }
    hosts.push((name.into(), plain.into()));
}

fn no_address(text: &str, place: &Node, mistakes: &mut Mistakes<'_>) {
    let message = format!("`{text}` is not the address of a host");
    mistakes.add(
        place.extent,
        message,
        "write it like `db.internal:10.0.0.5` or `docker:host-gateway`",
    );
}
