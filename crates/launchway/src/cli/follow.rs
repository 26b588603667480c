//! Follows a run or a rollout on standard error and says how it ended.

mod lasting;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use domain::pipeline::{Outcome, Run, RunPhase, StepResult};
use domain::rollout::{End, Evidence, Phase, Rollout};
use domain::{RunId, StepName};

use super::paint::{Paint, brief, line, span};
use super::{Exit, Failure};
use crate::client::Client;
use crate::watch::{AT_ONCE, Moved, RolloutUpdate, RunUpdate};
use lasting::{Lasting, Next};

/// Lines of a log that are shown of a failure; `launchway logs` has the rest.
const TAIL: usize = 20;

/// Follows the run to its end.
pub async fn run(client: &Client, id: &RunId) -> Result<Run, Failure> {
    let mut feed = Lasting::begin(client, format!("/v1/runs/{id}/watch"), id.as_str()).await?;
    let mut told = Told::default();
    loop {
        match feed.next().await? {
            Next::Again => told.again(),
            Next::Update(update) if told.knows(&update) => {}
            Next::Update(update) => {
                if let Some(run) = show(update) {
                    return Ok(run);
                }
            }
        }
    }
}

/// What was shown of a run: another server tells it from the beginning.
#[derive(Default)]
struct Told {
    waits: Option<String>,
    lines: BTreeMap<StepName, usize>,
    /// Lines that come once more.
    repeated: BTreeMap<StepName, usize>,
    done: BTreeSet<StepName>,
}

impl Told {
    fn again(&mut self) {
        self.repeated.clone_from(&self.lines);
        // Of these only the newest come once more, whichever they are.
        self.repeated.retain(|_, lines| *lines < AT_ONCE);
    }

    /// Whether it was told before; from now on it was.
    fn knows(&mut self, update: &RunUpdate) -> bool {
        match update {
            RunUpdate::Waiting { reason } => {
                self.waits.replace(reason.clone()).as_ref() == Some(reason)
            }
            RunUpdate::Line { step, .. } if self.done.contains(step) => true,
            RunUpdate::Line { step, .. } => match self.repeated.get_mut(step) {
                Some(left @ 1..) => {
                    *left -= 1;
                    true
                }
                _ => {
                    *self.lines.entry(step.clone()).or_default() += 1;
                    false
                }
            },
            RunUpdate::Step { step, .. } => !self.done.insert(step.clone()),
            RunUpdate::Ended { .. } => false,
        }
    }
}

/// Shows one update; the run when it was the last.
pub fn show(update: RunUpdate) -> Option<Run> {
    let paint = Paint::stderr();
    match update {
        RunUpdate::Waiting { reason } => eprintln!("waits for {reason}"),
        RunUpdate::Line { stage, step, text } => {
            eprintln!("{} {text}", paint.dim(&format!("{stage}/{step} |")));
        }
        RunUpdate::Step { stage, step, result } => {
            eprintln!("{stage}/{step}: {}", outcome(paint, &result));
        }
        RunUpdate::Ended { run } => return Some(*run),
    }
    None
}

/// More notes than this are for `launchway history`.
const NOTES: usize = 3;

/// One step's result in a line.
pub fn outcome(paint: Paint, result: &StepResult) -> String {
    let took = span(result.duration);
    let cause = result.cause.as_ref().map_or(String::new(), |cause| format!(": {cause}"));
    let mut said = match (result.outcome, &result.reused) {
        (Outcome::Passed, Some(run)) => paint.good(&format!("reused from {run}")),
        (Outcome::Passed, None) if result.flaky => {
            paint.bad(&format!("flaky: passed only at attempt {}, {took}", result.attempts))
        }
        (Outcome::Passed, None) => format!("{} in {took}", paint.good("passed")),
        (Outcome::Failed, _) => format!("{} in {took}{cause}", paint.bad("failed")),
        (Outcome::TimedOut, _) => format!("{} after {took}{cause}", paint.bad("timed out")),
        (Outcome::Unavailable, _) => format!("{}{cause}", paint.bad("unavailable")),
        (Outcome::Canceled, _) => paint.bad("canceled"),
    };
    if let Some(tests) = &result.tests {
        let (passed, failed, skipped) = (tests.passed, tests.failed, tests.skipped);
        said += &format!("; tests: {passed} passed, {failed} failed, {skipped} skipped");
    }
    if let Some(found) = &result.findings {
        if found.at_least(domain::config::Severity::Low) > 0 {
            let (low, medium, high, critical) =
                (found.low, found.medium, found.high, found.critical);
            said += &format!(
                "; findings: {critical} critical, {high} high, {medium} medium, {low} low"
            );
        }
        if found.ignored > 0 {
            said += &format!("; {} ignored", found.ignored);
        }
        for note in found.notes.iter().take(NOTES) {
            said += &format!("; {note}");
        }
    }
    said
}

/// The last line of a run, and its exit code.
pub fn verdict(run: &Run) -> (Exit, String) {
    let took = |at: domain::Timestamp| span(at.since(run.created));
    let (id, commit) = (&run.id, run.commit.short());
    match &run.phase {
        RunPhase::Green { at } => {
            (Exit::Ok, format!("{id} of {commit} is green after {}", took(*at)))
        }
        RunPhase::Red { at, stage } => {
            let hint = format!("`launchway history {id}` shows every step");
            (
                Exit::Failed,
                format!("{id} of {commit} is red at {stage} after {}; {hint}", took(*at)),
            )
        }
        RunPhase::Aborted { by, .. } => {
            (Exit::Interrupted, format!("{id} of {commit} was aborted by {by}"))
        }
        RunPhase::Invalid { mistakes, .. } => {
            let list: String = mistakes.iter().map(|mistake| format!("\n  {mistake}")).collect();
            (Exit::Usage, format!("the configuration of {commit} has mistakes:{list}"))
        }
        RunPhase::Planning | RunPhase::Running => {
            (Exit::Failed, format!("{id} is {}", run.phase.name()))
        }
    }
}

/// Until when a rollout is followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Until {
    /// The traffic is back at a release that was live before.
    Back,
    /// Nothing follows any more.
    End,
}

/// How far a rollout was followed.
pub enum Followed {
    Ended(Box<Rollout>),
    /// It waits for somebody's approval.
    Approval,
    /// The traffic went back.
    Back(Moved),
}

/// Follows the rollout.
pub async fn rollout(client: &Client, id: &str, until: Until) -> Result<Followed, Failure> {
    let mut feed = Lasting::begin(client, format!("/v1/rollouts/{id}/watch"), id).await?;
    let mut phase_said = String::new();
    let (mut notes, mut switches) = (Notes::default(), Vec::new());
    loop {
        let Next::Update(update) = feed.next().await? else { continue };
        match update {
            RolloutUpdate::At { approval: true, .. } => return Ok(Followed::Approval),
            RolloutUpdate::At { phase, hold, note, .. } => {
                if phase != phase_said {
                    let waits = hold.map_or(String::new(), |hold| format!(": waits for {hold}"));
                    eprintln!("{id} {phase}{waits}");
                    phase_said = phase;
                }
                if let Some(note) = note.filter(|note| notes.worth(note)) {
                    eprintln!("{id} {phase_said}: {}", line(&note));
                }
            }
            RolloutUpdate::Switched(moved) if switches.contains(&moved) => {}
            RolloutUpdate::Switched(moved) => {
                switches.push(moved);
                eprintln!("{id} {}", switched(&moved));
                if until == Until::Back && moved.back {
                    return Ok(Followed::Back(moved));
                }
            }
            RolloutUpdate::Ended { rollout } => return Ok(Followed::Ended(rollout)),
        }
    }
}

/// How long the switch took, and how long everything before it did.
fn switched(moved: &Moved) -> String {
    let [took, after] =
        [moved.switch_millis, moved.millis].map(|ms| brief(Duration::from_millis(ms)));
    format!("moved the traffic to slot {} within {took}, {after} after it was asked for", moved.to)
}

/// What is in the way changes often while something starts; once a second is enough for people.
#[derive(Default)]
struct Notes {
    last: Option<(String, std::time::Instant)>,
}

impl Notes {
    fn worth(&mut self, note: &str) -> bool {
        let stale = self
            .last
            .as_ref()
            .is_none_or(|(said, at)| said != note && at.elapsed() > Duration::from_secs(1));
        if stale {
            self.last = Some((note.into(), std::time::Instant::now()));
        }
        stale
    }
}

/// What is said of a rollout that has ended, and its exit code.
pub fn ending(rollout: &Rollout) -> (Exit, String) {
    let (id, release, environment) = (&rollout.id, &rollout.release, &rollout.environment);
    let Phase::Ended { end } = &rollout.phase else {
        let caveat = rollout.caveat().map_or(String::new(), |caveat| format!("; {caveat}"));
        return (Exit::Ok, format!("{release} is live in {environment}{caveat}"));
    };
    let exit = match end {
        End::RolledBack { .. } => Exit::RolledBack,
        End::Rejected { .. } | End::Expired => Exit::Refused,
        End::Failed { .. }
        | End::Stranded { .. }
        | End::Aborted { .. }
        | End::Superseded { .. } => Exit::Failed,
    };
    (exit, format!("{id} of {release} in {environment} {end}"))
}

/// What a failure left behind, on standard error.
pub fn show_evidence(evidence: &Evidence) {
    for (replica, probes) in &evidence.probes {
        eprintln!("\nprobes of {replica}:");
        for probe in probes.iter().rev().take(5).rev() {
            eprintln!("  {} {} -> {}", probe.at, probe.request, probe.answer);
        }
    }
    for (source, lines) in &evidence.logs {
        eprintln!("\nlast lines of {source}:");
        for line in &lines[lines.len().saturating_sub(TAIL)..] {
            eprintln!("  {line}");
        }
    }
    if !evidence.differs.is_empty() {
        eprintln!("\nfiles that differ from the live release:");
        for file in &evidence.differs {
            eprintln!("  {file}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_another_server_tells_once_more_is_shown_once() {
        let name = |text: &str| text.parse::<StepName>().unwrap();
        let line = |text: &str| RunUpdate::Line {
            stage: domain::pipeline::Stage::Test,
            step: name("unit"),
            text: text.into(),
        };
        let waits = || RunUpdate::Waiting { reason: "run-1".into() };
        let mut told = Told::default();
        let first = [waits(), line("a"), line("a"), line("b")];
        assert!(first.iter().all(|update| !told.knows(update)));
        told.again();
        let again = [waits(), line("a"), line("a"), line("b"), line("b"), line("c")];
        let new: Vec<bool> = again.iter().map(|update| !told.knows(update)).collect();
        assert_eq!(new, [false, false, false, false, true, true]);
    }

    #[test]
    fn the_time_of_a_switch_is_not_that_of_the_queue_before_it() {
        let to = domain::Color::Green;
        let moved = Moved { to, back: false, millis: 51_221, switch_millis: 12 };
        let said = "moved the traffic to slot green within 12 ms, 51 s after it was asked for";
        assert_eq!(switched(&moved), said);
    }
}
