//! `depends_on`: what a service waits for.

use crate::config::composition::{Condition, Dependency};
use crate::config::mistake::{Extent, Mistakes, listed};
use crate::config::reader::{At, FromNode, Map, foreign_mapping};
use crate::config::yaml::{Node, Value};

use super::scalars::{Maybe, Text, Truth};

/// `depends_on`, as a list of names or with conditions.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::config) struct Depends(pub Vec<On>);

/// One service that is waited for.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::config) struct On {
    pub name: At<String>,
    pub dependency: Dependency,
    /// Where the condition stands, if it does.
    pub condition: Extent,
}

foreign_mapping! {
    /// One entry of `depends_on`.
    Entry, "an entry of `depends_on`" {
        /// What it waits for.
        "condition" condition: Option<At<Text>>,
        "restart" restart: Option<Truth>,
        "required" required: Option<Truth>,
    }
    allow { "x-" }
}

/// A service that has started is enough, and it must be there.
pub(super) const STARTED: Dependency =
    Dependency { condition: Condition::ServiceStarted, required: true, restart: false };

impl FromNode for Depends {
    fn read(node: &Node, mistakes: &mut Mistakes<'_>) -> Option<Self> {
        if let Value::List(_) = node.value {
            let names: Vec<At<String>> = Vec::read(node, mistakes)?;
            let on = |name: At<String>| On { condition: name.extent, name, dependency: STARTED };
            return Some(Self(names.into_iter().map(on).collect()));
        }
        let map = Map::<Maybe<Entry>>::read(node, mistakes)?;
        let mut all = Vec::new();
        for (key, entry) in map.iter() {
            let name = At { value: key.text.clone(), extent: key.extent, title: key.extent };
            let mut on = On { condition: name.extent, name, dependency: STARTED };
            if let Some(entry) = &entry.0 {
                read_entry(&mut on, entry, mistakes);
            }
            all.push(on);
        }
        Some(Self(all))
    }
}

fn read_entry(on: &mut On, entry: &Entry, mistakes: &mut Mistakes<'_>) {
    on.dependency.required = entry.required.is_none_or(|truth| truth.0);
    on.dependency.restart = entry.restart.is_some_and(|truth| truth.0);
    let Some(condition) = &entry.condition else { return };
    on.condition = condition.extent;
    on.dependency.condition = match condition.value.0.as_str() {
        "service_started" => Condition::ServiceStarted,
        "service_healthy" => Condition::ServiceHealthy,
        "service_completed_successfully" => Condition::ServiceCompletedSuccessfully,
        other => {
            const KNOWN: [&str; 3] =
                ["service_started", "service_healthy", "service_completed_successfully"];
            let message = format!("`condition` cannot be `{other}`");
            mistakes.add(condition.extent, message, format!("write one of {}", listed(KNOWN)));
            return;
        }
    };
}
