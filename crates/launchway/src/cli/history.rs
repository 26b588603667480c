//! `launchway history`: runs and rollouts, what became of their steps, and why a step ran again.

use std::fmt::Write;
use std::path::Path;
use std::sync::Arc;

use control::pipeline::{Difference, Images, Pipeline, PipelineConfig};
use domain::app::App;
use domain::pipeline::{Run, StepStatus};
use domain::rollout::Rollout;
use domain::{EnvironmentName, RolloutId, RunId, StepName};
use engine::{ProcessConfig, ProcessEngine, ShimCommand};

use super::paint::{Paint, ago, by, line, span};
use super::{Exit, Failure, Globals, Outcome, follow, offline, print, print_json};
use crate::api;
use crate::api::wire::History;
use crate::client::{CallError, encode};

/// Show runs and rollouts, one of them, or why a step ran again
#[derive(clap::Args)]
#[command(after_help = "Examples:
  launchway history                     the newest runs and rollouts
  launchway history production          the rollouts of an environment
  launchway history run-7               each step of a run, with tests and findings
  launchway history run-7 --why pytest  what differed from the run before
  launchway history ro-12               each phase of a rollout, and what a failure left behind

Works without a server too.")]
pub struct Args {
    /// A run (run-7), a rollout (ro-12) or an environment
    what: Option<String>,
    /// Print what differed from the last run of this step
    #[arg(long, value_name = "STEP")]
    why: Option<StepName>,
}

/// Runs the verb.
pub async fn run(args: Args, globals: &Globals) -> Outcome {
    let run = args.what.as_ref().and_then(|what| what.parse::<RunId>().ok());
    let rollout = args.what.as_ref().and_then(|what| what.parse::<RolloutId>().ok());
    match (run, rollout, args.why, args.what) {
        (Some(run), _, Some(step), _) => why(&run, &step, globals).await,
        (_, _, Some(_), _) => Err(Failure::new(
            Exit::Usage,
            "--why is about a step of a run",
            "write `launchway history run-7 --why STEP`",
        )),
        (Some(run), ..) => one_run(&run, globals).await,
        (_, Some(rollout), ..) => one_rollout(&rollout, globals).await,
        (.., what) => list(what, globals).await,
    }
}

async fn list(environment: Option<String>, globals: &Globals) -> Outcome {
    let only = match environment {
        Some(name) => Some(name.parse::<EnvironmentName>().map_err(|error| {
            let help = "name a run like run-7, a rollout like ro-12, or an environment";
            Failure::new(Exit::Usage, error.to_string(), help)
        })?),
        None => None,
    };
    let path = match &only {
        Some(name) => format!("/v1/history?environment={}", encode(name.as_str())),
        None => "/v1/history".into(),
    };
    let history = match globals.client().get::<History>(&path).await {
        Err(CallError::Absent { .. }) => {
            api::history_of(&offline::app(&globals.state()).await?, only.as_ref())
        }
        answer => answer?,
    };
    match globals.json {
        true => print_json(&history)?,
        false => print(&page(&history))?,
    }
    Ok(Exit::Ok)
}

fn page(history: &History) -> String {
    let (paint, now) = (Paint::stdout(), history.now);
    let mut page = String::new();
    if !history.runs.is_empty() {
        let _ = writeln!(page, "{}", paint.bold("runs"));
    }
    for run in &history.runs {
        let phase = if run.phase == "green" { paint.good(&run.phase) } else { run.phase.clone() };
        let took = run
            .ended
            .map_or(String::new(), |ended| format!(" in {}", span(ended.since(run.created))));
        let release =
            run.release.as_ref().map_or(String::new(), |release| format!(" made {release}"));
        let problem = run.problem.as_ref().map_or(String::new(), |problem| format!(": {problem}"));
        let subject = run.subject.as_deref().unwrap_or("");
        let (id, commit, when) = (&run.id, run.commit.short(), ago(now, run.created));
        let _ = writeln!(
            page,
            "  {id:<8} {commit} {phase}{took}{release}{problem}  {subject}, {when} {}",
            by(&run.by)
        );
    }
    if !history.rollouts.is_empty() {
        let _ = writeln!(page, "{}", paint.bold("rollouts"));
    }
    for rollout in &history.rollouts {
        let end = line(rollout.end.as_deref().unwrap_or(&rollout.phase));
        let (id, release, environment) = (&rollout.id, &rollout.release.id, &rollout.environment);
        let when = ago(now, rollout.created);
        let kind = format!("{:?}", rollout.kind).to_lowercase();
        let _ = writeln!(
            page,
            "  {id:<8} {environment:<12} {kind:<8} {release:<5} {end}, {when} {}",
            by(&rollout.by)
        );
    }
    if page.is_empty() {
        page = "nothing has happened yet\n".into();
    }
    page
}

async fn one_run(id: &RunId, globals: &Globals) -> Outcome {
    let run: Run = match globals.client().get(&format!("/v1/runs/{id}")).await {
        Err(CallError::Absent { .. }) => {
            let app = offline::app(&globals.state()).await?;
            app.runs.get(id).cloned().ok_or_else(|| unknown(id.as_str()))?
        }
        answer => answer?,
    };
    match globals.json {
        true => print_json(&run)?,
        false => print(&run_page(&run))?,
    }
    Ok(Exit::Ok)
}

fn run_page(run: &Run) -> String {
    let paint = Paint::stdout();
    let subject = run.plan.as_ref().map_or("", |plan| plan.commit.subject.as_str());
    let mut page = format!("{} of {} {subject}\n", run.id, run.commit.short());
    let _ = writeln!(page, "asked for {} at {}", by(run.by.as_str()), run.created);
    for step in run.plan.iter().flat_map(|plan| &plan.steps) {
        let said = match &step.status {
            StepStatus::Waiting => "waits".into(),
            StepStatus::Running { since } => format!("runs since {since}"),
            StepStatus::Done(result) => follow::outcome(paint, result),
        };
        let _ = writeln!(page, "  {:<10} {:<20} {said}", step.planned.stage, step.planned.name);
        let Some(result) = step.result() else { continue };
        let failures = result.tests.iter().flat_map(|tests| &tests.failures);
        let findings =
            result.findings.iter().flat_map(|found| found.worst.iter().chain(&found.notes));
        for line in failures.chain(findings).take(20) {
            let _ = writeln!(page, "{:13}{line}", "");
        }
    }
    let _ = writeln!(page, "{}", follow::verdict(run).1);
    page
}

async fn one_rollout(id: &RolloutId, globals: &Globals) -> Outcome {
    let rollout: Rollout = match globals.client().get(&format!("/v1/rollouts/{id}")).await {
        Err(CallError::Absent { .. }) => {
            let app: App = offline::app(&globals.state()).await?;
            app.rollouts.get(id).cloned().ok_or_else(|| unknown(id.as_str()))?
        }
        answer => answer?,
    };
    if globals.json {
        print_json(&rollout)?;
        return Ok(Exit::Ok);
    }
    print(&rollout_page(&rollout))?;
    if let Some(evidence) = &rollout.evidence {
        follow::show_evidence(evidence);
    }
    Ok(Exit::Ok)
}

fn rollout_page(rollout: &Rollout) -> String {
    let (id, release, environment) = (&rollout.id, &rollout.release, &rollout.environment);
    let kind = format!("{:?}", rollout.kind).to_lowercase();
    let mut page = format!(
        "{id}: {kind} of {release} in {environment}, asked for {}\n",
        by(rollout.by.as_str())
    );
    for (n, (at, phase)) in rollout.timeline.iter().enumerate() {
        let next = rollout.timeline.get(n + 1).map(|(next, _)| span(next.since(*at)));
        let took = next.map_or(String::new(), |took| format!("for {took}"));
        let _ = writeln!(page, "  {at}  {phase:<18} {took}");
    }
    if let Some((by, at)) = &rollout.approved {
        let _ = writeln!(page, "approved by {by} at {at}");
    }
    for switch in &rollout.switches {
        let took = switch.published.map(|at| span(at.since(switch.decided)));
        let took =
            took.map_or("not acknowledged by the edge yet".into(), |took| format!("in {took}"));
        let _ = writeln!(page, "the traffic moved to slot {} {took}", switch.to);
    }
    for note in &rollout.notes {
        let _ = writeln!(page, "{note}");
    }
    let _ = writeln!(
        page,
        "{}",
        match rollout.ended() {
            true => follow::ending(rollout).1,
            false => format!("{id} is {}", rollout.phase.name()),
        }
    );
    page
}

async fn why(run: &RunId, step: &StepName, globals: &Globals) -> Outcome {
    let path = format!("/v1/why?run={run}&step={}", encode(step.as_str()));
    let differences: Vec<Difference> = match globals.client().get(&path).await {
        Err(CallError::Absent { .. }) => {
            let pipeline = pipeline(&globals.directory, &globals.state())?;
            pipeline.why(run, step).await?
        }
        answer => answer?,
    };
    if globals.json {
        print_json(&differences)?;
        return Ok(Exit::Ok);
    }
    if differences.is_empty() {
        print(&format!("nothing differed: {step} was reused in {run}\n"))?;
    }
    for difference in differences {
        print(&format!("{difference}\n"))?;
    }
    Ok(Exit::Ok)
}

/// A pipeline that only reads.
fn pipeline(project: &Path, state: &Path) -> Result<Pipeline, Failure> {
    let shim = ShimCommand { program: std::env::current_exe()?, args: vec!["shim".into()] };
    let engine = ProcessEngine::new(ProcessConfig { state: state.into(), shim, run_as: None });
    Ok(Pipeline::new(PipelineConfig {
        state: state.into(),
        repository: project.into(),
        engine: Arc::new(engine),
        images: Arc::new(Images::new(state)),
        run_as: None,
        environment: std::collections::BTreeMap::new(),
    })?)
}

fn unknown(id: &str) -> Failure {
    Failure::new(Exit::Usage, format!("there is no {id}"), "see `launchway history`")
}
