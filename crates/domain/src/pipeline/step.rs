//! Stages and steps of a run, and the result of a step.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::config::{EngineKind, Project, Scan, Severity, Step};
use crate::scan::Inspection;
use crate::slot::ArtifactRef;
use crate::{RunId, ServiceName, StepName};

/// The stages of the build pipeline, in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    Analyze,
    Test,
    Images,
    Integrate,
    Scan,
}

impl Stage {
    pub const ALL: [Self; 5] =
        [Self::Analyze, Self::Test, Self::Images, Self::Integrate, Self::Scan];

    /// Its name in `launchway.yaml`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Analyze => "analyze",
            Self::Test => "test",
            Self::Images => "images",
            Self::Integrate => "integrate",
            Self::Scan => "scan",
        }
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A step of a run as planned: everything its execution needs, beside the commit.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PlannedStep {
    pub stage: Stage,
    /// Unique within the run.
    pub name: StepName,
    pub task: Task,
}

/// What a step does.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Task {
    /// A command in the run's checkout.
    Command(Step),
    /// Makes the tree that the process engine runs of a service.
    Image(ServiceName),
    /// Builds the image that containers of a service run.
    Container(ServiceName),
    /// A command with a throwaway environment around it.
    Integrate(Step),
    /// A scanner, whose findings are judged against `fail_on`.
    Scan { step: Step, fail_on: Severity },
    /// Looks for something with a tool of the machine, by the rules of `build.scan`.
    Inspect(Inspection),
    /// The scan stage has no scanner: the gate cannot answer.
    NoScanner,
}

/// All steps of a run of `project`, stage by stage.
pub fn plan(project: &Project) -> Vec<PlannedStep> {
    let command = |stage, steps: &[Step], task: fn(Step) -> Task| {
        let planned = steps.iter().map(move |step| PlannedStep {
            stage,
            name: step.name.clone(),
            task: task(step.clone()),
        });
        planned.collect::<Vec<_>>()
    };
    let mut steps = command(Stage::Analyze, &project.build.analyze, Task::Command);
    steps.extend(command(Stage::Test, &project.build.test, Task::Command));
    steps.extend(image_steps(project));
    steps.extend(command(Stage::Integrate, &project.build.integrate, Task::Integrate));
    steps.extend(scan_steps(&project.build.scan));
    steps
}

/// What the environments of the project need: trees, images, or both.
fn image_steps(project: &Project) -> Vec<PlannedStep> {
    let (trees, images) =
        (project.runs_on(EngineKind::Process), project.runs_on(EngineKind::Docker));
    let planned = |what: &str, service: &ServiceName, task: fn(ServiceName) -> Task| {
        let name = StepName::new(format!("{what} {service}")).ok()?;
        Some(PlannedStep { stage: Stage::Images, name, task: task(service.clone()) })
    };
    let of_service = |service| {
        let tree = trees.then(|| planned("image", service, Task::Image)).flatten();
        // Where both are made, they need two names.
        let what = if trees { "container" } else { "image" };
        let image = images.then(|| planned(what, service, Task::Container)).flatten();
        [tree, image].into_iter().flatten()
    };
    project.built().flat_map(|(service, ..)| of_service(service)).collect()
}

fn scan_steps(scan: &Scan) -> Vec<PlannedStep> {
    let Scan::On { fail_on, steps, rules } = scan else { return Vec::new() };
    let planned = |name: &str, task| {
        StepName::new(name).ok().map(|name| PlannedStep { stage: Stage::Scan, name, task })
    };
    let ours = rules.inspections().filter_map(|i| planned(i.step(), Task::Inspect(i)));
    let theirs = steps.iter().filter_map(|step| {
        planned(step.name.as_str(), Task::Scan { step: step.clone(), fail_on: *fail_on })
    });
    let all: Vec<PlannedStep> = ours.chain(theirs).collect();
    match all.is_empty() {
        true => planned("scanner", Task::NoScanner).into_iter().collect(),
        false => all,
    }
}

/// How a step ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    Passed,
    Failed,
    TimedOut,
    /// It could not answer (no scanner, no database of a scanner): never clean.
    Unavailable,
    /// Stopped because the run was aborted or another step of its stage failed.
    Canceled,
}

/// What became of a step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StepResult {
    pub outcome: Outcome,
    pub duration: Duration,
    /// How often it was tried; 0 if reused.
    pub attempts: u32,
    /// Passed, but only on a retry.
    pub flaky: bool,
    /// Its inputs were those of this run, so that run's result stands.
    pub reused: Option<RunId>,
    pub tests: Option<TestSummary>,
    pub findings: Option<FindingSummary>,
    /// What an image step made.
    pub artifact: Option<ArtifactRef>,
    /// The likeliest cause of a failure, for people.
    pub cause: Option<String>,
    /// The last lines of the output of a failed step, at most 200.
    pub tail: Vec<String>,
}

/// A JUnit report in numbers, with the names of what failed.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct TestSummary {
    pub passed: u32,
    pub failed: u32,
    pub skipped: u32,
    /// `suite::case: message` of each failure, at most 50.
    pub failures: Vec<String>,
}

/// Findings of analysers and scanners by severity.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct FindingSummary {
    pub low: u32,
    pub medium: u32,
    pub high: u32,
    pub critical: u32,
    /// Beside the others: those that somebody has decided to live with.
    #[serde(default)]
    pub ignored: u32,
    /// `file:line: rule: message`, worst first, at most 50.
    pub worst: Vec<String>,
    /// What else there is to know: what was ignored and why, at most 100.
    #[serde(default)]
    pub notes: Vec<String>,
}

impl FindingSummary {
    /// How many findings are at least as bad as `floor`.
    pub fn at_least(&self, floor: Severity) -> u32 {
        let by_weight = [
            (Severity::Low, self.low),
            (Severity::Medium, self.medium),
            (Severity::High, self.high),
            (Severity::Critical, self.critical),
        ];
        by_weight.iter().filter(|(severity, _)| *severity >= floor).map(|(_, count)| count).sum()
    }
}
