//! `healthcheck`: a command inside of the container.

use crate::config::mistake::Mistakes;
use crate::config::reader::{At, FromNode, foreign_mapping, wrong};
use crate::config::yaml::{Node, Value};
use crate::container;

use super::scalars::{Count, Period, Truth, text_of};

foreign_mapping! {
    /// The keys of `healthcheck`.
    Keys, "`healthcheck`" {
        "test" test: Option<At<Test>>,
        "disable" disable: Option<Truth>,
        "interval" interval: Option<At<Period>>,
        "timeout" timeout: Option<At<Period>>,
        "start_period" start_period: Option<At<Period>>,
        "start_interval" start_interval: Option<At<Period>>,
        "retries" retries: Option<At<Count>>,
    }
    allow { "x-" }
}

/// As Docker takes it; without `test` it changes the times of the image's own.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::config) struct Healthcheck(pub container::Healthcheck);

impl FromNode for Healthcheck {
    fn read(node: &Node, mistakes: &mut Mistakes<'_>) -> Option<Self> {
        let keys = Keys::read(node, mistakes)?;
        let test = match keys.disable {
            Some(Truth(true)) => vec!["NONE".into()],
            _ => keys.test.map(|test| test.value.0).unwrap_or_default(),
        };
        let time = |at: Option<At<Period>>| at.map(|at| at.value.0);
        Some(Self(container::Healthcheck {
            test,
            interval: time(keys.interval),
            timeout: time(keys.timeout),
            start_period: time(keys.start_period),
            start_interval: time(keys.start_interval),
            retries: keys.retries.map(|at| at.value.0),
        }))
    }
}

/// Text for the container's shell, or a list that says what it is.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::config) struct Test(Vec<String>);

impl FromNode for Test {
    fn read(node: &Node, mistakes: &mut Mistakes<'_>) -> Option<Self> {
        const HELP: &str =
            "write the command as text, or as a list that begins with `CMD`, `CMD-SHELL` or `NONE`";
        if let Some(text) = text_of(node) {
            return Some(Self(vec!["CMD-SHELL".into(), text]));
        }
        let Value::List(items) = &node.value else {
            wrong(node, mistakes, "text or a list", HELP);
            return None;
        };
        let words: Option<Vec<String>> = items.iter().map(text_of).collect();
        let fits = |words: &Vec<String>| match words.first().map(String::as_str) {
            Some("NONE") => words.len() == 1,
            Some("CMD-SHELL") => words.len() == 2,
            Some("CMD") => words.len() > 1,
            _ => false,
        };
        let words = words.filter(fits);
        if words.is_none() {
            mistakes.add(node.extent, "this list is not a health check", HELP);
        }
        words.map(Self)
    }
}
