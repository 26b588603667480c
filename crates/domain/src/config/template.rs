//! What Compose says of a container, before variables have values: kept with a release, filled in per environment.

use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use super::compose;
use super::env_file::Lookup;
use super::mistake::{Extent, Mistakes, Source};
use super::reader::FromNode;
use super::tree::{self, Unfilled};
use super::yaml::{Key, Node, Value};
use crate::container::Container;

/// The keys of a Compose service that say how its container is run, with the secrets and configs that it names.
/// As text, not yet interpolated: values depend on the environment.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ContainerTemplate(Json);

/// Why a container cannot be described in an environment. Never shows the text of a secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", .problems.join("; "))]
pub struct ContainerError {
    /// At least one, each with its way out.
    pub problems: Vec<String>,
}

/// The parts of a template.
pub(super) const SERVICE: &str = "service";
pub(super) const SECRETS: &str = "secrets";
pub(super) const CONFIGS: &str = "configs";
pub(super) const PORT: &str = "port";

impl ContainerTemplate {
    /// Of a service's keys and the file's secrets and configs.
    pub(super) fn new(
        service: &Node,
        secrets: Option<&Node>,
        configs: Option<&Node>,
        port: Option<u16>,
    ) -> Self {
        let mut parts = serde_json::Map::new();
        parts.insert(SERVICE.into(), tree::to_json(service));
        for (name, node) in [(SECRETS, secrets), (CONFIGS, configs)] {
            parts.extend(node.map(|node| (name.to_owned(), tree::to_json(node))));
        }
        parts.extend(port.map(|port| (PORT.to_owned(), port.into())));
        Self(Json::Object(parts))
    }

    /// The container where variables have these values.
    pub(super) fn fill(&self, lookup: Lookup<'_>) -> Result<Container, ContainerError> {
        let mut mistakes = Mistakes::new(Source { path: "the Compose file", text: "" });
        let part = |name: &str, mistakes: &mut Mistakes<'_>| {
            let node = tree::from_json(self.0.get(name).unwrap_or(&Json::Null));
            tree::filled(&node, lookup, &mut |unfilled, extent| {
                if let Unfilled::Error(error) = unfilled {
                    mistakes.add(extent, error.to_string(), error.help());
                }
            })
        };
        let (secrets, configs) = (part(SECRETS, &mut mistakes), part(CONFIGS, &mut mistakes));
        let mut service = part(SERVICE, &mut mistakes);
        if service.value == Value::Null {
            service.value = Value::Map(Vec::new());
        }
        let files = compose::Files::read(&secrets, &configs, &mut mistakes);
        let read = compose::Service::read(&service, &mut mistakes);
        let key = Key { text: SERVICE.into(), extent: Extent::default() };
        let container =
            read.map(|read| compose::container(&key, &read, &files, lookup, &mut mistakes));
        let problem = |mistake: super::Mistake| format!("{}: {}", mistake.message, mistake.help);
        match container {
            Some(mut container) if mistakes.is_empty() => {
                let port = self.0.get(PORT).and_then(Json::as_u64);
                container.answers_at = port.and_then(|port| u16::try_from(port).ok());
                Ok(container)
            }
            _ => Err(ContainerError {
                problems: mistakes.finish().into_iter().map(problem).collect(),
            }),
        }
    }
}
