//! Why a step ran again: what differs between its inputs and those of the run before.

use std::collections::BTreeMap;
use std::fmt;

use domain::pipeline::{Outcome, StepResult};
use domain::{RunId, StepName};
use serde::{Deserialize, Serialize};

use super::error::PipelineError;
use super::files::read_json;
use super::inputs::{Manifest, files_of};
use super::layout::{self, Layout};

/// One thing that differs from the last run of a step. Values of variables are never among it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Difference {
    /// No earlier run had this step.
    FirstTime,
    FileChanged(String),
    FileAdded(String),
    FileRemoved(String),
    Command {
        before: String,
        after: String,
    },
    /// `in`, a report, how findings are judged, the configuration of a service around the step.
    Setting(String),
    VariableChanged(String),
    VariableAdded(String),
    VariableRemoved(String),
    Tool {
        name: String,
        before: Option<String>,
        after: Option<String>,
    },
    /// Another build of a service that the step uses.
    Artifact(String),
    Platform {
        before: String,
        after: String,
    },
    /// The inputs are the same, but that run's result cannot be reused.
    NotPassed {
        run: RunId,
        outcome: Outcome,
    },
    Flaky {
        run: RunId,
    },
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let or_none = |text: &Option<String>| text.clone().unwrap_or_else(|| "none".into());
        match self {
            Self::FirstTime => f.write_str("no earlier run had this step"),
            Self::FileChanged(path) => write!(f, "file changed: {path}"),
            Self::FileAdded(path) => write!(f, "file added: {path}"),
            Self::FileRemoved(path) => write!(f, "file removed: {path}"),
            Self::Command { before, after } => {
                write!(f, "command changed: from `{before}` to `{after}`")
            }
            Self::Setting(name) => write!(f, "setting changed: {name}"),
            Self::VariableChanged(name) => write!(f, "environment variable changed: {name}"),
            Self::VariableAdded(name) => write!(f, "environment variable added: {name}"),
            Self::VariableRemoved(name) => write!(f, "environment variable removed: {name}"),
            Self::Tool { name, before, after } => {
                write!(f, "tool changed: {name}, from {} to {}", or_none(before), or_none(after))
            }
            Self::Artifact(service) => write!(f, "service built anew: {service}"),
            Self::Platform { before, after } => {
                write!(f, "platform changed: from {before} to {after}")
            }
            Self::NotPassed { run, outcome } => {
                let outcome = format!("{outcome:?}").to_lowercase();
                write!(
                    f,
                    "nothing changed, but in {run} it {outcome}: only passed steps are reused"
                )
            }
            Self::Flaky { run } => {
                write!(f, "nothing changed, but in {run} it passed only on a retry")
            }
        }
    }
}

/// What differs between the inputs of `step` in `run` and in the last run before it that had this step.
pub(crate) fn why(
    layout: &Layout,
    run: &RunId,
    step: &StepName,
) -> Result<Vec<Difference>, PipelineError> {
    let doing = || format!("comparing the inputs of step `{step}` in {run}");
    let now = read_json::<Manifest>(&layout::manifest(&layout.step(run, step)));
    let now = now.ok_or_else(|| {
        let why = "they are not recorded: the run has no such step, or it did not get that far";
        PipelineError::new(doing(), why)
    })?;
    let Some((earlier, before)) = last_before(layout, run, step) else {
        return Ok(vec![Difference::FirstTime]);
    };
    let mut differences = compare(layout, &before, &now);
    if differences.is_empty() {
        let result = read_json::<StepResult>(&layout::result(&layout.step(&earlier, step)));
        differences.extend(result.and_then(|result| match result.outcome {
            Outcome::Passed if result.flaky => Some(Difference::Flaky { run: earlier }),
            Outcome::Passed => None,
            outcome => Some(Difference::NotPassed { run: earlier, outcome }),
        }));
    }
    Ok(differences)
}

fn last_before(layout: &Layout, run: &RunId, step: &StepName) -> Option<(RunId, Manifest)> {
    let limit = domain::app::number(run);
    let names = std::fs::read_dir(layout.runs()).ok()?.flatten();
    let runs = names.filter_map(|entry| RunId::new(entry.file_name().to_str()?).ok());
    let mut runs: Vec<RunId> = runs.filter(|id| domain::app::number(id) < limit).collect();
    runs.sort_by_key(|id| std::cmp::Reverse(domain::app::number(id)));
    runs.into_iter().find_map(|id| {
        let manifest = read_json(&layout::manifest(&layout.step(&id, step)))?;
        Some((id, manifest))
    })
}

fn compare(layout: &Layout, before: &Manifest, now: &Manifest) -> Vec<Difference> {
    let (old, new) = (&before.inputs, &now.inputs);
    let mut found = Vec::new();
    if old.files != new.files {
        let (was, is) = (files_of(layout, before), files_of(layout, now));
        changes(&was, &is, |path, change| {
            found.push(match change {
                Change::Changed => Difference::FileChanged(path.clone()),
                Change::Added => Difference::FileAdded(path.clone()),
                Change::Removed => Difference::FileRemoved(path.clone()),
            })
        });
    }
    if old.command != new.command {
        found.push(Difference::Command { before: old.command.clone(), after: new.command.clone() });
    }
    changes(&old.settings, &new.settings, |name, _| found.push(Difference::Setting(name.clone())));
    changes(&old.variables, &new.variables, |name, change| {
        found.push(match change {
            Change::Changed => Difference::VariableChanged(name.clone()),
            Change::Added => Difference::VariableAdded(name.clone()),
            Change::Removed => Difference::VariableRemoved(name.clone()),
        })
    });
    changes(&old.tools, &new.tools, |name, _| {
        found.push(Difference::Tool {
            name: name.clone(),
            before: old.tools.get(name).cloned(),
            after: new.tools.get(name).cloned(),
        })
    });
    changes(&old.artifacts, &new.artifacts, |service, _| {
        found.push(Difference::Artifact(service.to_string()));
    });
    if old.platform != new.platform {
        let (before, after) = (old.platform.clone(), new.platform.clone());
        found.push(Difference::Platform { before, after });
    }
    found
}

enum Change {
    Changed,
    Added,
    Removed,
}

fn changes<K: Ord, V: PartialEq>(
    before: &BTreeMap<K, V>,
    after: &BTreeMap<K, V>,
    mut found: impl FnMut(&K, Change),
) {
    for (key, value) in after {
        match before.get(key) {
            None => found(key, Change::Added),
            Some(earlier) if earlier != value => found(key, Change::Changed),
            Some(_) => {}
        }
    }
    for key in before.keys().filter(|key| !after.contains_key(*key)) {
        found(key, Change::Removed);
    }
}
