//! What variables of the Compose file are worth in each environment, and which have no value there.

use std::collections::BTreeMap;

use super::file;
use super::filling::{child, of_container};
use super::findings::Findings;
use super::interpolation::{InterpolationError, Template};
use super::mistake::{Extent, listed};
use super::project::{EngineKind, variable_prefix};
use super::yaml::{Kind, Node, Value};

/// An environment as the Compose file sees it.
pub(super) struct Setting<'a> {
    /// Empty where there is none at all.
    pub environment: &'a str,
    pub engine: EngineKind,
    variables: BTreeMap<&'a str, &'a str>,
    services: &'a [String],
}

impl<'a> Setting<'a> {
    /// One for each environment.
    pub fn all(file: &'a file::Launchway, services: &'a [String]) -> Vec<Self> {
        let environments = file.environments.0.iter().flat_map(|map| map.value.iter());
        let setting = |(key, file): (&'a super::yaml::Key, &'a file::Environment)| {
            let variables = file.variables.iter().flat_map(|variables| variables.iter());
            Self {
                environment: &key.text,
                engine: file.runs_on().unwrap_or(EngineKind::Process),
                variables: variables
                    .map(|(key, value)| (key.text.as_str(), value.0.as_str()))
                    .collect(),
                services,
            }
        };
        environments.map(setting).collect()
    }

    /// Those that run containers; if none does, all, and if there is none, one without variables.
    pub fn for_containers(all: Vec<Self>, services: &'a [String]) -> Vec<Self> {
        let (docker, others): (Vec<_>, Vec<_>) =
            all.into_iter().partition(|setting| setting.engine == EngineKind::Docker);
        let used = if docker.is_empty() { others } else { docker };
        if used.is_empty() {
            let (environment, engine) = ("", EngineKind::Process);
            return vec![Self { environment, engine, variables: BTreeMap::new(), services }];
        }
        used
    }

    /// The value of a variable; for the address of a service, which is not known yet, something of its kind.
    pub fn value(&self, name: &str) -> Option<String> {
        if let Some(value) = self.variables.get(name) {
            return Some((*value).to_owned());
        }
        let of = |suffix: &str| {
            let prefix = name.strip_suffix(suffix)?;
            self.services.iter().find(|service| variable_prefix(service) == prefix)
        };
        of("_HOST").cloned().or_else(|| of("_PORT").map(|_| "1".to_owned()))
    }
}

/// Every variable of the Compose file has a value in every environment that uses it, or a default.
pub(super) fn values(root: &Node, settings: &[Setting<'_>], found: &mut Findings<'_>) {
    let docker: Vec<&Setting<'_>> =
        settings.iter().filter(|setting| setting.engine == EngineKind::Docker).collect();
    let all: Vec<&Setting<'_>> = settings.iter().collect();
    let Some(Value::Map(services)) = child(root, "services").map(|node| &node.value) else {
        return;
    };
    for (_, service) in services {
        if let Some(environment) = child(service, "environment") {
            texts(environment, &mut |text, extent| told(text, extent, &all, found));
        }
        texts(&of_container(service), &mut |text, extent| told(text, extent, &docker, found));
    }
    for part in ["secrets", "configs"].iter().filter_map(|name| child(root, name)) {
        texts(part, &mut |text, extent| told(text, extent, &docker, found));
    }
}

/// Every text that may hold a variable, and where it stands.
fn texts(node: &Node, take: &mut dyn FnMut(&str, Extent)) {
    match &node.value {
        Value::Scalar { text, kind: Kind::Text } if text.contains('$') => take(text, node.extent),
        Value::Null | Value::Scalar { .. } => {}
        Value::List(items) => items.iter().for_each(|item| texts(item, take)),
        Value::Map(entries) => entries.iter().for_each(|(_, node)| texts(node, take)),
    }
}

fn told(text: &str, extent: Extent, settings: &[&Setting<'_>], found: &mut Findings<'_>) {
    let Ok(template) = Template::parse(text) else { return };
    let mut blank: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    let mut required: BTreeMap<(String, String), Vec<&str>> = BTreeMap::new();
    for setting in settings {
        let name = setting.environment;
        let lookup = |variable: &str| setting.value(variable);
        let mut unset = |variable: &str| blank.entry(variable.into()).or_default().push(name);
        if let Err(InterpolationError::Required { name: variable, message }) =
            template.resolve(&lookup, &mut unset)
        {
            required.entry((variable, message)).or_default().push(name);
        }
    }
    for (name, missing) in blank {
        let extent = found.compose.within(extent, &format!("${{{name}"));
        let note = format!("`{name}` has no value in {} and becomes empty text", listed(missing));
        found.note_compose(extent, note);
    }
    for ((name, message), missing) in required {
        let extent = found.compose.within(extent, &format!("${{{name}"));
        found.compose.add(
            extent,
            format!("`{name}` has no value in {}: {message}", listed(missing)),
            format!("add `variables: {{ {name}: ... }}` to the environment in launchway.yaml"),
        );
    }
}
