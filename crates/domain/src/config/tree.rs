//! Trees of YAML as values: written down and read again, and filled in with the values of variables.

use serde_json::Value as Json;

use super::env_file::Lookup;
use super::interpolation::{InterpolationError, Template};
use super::mistake::{Extent, Mistakes};
use super::yaml::{Key, Kind, Node, Value};

/// What a variable without a value and without a way around becomes.
pub(super) enum Blank<'a> {
    /// Empty text, as in Compose.
    Empty,
    /// Empty text, and somebody is told its name and where it stands.
    Told(&'a mut dyn FnMut(&str, Extent)),
    /// A mistake: the value must be the same in all environments.
    Mistake,
}

/// The tree with the values of variables in all of its texts; keys are never interpolated.
pub(super) fn interpolated(
    node: &Node,
    lookup: Lookup<'_>,
    blank: &mut Blank<'_>,
    mistakes: &mut Mistakes<'_>,
) -> Node {
    let value = match &node.value {
        Value::Null => Value::Null,
        Value::Scalar { text, kind } => {
            let text = filled(text, node.extent, lookup, blank, mistakes);
            Value::Scalar { text, kind: *kind }
        }
        Value::List(items) => Value::List(
            items.iter().map(|item| interpolated(item, lookup, blank, mistakes)).collect(),
        ),
        Value::Map(entries) => {
            let mut entry = |(key, node): &(Key, Node)| {
                (key.clone(), interpolated(node, lookup, blank, mistakes))
            };
            Value::Map(entries.iter().map(&mut entry).collect())
        }
    };
    Node { value, ..node.clone() }
}

fn filled(
    text: &str,
    extent: Extent,
    lookup: Lookup<'_>,
    blank: &mut Blank<'_>,
    mistakes: &mut Mistakes<'_>,
) -> String {
    if !text.contains('$') {
        return text.to_owned();
    }
    let mut missing = Vec::new();
    let resolved = Template::parse(text)
        .and_then(|template| template.resolve(lookup, &mut |name| missing.push(name.to_owned())));
    for name in missing {
        match blank {
            Blank::Empty => {}
            Blank::Told(told) => told(&name, extent),
            Blank::Mistake => no_value(&name, extent, mistakes),
        }
    }
    match (resolved, blank) {
        (Ok(text), _) => text,
        (Err(InterpolationError::Required { name, .. }), Blank::Mistake) => {
            no_value(&name, extent, mistakes);
            String::new()
        }
        (Err(error), _) => {
            let extent = mistakes.within(extent, error.needle());
            mistakes.add(extent, error.to_string(), error.help());
            String::new()
        }
    }
}

fn no_value(name: &str, extent: Extent, mistakes: &mut Mistakes<'_>) {
    mistakes.add(
        extent,
        format!("`{name}` has no value here, where all environments must agree"),
        format!("give it a default, like `${{{name}:-...}}`, or write the value"),
    );
}

/// The tree without its places. Every scalar becomes text: readers of Compose take numbers and truth from text.
pub(super) fn to_json(node: &Node) -> Json {
    match &node.value {
        Value::Null => Json::Null,
        Value::Scalar { text, .. } => Json::String(text.clone()),
        Value::List(items) => items.iter().map(to_json).collect(),
        Value::Map(entries) => Json::Object(
            entries.iter().map(|(key, node)| (key.text.clone(), to_json(node))).collect(),
        ),
    }
}

/// The tree again, with no places.
pub(super) fn from_json(json: &Json) -> Node {
    let value = match json {
        Json::Null => Value::Null,
        Json::String(text) => Value::Scalar { text: text.clone(), kind: Kind::Text },
        Json::Array(items) => Value::List(items.iter().map(from_json).collect()),
        Json::Object(entries) => Value::Map(entries.iter().map(entry).collect()),
        Json::Bool(_) | Json::Number(_) => {
            Value::Scalar { text: json.to_string(), kind: Kind::Text }
        }
    };
    Node { extent: Extent::default(), key: None, value }
}

fn entry((name, json): (&String, &Json)) -> (Key, Node) {
    let key = Key { text: name.clone(), extent: Extent::default() };
    (key.clone(), Node { key: Some(key), ..from_json(json) })
}
