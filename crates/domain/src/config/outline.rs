//! A Compose file alone, in outline: what `launchway init` guesses from.

use super::compose::{Compose, Service};
use super::mistake::{Mistake, Mistakes, Source};
use super::paths::inside;
use super::reader::FromNode;
use super::{root, tree};
use crate::container::{Healthcheck, Protocol};

/// One service as Compose says it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutlinedService {
    pub name: String,
    /// The build context's folder, from the project's root; `None` for a backing service.
    pub context: Option<String>,
    pub dockerfile: String,
    pub image: Option<String>,
    /// Ports in the container that are published on the machine.
    pub published: Vec<u16>,
    /// The path that its health check asks, if it asks one.
    pub health: Option<String>,
}

/// The services of a Compose file.
pub fn outline(compose: Source<'_>) -> Result<Vec<OutlinedService>, Vec<Mistake>> {
    let mut mistakes = Mistakes::new(compose);
    let read = read(compose, &mut mistakes);
    let services = read.and_then(|compose| compose.services.0);
    match services {
        Some(services) if mistakes.is_empty() => {
            Ok(services.value.iter().map(|(key, service)| outlined(&key.text, service)).collect())
        }
        _ => Err(mistakes.finish()),
    }
}

/// With the defaults of variables. What needs a value to be read is left to `check`.
fn read(source: Source<'_>, mistakes: &mut Mistakes<'_>) -> Option<Compose> {
    let root = root(source, "begin with `services:`", mistakes)?;
    let mut unknown = Vec::new();
    let filled = tree::filled(&root, &|_| None, &mut |_, extent| unknown.push(extent));
    let mut found = Mistakes::new(source);
    let compose = Compose::read(&filled, &mut found);
    mistakes.absorb(found, &unknown);
    compose
}

fn outlined(name: &str, service: &Service) -> OutlinedService {
    let build = service.build.as_ref().map(|build| &build.value);
    let context = |path: Option<&str>| inside(path.unwrap_or(".")).unwrap_or_default();
    let dockerfile = build.and_then(|build| build.dockerfile.as_ref());
    OutlinedService {
        name: name.into(),
        context: build.map(|b| context(b.context.as_ref().map(|at| at.value.as_str()))),
        dockerfile: dockerfile.map_or_else(|| "Dockerfile".into(), |at| at.value.clone()),
        image: service.image.as_ref().map(|image| image.value.clone()),
        published: service
            .ports
            .iter()
            .flat_map(|ports| &ports.value)
            .flat_map(|ports| &ports.0)
            .filter(|port| port.protocol == Protocol::Tcp)
            .map(|port| port.target)
            .collect(),
        health: service.healthcheck.as_ref().and_then(|check| asked_path(&check.value.0)),
    }
}

/// The path in the first URL of a health check's command.
fn asked_path(check: &Healthcheck) -> Option<String> {
    let command = check.test.join(" ");
    let (_, url) = command.split_once("http://")?;
    let path = &url[url.find('/')?..];
    let end = path.find(|c: char| c.is_whitespace() || "'\")|;".contains(c)).unwrap_or(path.len());
    Some(path[..end].to_owned())
}
