//! Trees of YAML as values: written down and read again, and filled in with the values of variables.

use serde_json::Value as Json;

use super::compose::{mode_of, text_of};
use super::env_file::Lookup;
use super::interpolation::{InterpolationError, Template};
use super::mistake::Extent;
use super::yaml::{Key, Kind, Node, Value};

/// Something about the variables of one text.
pub(super) enum Unfilled<'a> {
    /// A variable without a value and without a way around: it became empty text.
    Blank(&'a str),
    /// The text has no value at all, and stays as it is written.
    Error(&'a InterpolationError),
}

/// Takes what there is to say about the text at this place.
pub(super) type Told<'a> = &'a mut dyn FnMut(Unfilled<'_>, Extent);

/// The tree with the values of variables in all of its texts; keys are never interpolated.
pub(super) fn filled(node: &Node, lookup: Lookup<'_>, told: Told<'_>) -> Node {
    let value = match &node.value {
        Value::Null => Value::Null,
        Value::Scalar { text, kind } => {
            Value::Scalar { text: fill(text, node.extent, lookup, told), kind: *kind }
        }
        Value::List(items) => {
            Value::List(items.iter().map(|item| filled(item, lookup, told)).collect())
        }
        Value::Map(entries) => {
            let mut entry = |(key, node): &(Key, Node)| (key.clone(), filled(node, lookup, told));
            Value::Map(entries.iter().map(&mut entry).collect())
        }
    };
    Node { value, ..node.clone() }
}

fn fill(text: &str, extent: Extent, lookup: Lookup<'_>, told: Told<'_>) -> String {
    if !text.contains('$') {
        return text.to_owned();
    }
    let mut blank = |name: &str| told(Unfilled::Blank(name), extent);
    match Template::parse(text).and_then(|template| template.resolve(lookup, &mut blank)) {
        Ok(text) => text,
        Err(error) => {
            told(Unfilled::Error(&error), extent);
            text.to_owned()
        }
    }
}

/// The tree without its places. Every scalar becomes text: readers of Compose take numbers and truth from text.
pub(super) fn to_json(node: &Node) -> Json {
    match &node.value {
        Value::Null => Json::Null,
        Value::Scalar { text, kind: Kind::Text } => Json::String(text.clone()),
        Value::Scalar { text: written, .. } => {
            let mode =
                || mode_of(node).filter(|_| node.key.as_ref().is_some_and(|k| k.text == "mode"));
            let text = mode().map(|mode| format!("{mode:04o}")).or_else(|| text_of(node));
            Json::String(text.unwrap_or_else(|| written.clone()))
        }
        Value::List(items) => items.iter().map(to_json).collect(),
        Value::Map(entries) => {
            let entry = |(key, node): &(Key, Node)| (key.text.clone(), to_json(node));
            Json::Object(entries.iter().map(entry).collect())
        }
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
