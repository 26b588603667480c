//! Secrets and configs: what the file defines, and which of them a service or a build is given.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::config::env_file::Lookup;
use crate::config::mistake::{Extent, Mistakes, did_you_mean, listed};
use crate::config::project::SecretSource;
use crate::config::reader::{At, FromNode, Map, foreign_mapping};
use crate::config::yaml::{Key, Node, Value};
use crate::container::{Mount, Source};

use super::scalars::{Count, Mode, Text, Truth, text_of};

foreign_mapping! {
    /// A top-level secret or config.
    Definition, "a secret or config" {
        "file" file: Option<At<Text>>,
        "environment" environment: Option<At<Text>>,
        "content" content: Option<At<Text>>,
        "external" external: Option<At<Truth>>,
    }
    allow { "name", "labels", "x-" }
    refuse {
        "driver" => "remove it: only `file`, `environment` and `content` are supported",
        "template_driver" => "remove it",
    }
}

/// The secrets and configs of a Compose file, by name.
#[derive(Debug, Clone, PartialEq, Default)]
pub(in crate::config) struct Files {
    pub secrets: Defined,
    pub configs: Defined,
}

/// Those of one kind, where they come from.
#[derive(Debug, Clone, PartialEq, Default)]
pub(in crate::config) struct Defined(pub BTreeMap<String, Option<Origin>>);

/// Where a text comes from.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::config) enum Origin {
    /// From the project's root, or absolute.
    File(String),
    Variable(String),
    Content(String),
}

impl Files {
    /// Of the two top-level parts; either may be empty.
    pub fn read(secrets: &Node, configs: &Node, mistakes: &mut Mistakes<'_>) -> Self {
        Self {
            secrets: Defined::read(secrets, false, mistakes),
            configs: Defined::read(configs, true, mistakes),
        }
    }
}

impl Defined {
    fn read(node: &Node, content: bool, mistakes: &mut Mistakes<'_>) -> Self {
        if node.value == Value::Null {
            return Self::default();
        }
        let Some(map) = Map::<Definition>::read(node, mistakes) else { return Self::default() };
        let mut all = BTreeMap::new();
        for (key, definition) in &map.0 {
            let origin = definition.as_ref().and_then(|d| origin(key, d, content, mistakes));
            all.insert(key.text.clone(), origin);
        }
        Self(all)
    }
}

fn origin(
    key: &Key,
    definition: &Definition,
    content: bool,
    mistakes: &mut Mistakes<'_>,
) -> Option<Origin> {
    let help = if content {
        "add `file: ./path`, `content:` or `environment: VARIABLE`"
    } else {
        "add `file: ./path` or `environment: VARIABLE`"
    };
    if let Some(external) = definition.external.as_ref().filter(|at| at.value.0) {
        let message = format!(
            "`{}` is external, and nothing keeps secrets or configs outside of the file",
            key.text
        );
        mistakes.add(external.title, message, help);
        return None;
    }
    if let (Some(text), false) = (&definition.content, content) {
        mistakes.add(text.title, "a secret has no `content`: the file is in the repository", help);
        return None;
    }
    let text = |at: &Option<At<Text>>| at.as_ref().map(|at| at.value.0.clone());
    let given = [
        text(&definition.file).map(Origin::File),
        text(&definition.environment).map(Origin::Variable),
        text(&definition.content).map(Origin::Content),
    ];
    let mut given = given.into_iter().flatten();
    match (given.next(), given.next()) {
        (Some(origin), None) => return Some(origin),
        (None, _) => {
            mistakes.add(key.extent, format!("nothing says where `{}` comes from", key.text), help)
        }
        (Some(_), Some(_)) => mistakes.add(
            key.extent,
            format!("`{}` comes from two places", key.text),
            "keep one of `file`, `environment` and `content`",
        ),
    }
    None
}

/// An entry of `secrets` or `configs` of a service or of a build.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::config) struct Given {
    pub source: At<String>,
    pub target: Option<String>,
    pub mode: Option<u32>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
}

foreign_mapping! {
    /// The long syntax.
    LongGiven, "a secret or config" {
        "source" source: At<String>,
        "target" target: Option<At<Text>>,
        "mode" mode: Option<Mode>,
        "uid" uid: Option<Count>,
        "gid" gid: Option<Count>,
    }
    allow { "x-" }
}

impl FromNode for Given {
    fn read(node: &Node, mistakes: &mut Mistakes<'_>) -> Option<Self> {
        if text_of(node).is_some() {
            let source = At::read(node, mistakes)?;
            return Some(Self { source, target: None, mode: None, uid: None, gid: None });
        }
        let read = LongGiven::read(node, mistakes)?;
        Some(Self {
            source: read.source,
            target: read.target.map(|at| at.value.0),
            mode: read.mode.map(|mode| mode.0),
            uid: read.uid.map(|id| id.0),
            gid: read.gid.map(|id| id.0),
        })
    }
}

/// Which of the two kinds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum What {
    Secret,
    Config,
}

impl What {
    fn word(self) -> &'static str {
        match self {
            Self::Secret => "secret",
            Self::Config => "config",
        }
    }

    /// Where it is without a `target`, and what a relative one is from.
    fn folder(self) -> &'static str {
        match self {
            Self::Secret => "/run/secrets/",
            Self::Config => "/",
        }
    }
}

/// Readable for everybody in the container, as with Compose.
const MODE: u32 = 0o444;

/// The files that a container is given.
pub(super) fn mounts(
    what: What,
    given: Option<&Vec<Given>>,
    defined: &Defined,
    lookup: Lookup<'_>,
    mistakes: &mut Mistakes<'_>,
) -> Vec<Mount> {
    let mut mounts = Vec::new();
    for given in given.into_iter().flatten() {
        let Some(origin) = find(what, &given.source, defined, mistakes) else { continue };
        let Some(source) = source(origin, given, lookup, mistakes) else { continue };
        let target = given.target.as_deref().unwrap_or(&given.source.value);
        let target = if target.starts_with('/') {
            target.to_owned()
        } else {
            format!("{}{target}", what.folder())
        };
        mounts.push(Mount { source, target, read_only: true });
    }
    mounts
}

fn find<'d>(
    what: What,
    name: &At<String>,
    defined: &'d Defined,
    mistakes: &mut Mistakes<'_>,
) -> Option<&'d Origin> {
    if let Some(origin) = defined.0.get(&name.value) {
        return origin.as_ref();
    }
    let word = what.word();
    let known = || defined.0.keys().map(String::as_str);
    let help = did_you_mean(&name.value, known(), || match defined.0.is_empty() {
        true => format!("define it in `{word}s:` of the Compose file"),
        false => format!("the {word}s of the Compose file are {}", listed(known())),
    });
    mistakes.add(name.extent, format!("there is no {word} `{}`", name.value), help);
    None
}

fn source(
    origin: &Origin,
    given: &Given,
    lookup: Lookup<'_>,
    mistakes: &mut Mistakes<'_>,
) -> Option<Source> {
    let text = match origin {
        Origin::File(path) => return Some(of_path(path)),
        Origin::Content(text) => text.clone(),
        Origin::Variable(name) => match lookup(name) {
            Some(text) => text,
            None => {
                no_value(&given.source, name, mistakes);
                return None;
            }
        },
    };
    Some(Source::Text {
        text,
        mode: Some(given.mode.unwrap_or(MODE)),
        uid: given.uid,
        gid: given.gid,
    })
}

fn no_value(source: &At<String>, variable: &str, mistakes: &mut Mistakes<'_>) {
    let message = format!("`{}` is the value of `{variable}`, which has none", source.value);
    mistakes.add(source.extent, message, format!("give `{variable}` a value"));
}

/// A file of the machine, or of the project.
fn of_path(path: &str) -> Source {
    if path.starts_with('/') {
        return Source::Host(PathBuf::from(path));
    }
    Source::Project(super::mounts::tidy(path))
}

/// Where a build reads a secret from.
pub(super) fn build_source(
    given: &Given,
    defined: &Defined,
    mistakes: &mut Mistakes<'_>,
) -> Option<SecretSource> {
    match find(What::Secret, &given.source, defined, mistakes)? {
        Origin::File(path) if path.starts_with('/') => Some(SecretSource::File(path.into())),
        Origin::File(path) => Some(SecretSource::File(super::mounts::tidy(path))),
        Origin::Variable(name) => Some(SecretSource::Variable(name.clone())),
        Origin::Content(_) => {
            let extent: Extent = given.source.extent;
            mistakes.add(extent, "a build has no use for a config", "define a secret");
            None
        }
    }
}
