//! `build`: how an image is made.

use std::collections::BTreeMap;

use crate::config::env_file::Lookup;
use crate::config::mistake::Mistakes;
use crate::config::project::{BuildOptions, BuildSecret};
use crate::config::reader::{Any, At, FromNode, foreign_mapping};
use crate::config::yaml::{Node, Value};

use super::files::{Files, Given, build_source};
use super::pairs::{Hosts, Labels, Pairs};
use super::scalars::Text;

foreign_mapping! {
    /// How the image is built, in full.
    Keys, "`build`" {
        /// The folder.
        "context" context: Option<At<String>>,
        /// The Dockerfile, from the context.
        "dockerfile" dockerfile: Option<At<String>>,
        "dockerfile_inline" inline: Option<At<String>>,
        "target" target: Option<At<Text>>,
        "args" args: Option<Pairs>,
        "secrets" secrets: Option<Vec<Given>>,
        "labels" labels: Option<Labels>,
        "extra_hosts" extra_hosts: Option<Hosts>,
        // They make it faster, and change nothing of the image.
        "cache_from" cache_from: Option<Any>,
        "cache_to" cache_to: Option<Any>,
    }
    allow { "x-" }
    refuse {
        "additional_contexts" => "keep all files inside the build context",
        "tags" => "remove it: images are tagged with the commit they are built from",
        "platforms" => "remove it: images are built for this machine",
        "pull" => "remove it: name the base image by version or digest instead",
        "no_cache" => "remove it",
        "no_cache_filter" => "remove it",
        "ssh" => "pass a key as one of `secrets`",
        "network" => "remove it",
        "privileged" => "remove it",
        "entitlements" => "remove it",
        "isolation" => "remove it",
        "shm_size" => "remove it",
        "ulimits" => "remove it",
        "provenance" => "remove it",
        "sbom" => "remove it: the scan stage makes one",
    }
}

/// `build: ./folder`, or in full.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::config) struct Build {
    pub context: Option<At<String>>,
    pub dockerfile: Option<At<String>>,
    more: Option<Box<Keys>>,
}

impl FromNode for Build {
    fn read(node: &Node, mistakes: &mut Mistakes<'_>) -> Option<Self> {
        if matches!(node.value, Value::Scalar { .. }) {
            let context = At::read(node, mistakes)?;
            return Some(Self { context: Some(context), dockerfile: None, more: None });
        }
        let keys = Keys::read(node, mistakes)?;
        if let (Some(_), Some(inline)) = (&keys.dockerfile, &keys.inline) {
            let message = "a build has one Dockerfile";
            mistakes.add(inline.title, message, "keep `dockerfile` or `dockerfile_inline`");
        }
        let (context, dockerfile) = (keys.context.clone(), keys.dockerfile.clone());
        Some(Self { context, dockerfile, more: Some(Box::new(keys)) })
    }
}

impl Build {
    /// What there is to say beside the context and the Dockerfile. An argument without a value gets that of
    /// the variable of its name, or is left out.
    pub fn options(
        &self,
        files: &Files,
        lookup: Lookup<'_>,
        mistakes: &mut Mistakes<'_>,
    ) -> BuildOptions {
        let Some(keys) = &self.more else { return BuildOptions::default() };
        BuildOptions {
            inline: keys.inline.as_ref().map(|at| at.value.clone()),
            target: keys
                .target
                .as_ref()
                .map(|at| at.value.0.clone())
                .filter(|text| !text.is_empty()),
            args: args(keys.args.as_ref(), lookup),
            secrets: secrets(keys.secrets.as_ref(), files, mistakes),
            labels: keys.labels.clone().map(|labels| labels.0).unwrap_or_default(),
            extra_hosts: keys.extra_hosts.clone().map(|hosts| hosts.0).unwrap_or_default(),
        }
    }

    /// Arguments that would be taken from the shell.
    pub fn unset_args(&self) -> impl Iterator<Item = (&str, crate::config::mistake::Extent)> {
        let args = self.more.iter().flat_map(|keys| &keys.args).flat_map(|args| &args.0);
        args.filter(|(_, at)| at.value.is_none()).map(|(key, at)| (key.text.as_str(), at.title))
    }
}

fn args(args: Option<&Pairs>, lookup: Lookup<'_>) -> BTreeMap<String, String> {
    let value = |(key, at): &(crate::config::yaml::Key, At<Option<String>>)| {
        Some((key.text.clone(), at.value.clone().or_else(|| lookup(&key.text))?))
    };
    args.into_iter().flat_map(|args| &args.0).filter_map(value).collect()
}

fn secrets(
    given: Option<&Vec<Given>>,
    files: &Files,
    mistakes: &mut Mistakes<'_>,
) -> Vec<BuildSecret> {
    let mut secrets = Vec::new();
    for given in given.into_iter().flatten() {
        let id = given.target.clone().unwrap_or_else(|| given.source.value.clone());
        let from = build_source(given, &files.secrets, mistakes);
        secrets.extend(from.map(|from| BuildSecret { id, from }));
    }
    secrets
}
