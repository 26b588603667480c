//! From the YAML tree to types: readers that note every mistake and go on.
//!
//! `mapping!` makes one type from one list of keys: its fields, its reader and its JSON Schema.

use std::borrow::Cow;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

use super::mistake::{Extent, Mistakes, did_you_mean, listed, nearest};
use super::yaml::{Key, Kind, Node, Value};
use crate::id::NameError;
use crate::units::{Factor, Percent, Rate, Size, Span, UnitError};
use crate::{AppName, Date, EnvironmentName, ServiceName, StepName};

/// Wrappers that a file does not show.
macro_rules! same_schema {
    ($($wrapper:ident),*) => {
        $(impl<T: JsonSchema> JsonSchema for $wrapper<T> {
            fn inline_schema() -> bool {
                T::inline_schema()
            }
            fn schema_name() -> Cow<'static, str> {
                T::schema_name()
            }
            fn json_schema(generator: &mut SchemaGenerator) -> Schema {
                T::json_schema(generator)
            }
        })*
    };
}

/// A type that can be read from a node.
pub(super) trait FromNode: Sized {
    /// Reads `node`; `None` if it could not be, and then the mistake is noted.
    fn read(node: &Node, mistakes: &mut Mistakes<'_>) -> Option<Self>;

    /// What stands for a key that is not there. One that must be there calls `missing`.
    fn absent(missing: &mut dyn FnMut()) -> Option<Self> {
        missing();
        None
    }
}

impl<T: FromNode> FromNode for Option<T> {
    /// A mistake in a part that may be left out does not hide the rest.
    fn read(node: &Node, mistakes: &mut Mistakes<'_>) -> Option<Self> {
        Some(T::read(node, mistakes))
    }

    fn absent(_: &mut dyn FnMut()) -> Option<Self> {
        Some(None)
    }
}

/// A part that must be there, and whose absence does not hide other mistakes.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Need<T>(pub Option<T>);

impl<T: FromNode> FromNode for Need<T> {
    fn read(node: &Node, mistakes: &mut Mistakes<'_>) -> Option<Self> {
        Some(Self(T::read(node, mistakes)))
    }

    fn absent(missing: &mut dyn FnMut()) -> Option<Self> {
        missing();
        Some(Self(None))
    }
}

same_schema!(Need, At);

/// A value and where it stands.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct At<T> {
    pub value: T,
    pub extent: Extent,
    /// The key it is the value of, or itself.
    pub title: Extent,
}

impl<T: FromNode> FromNode for At<T> {
    fn read(node: &Node, mistakes: &mut Mistakes<'_>) -> Option<Self> {
        let value = T::read(node, mistakes)?;
        Some(Self { value, extent: node.extent, title: node.title() })
    }
}

impl<T: FromNode> FromNode for Vec<T> {
    fn read(node: &Node, mistakes: &mut Mistakes<'_>) -> Option<Self> {
        let Value::List(items) = &node.value else {
            wrong(node, mistakes, "a list", "write `[a, b]`, or one value in each line after `- `");
            return None;
        };
        Some(items.iter().filter_map(|item| T::read(item, mistakes)).collect())
    }
}

/// A mapping with names of the user's own. A value that could not be read keeps its name.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Map<T>(pub Vec<(Key, Option<T>)>);

impl<T> Map<T> {
    pub fn get(&self, name: &str) -> Option<&T> {
        self.iter().find(|(key, _)| key.text == name).map(|(_, value)| value)
    }

    pub fn has(&self, name: &str) -> bool {
        self.0.iter().any(|(key, _)| key.text == name)
    }

    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|(key, _)| key.text.as_str())
    }

    /// The entries that could be read.
    pub fn iter(&self) -> impl Iterator<Item = (&Key, &T)> {
        self.0.iter().filter_map(|(key, value)| Some((key, value.as_ref()?)))
    }
}

impl<T> Default for Map<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T: FromNode> FromNode for Map<T> {
    fn read(node: &Node, mistakes: &mut Mistakes<'_>) -> Option<Self> {
        let Value::Map(entries) = &node.value else {
            wrong(node, mistakes, "a mapping", "write `name: value` in the lines below it");
            return None;
        };
        let read = |(key, node): &(Key, Node)| (key.clone(), T::read(node, mistakes));
        Some(Self(entries.iter().map(read).collect()))
    }
}

impl<T: JsonSchema> JsonSchema for Map<T> {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> Cow<'static, str> {
        format!("MapOf{}", T::schema_name()).into()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let value = generator.subschema_for::<T>();
        json_schema!({ "type": "object", "additionalProperties": value })
    }
}

/// Notes that `node` is not what was expected.
pub(super) fn wrong(node: &Node, mistakes: &mut Mistakes<'_>, expected: &str, help: &str) {
    let (what, extent) = match &node.key {
        Some(key) => (format!("`{}`", key.text), node.extent),
        None => ("this".into(), node.extent),
    };
    let extent = if node.value == Value::Null { node.title() } else { extent };
    mistakes.add(extent, format!("{what} must be {expected}, it is {}", node.describe()), help);
}

impl FromNode for String {
    fn read(node: &Node, mistakes: &mut Mistakes<'_>) -> Option<Self> {
        match &node.value {
            Value::Scalar { text, kind: Kind::Text } if text.trim().is_empty() => {
                wrong_empty(node, mistakes);
                None
            }
            Value::Scalar { text, kind: Kind::Text } => Some(text.clone()),
            Value::Scalar { text, .. } => {
                wrong(node, mistakes, "text", &format!("put it in quotes: `\"{text}\"`"));
                None
            }
            Value::Null => {
                wrong(node, mistakes, "text", "write a value after it, or remove the key");
                None
            }
            _ => {
                wrong(node, mistakes, "text", "write one value in the same line");
                None
            }
        }
    }
}

fn wrong_empty(node: &Node, mistakes: &mut Mistakes<'_>) {
    let what = node.key.as_ref().map_or("this text".into(), |key| format!("`{}`", key.text));
    mistakes.add(node.extent, format!("{what} is empty"), "write a value, or remove the key");
}

impl FromNode for bool {
    fn read(node: &Node, mistakes: &mut Mistakes<'_>) -> Option<Self> {
        match &node.value {
            Value::Scalar { text, kind: Kind::Bool } => Some(text.eq_ignore_ascii_case("true")),
            _ => {
                wrong(
                    node,
                    mistakes,
                    "`true` or `false`",
                    "write `true` or `false`, without quotes",
                );
                None
            }
        }
    }
}

impl FromNode for u32 {
    fn read(node: &Node, mistakes: &mut Mistakes<'_>) -> Option<Self> {
        let number = match &node.value {
            Value::Scalar { text, kind: Kind::Number } => text.parse().ok(),
            _ => None,
        };
        if number.is_none() {
            wrong(node, mistakes, "a whole number", "write a whole number from 0 up, like `2`");
        }
        number
    }
}

/// A value that Compose takes as text although YAML may see a number or a truth value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Loose(pub String);

impl FromNode for Loose {
    fn read(node: &Node, mistakes: &mut Mistakes<'_>) -> Option<Self> {
        match &node.value {
            Value::Scalar { text, .. } => Some(Self(text.clone())),
            Value::Null => {
                let help = "write a value; `\"\"` is empty text. Nothing is taken from the shell";
                wrong(node, mistakes, "text or a number", help);
                None
            }
            _ => {
                wrong(node, mistakes, "text or a number", "write one value in the same line");
                None
            }
        }
    }
}

impl JsonSchema for Loose {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> Cow<'static, str> {
        "TextOrNumber".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": ["string", "number", "boolean"] })
    }
}

/// Any node: for parts whose inside does not matter here.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Any(pub Node);

impl FromNode for Any {
    fn read(node: &Node, _: &mut Mistakes<'_>) -> Option<Self> {
        Some(Self(node.clone()))
    }
}

/// Why a text is not a value, in the two sentences of a mistake.
pub(super) trait Explain {
    fn explain(&self) -> (String, String);
}

impl Explain for NameError {
    fn explain(&self) -> (String, String) {
        (format!("`{}` is not a valid {}", self.text, self.kind), self.rule.into())
    }
}

impl Explain for UnitError {
    fn explain(&self) -> (String, String) {
        (
            format!("`{}` is not a {}", self.text, self.kind),
            format!("write it like {}", self.example),
        )
    }
}

/// Reads a value from text, whether YAML saw a number or not: a bare number gets the unit's help.
fn parsed<T: FromStr<Err = E>, E: Explain>(
    node: &Node,
    numbers: bool,
    mistakes: &mut Mistakes<'_>,
) -> Option<T> {
    let text = match &node.value {
        Value::Scalar { text, kind } if *kind == Kind::Text || numbers => text.clone(),
        _ => String::read(node, mistakes)?,
    };
    match text.parse() {
        Ok(value) => Some(value),
        Err(error) => {
            let (message, help) = error.explain();
            mistakes.add(node.extent, message, help);
            None
        }
    }
}

macro_rules! parsed {
    ($($type:ty: $numbers:literal),*) => {
        $(impl FromNode for $type {
            fn read(node: &Node, mistakes: &mut Mistakes<'_>) -> Option<Self> {
                parsed(node, $numbers, mistakes)
            }
        })*
    };
}
parsed!(AppName: false, EnvironmentName: false, ServiceName: false, StepName: false);
parsed!(Span: true, Rate: true, Percent: true, Factor: true, Size: true, Date: true);

/// A type whose values are a few words.
macro_rules! words {
    ($($type:ty: $($word:literal => $value:expr),* ; $($refused:literal => $why:literal),*;)*) => {
        $(impl FromNode for $type {
            fn read(node: &Node, mistakes: &mut Mistakes<'_>) -> Option<Self> {
                const WORDS: &[&str] = &[$($word),*];
                if let $crate::config::yaml::Value::Scalar { text, .. } = &node.value {
                    $(if text == $word { return Some($value); })*
                    $(if text == $refused {
                        mistakes.add(node.extent, concat!("`", $refused, "` is not supported yet by this version"), $why);
                        return None;
                    })*
                }
                $crate::config::reader::wrong_word(node, WORDS, mistakes);
                None
            }
        })*
    };
}
pub(super) use words;

pub(super) fn wrong_word(node: &Node, words: &[&str], mistakes: &mut Mistakes<'_>) {
    let all = || format!("write {}", listed(words.iter().copied()).replace(" and ", " or "));
    let Value::Scalar { text, .. } = &node.value else {
        return wrong(node, mistakes, "a word", &all());
    };
    let what = node.key.as_ref().map_or("this".into(), |key| format!("`{}`", key.text));
    let help = did_you_mean(text, words.iter().copied(), all);
    mistakes.add(node.extent, format!("{what} cannot be `{text}`"), help);
}

/// The keys of a mapping while they are being read.
pub(super) struct Keys<'n> {
    pub node: &'n Node,
    pub entries: &'n [(Key, Node)],
    pub what: &'static str,
    pub known: &'static [&'static str],
    /// Known and not supported, with the way out.
    pub refused: &'static [(&'static str, &'static str)],
}

/// The entries of a node that must be a mapping with fixed keys.
pub(super) fn entries<'n>(
    node: &'n Node,
    mistakes: &mut Mistakes<'_>,
) -> Option<&'n [(Key, Node)]> {
    let help = match &node.value {
        Value::Map(entries) => return Some(entries),
        Value::Null => "write its keys below it, `{}` for the defaults, or remove it",
        _ => "write `key: value` in the lines below it",
    };
    wrong(node, mistakes, "a mapping", help);
    None
}

impl Keys<'_> {
    pub fn field<T: FromNode>(&self, name: &str, mistakes: &mut Mistakes<'_>) -> Option<T> {
        if let Some((_, node)) = self.entries.iter().find(|(key, _)| key.text == name) {
            return T::read(node, mistakes);
        }
        T::absent(&mut || {
            if self.instead_of(name) {
                return;
            }
            let message = format!("{} needs `{name}`, which is missing", self.what);
            mistakes.add(self.node.title(), message, format!("add `{name}: ...` to it"));
        })
    }

    /// Notes the keys that nobody asked for.
    pub fn finish(self, mistakes: &mut Mistakes<'_>) {
        for (key, _) in self.entries {
            let name = key.text.as_str();
            if self.is_known(name) {
                continue;
            }
            if let Some((_, way_out)) = self.refused.iter().find(|(other, _)| *other == name) {
                let message = format!("`{name}` is not supported yet by this version");
                mistakes.add(key.extent, message, *way_out);
                continue;
            }
            let known = || self.known.iter().copied().filter(|name| *name != "x-");
            let all = || format!("its keys are {}", listed(known()));
            let help = did_you_mean(name, known(), all);
            mistakes.add(key.extent, format!("{} has no key `{name}`", self.what), help);
        }
    }

    fn is_known(&self, name: &str) -> bool {
        self.known.contains(&name) || (self.known.contains(&"x-") && name.starts_with("x-"))
    }

    /// Whether a key that is a mistake of its own was probably meant to be `name`: one mistake is enough.
    fn instead_of(&self, name: &str) -> bool {
        self.entries.iter().map(|(key, _)| key.text.as_str()).filter(|key| !self.is_known(key)).any(
            |key| {
                self.refused.iter().any(|(refused, _)| *refused == key)
                    || nearest(key, self.known.iter().copied()) == Some(name)
            },
        )
    }
}

/// A mapping with fixed keys, its reader and its JSON Schema. `allow` names keys that are read and have
/// no field; `refuse` names keys that are known and not supported, with the way out.
macro_rules! mapping {
    (
        $(#[doc = $doc:literal])*
        $name:ident, $what:literal {
            $( $(#[doc = $field_doc:literal])* $key:literal $field:ident: $type:ty, )*
        }
        $($rest:tt)*
    ) => {
        $(#[doc = $doc])*
        #[derive(Debug, Clone, PartialEq, schemars::JsonSchema)]
        #[schemars(deny_unknown_fields)]
        pub(super) struct $name {
            $( $(#[doc = $field_doc])* #[schemars(rename = $key)] pub $field: $type, )*
        }
        $crate::config::reader::read_mapping!($name, $what { $($key $field: $type,)* } $($rest)*);
    };
}
pub(super) use mapping;

/// [`mapping!`] without a JSON Schema: for the Compose file, which has one of its own.
macro_rules! foreign_mapping {
    (
        $(#[doc = $doc:literal])*
        $name:ident, $what:literal {
            $( $(#[doc = $field_doc:literal])* $key:literal $field:ident: $type:ty, )*
        }
        $($rest:tt)*
    ) => {
        $(#[doc = $doc])*
        #[derive(Debug, Clone, PartialEq)]
        pub(in crate::config) struct $name {
            $( $(#[doc = $field_doc])* pub $field: $type, )*
        }
        $crate::config::reader::read_mapping!($name, $what { $($key $field: $type,)* } $($rest)*);
    };
}
pub(super) use foreign_mapping;

macro_rules! read_mapping {
    (
        $name:ident, $what:literal { $( $key:literal $field:ident: $type:ty, )* }
        $(allow { $($allowed:literal),* $(,)? })?
        $(refuse { $($refused:literal => $way_out:expr),* $(,)? })?
    ) => {
        impl $crate::config::reader::FromNode for $name {
            fn read(
                node: &$crate::config::yaml::Node,
                mistakes: &mut $crate::config::mistake::Mistakes<'_>,
            ) -> Option<Self> {
                let keys = $crate::config::reader::Keys {
                    node,
                    entries: $crate::config::reader::entries(node, mistakes)?,
                    what: $what,
                    known: &[$($key,)* $($($allowed,)*)?],
                    refused: &[$($(($refused, $way_out),)*)?],
                };
                $( let $field = keys.field::<$type>($key, mistakes); )*
                keys.finish(mistakes);
                Some(Self { $( $field: $field?, )* })
            }
        }
    };
}
pub(super) use read_mapping;
