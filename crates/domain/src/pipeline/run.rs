//! One pass of a commit through the build pipeline.
//!
//! ```text
//! Planning ──Planned──▶ Running ──every stage passed──▶ Green
//!     │                    ├──a stage had a failure──▶ Red
//!     └──Refused──▶ Invalid└──Aborted──▶ Aborted
//! ```

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Outcome, PlannedStep, Stage, StepResult, Task, plan};
use crate::config::Project;
use crate::refusal::Refusal;
use crate::release::Commit;
use crate::slot::ArtifactRef;
use crate::{CommitId, EnvironmentName, Identity, RunId, ServiceName, StepName, Timestamp};

/// A run and how far it is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Run {
    pub id: RunId,
    pub commit: CommitId,
    /// The branch whose new head asked for it.
    pub branch: Option<String>,
    /// Deployed here when green, beside the environments that follow the branch.
    pub deploy_to: Option<EnvironmentName>,
    pub by: Identity,
    pub created: Timestamp,
    pub phase: RunPhase,
    /// Known once planned.
    pub plan: Option<Plan>,
    /// The checkout was removed.
    pub cleaned: bool,
}

/// What a run does, as read from the commit.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    pub commit: Commit,
    pub project: Arc<Project>,
    pub steps: Vec<StepState>,
}

/// Where a run stands.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", tag = "phase")]
pub enum RunPhase {
    Planning,
    Running,
    Green {
        at: Timestamp,
    },
    /// Stopped at this stage.
    Red {
        at: Timestamp,
        stage: Stage,
    },
    Aborted {
        at: Timestamp,
        by: Identity,
    },
    /// The configuration of the commit is wrong; each mistake with its place.
    Invalid {
        at: Timestamp,
        mistakes: Vec<String>,
    },
}

/// A planned step and what became of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StepState {
    pub planned: PlannedStep,
    pub status: StepStatus,
}

/// Where a step stands.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StepStatus {
    Waiting,
    Running { since: Timestamp },
    Done(Box<StepResult>),
}

/// What happens to a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunEvent {
    Planned { commit: Commit, project: Arc<Project> },
    Refused { mistakes: Vec<String> },
    StepStarted { step: StepName },
    StepFinished { step: StepName, result: Box<StepResult> },
    Aborted { by: Identity },
    CleanedUp,
}

/// What a run wants done.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RunAction {
    Plan,
    Step(StepName),
    /// Remove the checkout; logs and reports stay.
    CleanUp,
}

impl Run {
    /// Takes one event. An event that does not fit changes nothing and says why.
    pub fn step(&mut self, event: &RunEvent, now: Timestamp) -> Result<(), Refusal> {
        match (event, &self.phase) {
            (RunEvent::Planned { commit, project }, RunPhase::Planning) => {
                self.begin(commit, project, now);
                Ok(())
            }
            (RunEvent::Refused { mistakes }, RunPhase::Planning) => {
                self.phase = RunPhase::Invalid { at: now, mistakes: mistakes.clone() };
                Ok(())
            }
            (RunEvent::StepStarted { step }, RunPhase::Running) => {
                *self.wanted_step(step)? = StepStatus::Running { since: now };
                Ok(())
            }
            (RunEvent::StepFinished { step, result }, RunPhase::Running) => {
                *self.wanted_step(step)? = StepStatus::Done(result.clone());
                self.conclude(now);
                Ok(())
            }
            (RunEvent::Aborted { by }, RunPhase::Planning | RunPhase::Running) => {
                self.phase = RunPhase::Aborted { at: now, by: by.clone() };
                Ok(())
            }
            (RunEvent::CleanedUp, _) if self.ended() && !self.cleaned => {
                self.cleaned = true;
                Ok(())
            }
            _ => Err(Refusal::new(format!("{} is {}", self.id, self.phase.name()))),
        }
    }

    /// What it waits for. After a crash these are done again.
    pub fn pending(&self) -> Vec<RunAction> {
        match self.phase {
            RunPhase::Planning => vec![RunAction::Plan],
            RunPhase::Running => self.admitted().map(|s| RunAction::Step(s.clone())).collect(),
            _ if !self.cleaned => vec![RunAction::CleanUp],
            _ => Vec::new(),
        }
    }

    /// Nothing but cleaning up can follow.
    pub fn ended(&self) -> bool {
        !matches!(self.phase, RunPhase::Planning | RunPhase::Running)
    }

    /// The stage whose steps run now.
    pub fn stage(&self) -> Option<Stage> {
        let plan = self.plan.as_ref()?;
        plan.steps.iter().find(|s| !s.done()).map(|s| s.planned.stage)
    }

    /// The trees that the image steps made so far.
    pub fn artifacts(&self) -> BTreeMap<ServiceName, ArtifactRef> {
        self.made(|task| match task {
            Task::Image(service) => Some(service),
            _ => None,
        })
    }

    /// The images of containers that they made so far.
    pub fn images(&self) -> BTreeMap<ServiceName, ArtifactRef> {
        self.made(|task| match task {
            Task::Container(service) => Some(service),
            _ => None,
        })
    }

    fn made(
        &self,
        of: impl Fn(&Task) -> Option<&ServiceName>,
    ) -> BTreeMap<ServiceName, ArtifactRef> {
        let steps = self.plan.iter().flat_map(|plan| &plan.steps);
        let made = steps.filter_map(|step| {
            let service = of(&step.planned.task)?;
            Some((service.clone(), step.result()?.artifact.clone()?))
        });
        made.collect()
    }

    fn begin(&mut self, commit: &Commit, project: &Arc<Project>, now: Timestamp) {
        let waiting = |planned| StepState { planned, status: StepStatus::Waiting };
        let steps = plan(project).into_iter().map(waiting).collect();
        self.plan = Some(Plan { commit: commit.clone(), project: project.clone(), steps });
        self.phase = RunPhase::Running;
        self.conclude(now);
    }

    /// The unfinished steps of the current stage that fit side by side.
    fn admitted(&self) -> impl Iterator<Item = &StepName> {
        let stage = self.stage();
        let parallel = self.plan.as_ref().map_or(1, |p| p.project.build.parallel.max(1) as usize);
        let steps = self.plan.iter().flat_map(|plan| &plan.steps);
        steps
            .filter(move |s| Some(s.planned.stage) == stage && !s.done())
            .take(parallel)
            .map(|s| &s.planned.name)
    }

    fn wanted_step(&mut self, name: &StepName) -> Result<&mut StepStatus, Refusal> {
        if !self.admitted().any(|admitted| admitted == name) {
            return Err(Refusal::new(format!("{} does not wait for step `{name}`", self.id)));
        }
        let steps = self.plan.iter_mut().flat_map(|plan| &mut plan.steps);
        steps
            .filter(|s| s.planned.name == *name)
            .map(|s| &mut s.status)
            .next()
            .ok_or_else(|| Refusal::new(format!("{} has no step `{name}`", self.id)))
    }

    /// A stage is judged when all its steps are done: every failure of a stage is seen in one run.
    fn conclude(&mut self, at: Timestamp) {
        let Some(plan) = &self.plan else { return };
        let current = self.stage();
        let failed = plan.steps.iter().find(|s| s.done() && !s.passed());
        if let Some(failed) = failed
            && current != Some(failed.planned.stage)
        {
            self.phase = RunPhase::Red { at, stage: failed.planned.stage };
        } else if current.is_none() {
            self.phase = RunPhase::Green { at };
        }
    }
}

impl RunPhase {
    /// One word for people and filters.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Planning => "planning",
            Self::Running => "running",
            Self::Green { .. } => "green",
            Self::Red { .. } => "red",
            Self::Aborted { .. } => "aborted",
            Self::Invalid { .. } => "invalid",
        }
    }
}

impl StepState {
    /// It has a result.
    pub fn done(&self) -> bool {
        matches!(self.status, StepStatus::Done(_))
    }

    /// Its result, once there is one.
    pub fn result(&self) -> Option<&StepResult> {
        match &self.status {
            StepStatus::Done(result) => Some(result),
            _ => None,
        }
    }

    fn passed(&self) -> bool {
        self.result().is_some_and(|result| result.outcome == Outcome::Passed)
    }
}
