//! Checks of the candidate, at its preview host, before it gets the traffic.

use std::collections::BTreeMap;

use domain::config::{Performance, Step};
use domain::judge::performance::{self, Verdict};
use domain::pipeline::Outcome;
use domain::rollout::{Check, Evidence, RolloutEvent};

use super::{Effect, Job, evidence};
use crate::load::{self, Load, Target};
use crate::pipeline::CheckRequest;

pub async fn perform(job: &Job<'_>, index: usize) -> Effect {
    let check = job.rollout.gates.checks.get(index);
    let check = check.ok_or_else(|| Evidence::of(format!("there is no check {index}")))?;
    let notes = match check {
        Check::E2e(step) => e2e(job, index, step).await?,
        Check::Performance(wanted) => performance(job, wanted).await?,
    };
    Ok(RolloutEvent::CheckPassed { check: index, notes })
}

async fn e2e(job: &Job<'_>, index: usize, step: &Step) -> Result<Vec<String>, Evidence> {
    let host = job.placed.environment.preview_host();
    let base = format!("http://{host}:{}", job.world.listen.port());
    let env = BTreeMap::from([("BASE_URL".to_string(), base)]);
    let scope = format!("{}-{index}", job.rollout.id);
    let commit = &job.placed.release.commit.id;
    let request = CheckRequest { scope: &scope, commit, step, env: &env };
    let result = job.world.pipeline.check(request, job.call.cancel.clone()).await;
    // What is left behind is swept when the server starts again.
    let _swept_later = job.world.pipeline.finish(&scope).await;
    if result.outcome == Outcome::Passed {
        let flaky = if result.flaky { ", on a retry only" } else { "" };
        return Ok(vec![format!("e2e {} passed{flaky}", step.name)]);
    }
    let cause = result.cause.unwrap_or_else(|| format!("{:?}", result.outcome));
    let mut evidence = Evidence::of(format!("e2e {}: {cause}", step.name));
    evidence.logs.insert(step.name.to_string(), result.tail);
    evidence.differs = evidence::differs(job).await;
    Err(evidence)
}

async fn performance(job: &Job<'_>, wanted: &Performance) -> Result<Vec<String>, Evidence> {
    let host = &job.placed.environment.host;
    let target = |host: String| Target { connect: job.world.listen, host };
    let mut load = Load::new(target(job.placed.environment.preview_host()), wanted.rate);
    load.duration = Some(wanted.duration);
    load.paths.clone_from(&wanted.paths);
    let failed = |error: load::LoadError| Evidence::of(error.to_string());
    // The first release of an environment has nothing to be compared with.
    let compare = wanted.versus_live.is_some() && job.rollout.previous.is_some();
    let versus_live = wanted.versus_live.filter(|_| compare);
    let (candidate, live) = if compare {
        let pair =
            load::pair(&load, target(host.clone()), &job.call.cancel).await.map_err(failed)?;
        (pair.candidate, Some(pair.live))
    } else {
        (load::run(&load, &job.call.cancel).await.map_err(failed)?, None)
    };
    let summary = candidate.summary();
    let live = live.map(|live| live.summary());
    let wanted = Performance { versus_live, ..wanted.clone() };
    match performance::judge(&wanted, &summary, live.as_ref()) {
        Verdict::Passed { notes } => {
            let (p95, p99) = (summary.p95.as_millis(), summary.p99.as_millis());
            let seen = format!(
                "performance: {} requests at {}, {} failed, p95 {p95} ms, p99 {p99} ms",
                summary.sent, wanted.rate, summary.failed
            );
            Ok(std::iter::once(seen).chain(notes).collect())
        }
        Verdict::Failed { reasons } => {
            let mut evidence = Evidence::of(format!("performance: {}", reasons.join("; ")));
            evidence.differs = evidence::differs(job).await;
            Err(evidence)
        }
        Verdict::Unavailable { why } => Err(Evidence::of(format!(
            "performance could not be measured, and that is not a pass: {why}"
        ))),
    }
}
