//! Requests that change something: each becomes an event, which `domain` takes or refuses.

use axum::Json;
use axum::extract::{ConnectInfo, State};
use domain::app::{App, Event, number};
use domain::config::{Environment, Project};
use domain::pipeline::{Run, RunEvent};
use domain::rollout::{Kind, Phase, Rollout, RolloutEvent};
use domain::{CommitId, EnvironmentName, Identity, ReleaseId, RolloutId, RunId};

use super::Api;
use super::answer::{Answer, Body, Problem};
use super::peer::Peer;
use super::wire::{
    Decided, DeployAnswer, DeployRequest, PromoteRequest, RejectRequest, RollbackRequest,
    RunAnswer, RunRequest, Target,
};

pub async fn run(
    State(api): State<Api>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    Body(request): Body<RunRequest>,
) -> Answer<RunAnswer> {
    let commit = api.world.pipeline.resolve(&request.revision).await?;
    let run = match request.deploy_to {
        Some(environment) => {
            let wish = wish(&api, commit, &request.revision, environment).await?;
            build(&api, &api.handle.app(), wish, peer.identity()?).await?
        }
        None => request_run(&api, commit, None, None, peer.identity()?).await?,
    };
    Ok(Json(RunAnswer { run }))
}

pub async fn deploy(
    State(api): State<Api>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    Body(DeployRequest { environment, what, built_by }): Body<DeployRequest>,
) -> Answer<DeployAnswer> {
    let app = api.handle.app();
    if let Ok(release) = ReleaseId::new(what.as_str()) {
        return deploy_release(&api, environment, release, peer).await;
    }
    if let Some(rollout) = built_by.and_then(|run| brought_by(&app, &run, &environment)) {
        return Ok(Json(DeployAnswer::RollsOut(rollout)));
    }
    let commit = api.world.pipeline.resolve(&what).await?;
    if let Some(release) = best_release(&app, &commit, &environment) {
        return deploy_release(&api, environment, release, peer).await;
    }
    let wish = wish(&api, commit, &what, environment).await?;
    // Its branch may have brought it while git was asked. The same look tells what is built and what is being built:
    // no run ends between the two.
    let app = api.handle.app();
    if let Some(release) = best_release(&app, &wish.commit, &wish.environment) {
        return deploy_release(&api, wish.environment, release, peer).await;
    }
    Ok(Json(DeployAnswer::Builds(build(&api, &app, wish, peer.identity()?).await?)))
}

pub async fn promote(
    State(api): State<Api>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    Body(PromoteRequest { from, to }): Body<PromoteRequest>,
) -> Answer<DeployAnswer> {
    let app = api.handle.app();
    let (release, origin) = match ReleaseId::new(from.as_str()) {
        Ok(release) => (release, None),
        Err(_) => {
            let origin = known(&app, &from)?;
            let live = app.environments.get(&origin).and_then(|e| e.live_release()).cloned();
            let live = live.ok_or_else(|| {
                Problem::conflict(format!("nothing is live in {origin}"))
                    .help(format!("deploy something there: `launchway deploy {origin}`"))
            })?;
            (live, Some(origin))
        }
    };
    let to = match to {
        Some(to) => known(&app, to.as_str())?,
        None => next_after(&app, &release, origin.as_ref())?,
    };
    deploy_release(&api, to, release, peer).await
}

pub async fn approve(
    State(api): State<Api>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    Body(Target { target }): Body<Target>,
) -> Answer<Decided> {
    let rollout = awaiting(&api.handle.app(), &target)?;
    let event = RolloutEvent::Approved { by: peer.identity()?, groups: peer.groups()? };
    decide(&api, &rollout, event).await?;
    let said = format!("{} may go to {}", rollout.release, rollout.environment);
    Ok(Json(Decided { id: rollout.id.to_string(), said }))
}

pub async fn reject(
    State(api): State<Api>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    Body(RejectRequest { target, reason }): Body<RejectRequest>,
) -> Answer<Decided> {
    let rollout = awaiting(&api.handle.app(), &target)?;
    let (by, groups) = (peer.identity()?, peer.groups()?);
    decide(&api, &rollout, RolloutEvent::Rejected { by, groups, reason }).await?;
    let said = format!("{} does not go to {}", rollout.release, rollout.environment);
    Ok(Json(Decided { id: rollout.id.to_string(), said }))
}

pub async fn abort(
    State(api): State<Api>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    Body(Target { target }): Body<Target>,
) -> Answer<Decided> {
    let by = peer.identity()?;
    let app = api.handle.app();
    if let Ok(run) = RunId::new(target.as_str()) {
        if !app.runs.contains_key(&run) {
            return Err(no_such("run", &target));
        }
        let event = Event::Run { run, event: RunEvent::Aborted { by } };
        api.handle.offer(event).await?;
        return Ok(Json(Decided { said: format!("{target} is aborted"), id: target }));
    }
    let rollout = unfinished(&app, &target)?;
    let app = decide(&api, &rollout, RolloutEvent::Aborted { by }).await?;
    let back = app.rollouts.get(&rollout.id).is_some_and(|rollout| !rollout.ended());
    let said = match back {
        true => {
            format!("{} is aborted; {} goes back to what it was", rollout.id, rollout.environment)
        }
        false => format!("{} is aborted", rollout.id),
    };
    Ok(Json(Decided { id: rollout.id.to_string(), said }))
}

pub async fn rollback(
    State(api): State<Api>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    Body(RollbackRequest { environment }): Body<RollbackRequest>,
) -> Answer<DeployAnswer> {
    let before = api.handle.app();
    known(&before, environment.as_str())?;
    let event = Event::RollbackRequested { environment: environment.clone(), by: peer.identity()? };
    let app = api.handle.offer(event).await?;
    // A rollout that was under way after its switch is itself what goes back.
    let reverting = app.active(&environment).filter(|r| r.kind == Kind::Deploy);
    let id = reverting.map(|rollout| rollout.id.clone());
    let id = id
        .or_else(|| newest_rollout(&app, &environment))
        .ok_or_else(|| Problem::conflict(format!("{environment} went back and did not say how")))?;
    Ok(Json(DeployAnswer::RollsOut(id)))
}

async fn decide(
    api: &Api,
    rollout: &Rollout,
    event: RolloutEvent,
) -> Result<std::sync::Arc<App>, Problem> {
    let event = Event::Rollout { rollout: rollout.id.clone(), event };
    Ok(api.handle.offer(event).await?)
}

async fn deploy_release(
    api: &Api,
    environment: EnvironmentName,
    release: ReleaseId,
    peer: Peer,
) -> Answer<DeployAnswer> {
    let app = api.handle.app();
    if !app.releases.contains_key(&release) {
        return Err(no_such("release", release.as_str()));
    }
    if let Some(project) = app.projects.get(&release) {
        config_of(project, release.as_str(), &environment)?;
    }
    let here = || app.rollouts.values().filter(|r| r.environment == environment && !r.ended());
    let same = here().find(|r| r.release == release && r.kind == Kind::Deploy);
    // What another one waits to replace does not stay: the newest wish wins.
    let queued = here().find(|r| r.phase == Phase::Queued && r.release != release);
    if let Some(rollout) = same.filter(|_| queued.is_none()) {
        return Ok(Json(DeployAnswer::RollsOut(rollout.id.clone())));
    }
    let live = app.environments.get(&environment).and_then(|state| state.live_release());
    if live == Some(&release) && app.active(&environment).is_none() {
        let next = to_replace(&app, &environment, here().next());
        return Ok(Json(DeployAnswer::Live { release, next }));
    }
    let event =
        Event::DeployRequested { environment: environment.clone(), release, by: peer.identity()? };
    let app = api.handle.offer(event).await?;
    let rollout = newest_rollout(&app, &environment);
    let rollout = rollout.ok_or_else(|| Problem::conflict("the rollout is gone already"))?;
    Ok(Json(DeployAnswer::RollsOut(rollout)))
}

/// What is on its way to replace the live release: what waits for approval, or a build.
fn to_replace(app: &App, name: &EnvironmentName, waiting: Option<&Rollout>) -> Option<String> {
    if let Some(waiting) = waiting {
        let (id, phase, way_out) = (&waiting.id, waiting.phase.name(), waiting.way_out()?);
        return Some(format!("{id} ({}, {phase}) is to replace it; {way_out}", waiting.release));
    }
    let follows = app.routed(name).and_then(|config| config.branch.as_ref());
    let brings = |run: &&Run| {
        let followed = run.branch.is_some() && run.branch.as_ref() == follows;
        !run.ended() && (followed || run.deploy_to.as_ref() == Some(name))
    };
    let run = app.runs.values().filter(brings).max_by_key(|run| number(&run.id))?;
    let (id, commit) = (&run.id, run.commit.short());
    Some(format!("{id} builds {commit} to replace it; `launchway abort {id}` stops that"))
}

/// A commit that somebody wants built for an environment, with what git knows of it.
struct Wish {
    commit: CommitId,
    environment: EnvironmentName,
    /// The branch that the environment follows.
    followed: Option<String>,
    /// The same, if the commit is its head: there is one run of it, whoever asks first.
    head_of: Option<String>,
}

impl Wish {
    /// The run under way that serves it.
    fn served(&self, app: &App) -> Option<RunId> {
        let brings = |run: &&Run| {
            run.deploy_to.as_ref() == Some(&self.environment)
                || (run.branch.is_some() && run.branch == self.followed)
        };
        let run = being_built(app, &self.commit).find(brings);
        let any = || being_built(app, &self.commit).find(|_| self.head_of.is_none());
        run.or_else(any).map(|run| run.id.clone())
    }
}

async fn wish(
    api: &Api,
    commit: CommitId,
    revision: &str,
    environment: EnvironmentName,
) -> Result<Wish, Problem> {
    let followed = may_be_built_for(api, &commit, revision, &environment).await?;
    let heads = api.world.pipeline.branches().await?;
    let head_of = followed.clone().filter(|branch| heads.get(branch) == Some(&commit));
    Ok(Wish { commit, environment, followed, head_of })
}

/// The run that serves the wish: one that is under way in `app`, or a new one.
async fn build(api: &Api, app: &App, wish: Wish, by: Identity) -> Result<RunId, Problem> {
    if let Some(run) = wish.served(app) {
        return Ok(run);
    }
    let (branch, to) = (wish.head_of.clone(), Some(wish.environment.clone()));
    match request_run(api, wish.commit.clone(), branch, to, by).await {
        Ok(run) => Ok(run),
        // Somebody else was faster.
        Err(refused) => wish.served(&api.handle.app()).ok_or(refused),
    }
}

async fn request_run(
    api: &Api,
    commit: CommitId,
    branch: Option<String>,
    deploy_to: Option<EnvironmentName>,
    by: Identity,
) -> Result<RunId, Problem> {
    let event = Event::RunRequested { commit, branch, deploy_to, by };
    let app = api.handle.offer(event).await?;
    let newest = app.runs.keys().max_by_key(|id| number(*id)).cloned();
    newest.ok_or_else(|| Problem::conflict("the run is gone already"))
}

/// Refuses at once what would be refused after the build. The branch that the environment follows.
async fn may_be_built_for(
    api: &Api,
    commit: &CommitId,
    revision: &str,
    name: &EnvironmentName,
) -> Result<Option<String>, Problem> {
    let (_, project) = api.world.pipeline.plan(commit).await?;
    let environment = config_of(&project, revision, name)?;
    match &environment.after {
        Some(first) => Err(Problem::gate(format!(
            "{revision} was not good in {first} yet, and {name} comes after it"
        ))
        .help(format!("deploy it there first: `launchway deploy {first} {revision}`"))),
        None => Ok(environment.branch.clone()),
    }
}

/// What a release or a commit says of an environment, if it has one of this name.
fn config_of<'a>(
    project: &'a Project,
    of: &str,
    name: &EnvironmentName,
) -> Result<&'a Environment, Problem> {
    project.environment(name).ok_or_else(|| {
        let known: Vec<&str> = project.environments.iter().map(|e| e.name.as_str()).collect();
        Problem::missing(format!("{of} knows no environment {name}; it has {}", known.join(", ")))
    })
}

/// The newest release of the commit; of several, one that the environment would take.
fn best_release(app: &App, commit: &CommitId, name: &EnvironmentName) -> Option<ReleaseId> {
    let of_commit = app.releases.values().filter(|release| release.commit.id == *commit);
    let admitted = |release: &&domain::Release| {
        let project = app.projects.get(&release.id);
        let after = project.and_then(|p| p.environment(name)?.after.as_ref());
        after.is_none_or(|first| {
            app.environments.get(first).is_some_and(|state| state.proven.contains(&release.id))
        })
    };
    let taken = of_commit.filter(admitted).max_by_key(|release| number(&release.id));
    taken.or_else(|| app.release_of(commit)).map(|release| release.id.clone())
}

fn being_built<'a>(app: &'a App, commit: &'a CommitId) -> impl Iterator<Item = &'a Run> {
    app.runs.values().filter(move |run| run.commit == *commit && !run.ended())
}

/// The newest rollout of what the run made in the environment, also one that is over.
fn brought_by(app: &App, run: &RunId, environment: &EnvironmentName) -> Option<RolloutId> {
    let release = app.releases.values().find(|release| release.run == *run)?;
    let same = |r: &&Rollout| {
        r.environment == *environment && r.release == release.id && r.kind == Kind::Deploy
    };
    let all = app.rollouts.values().filter(same);
    all.max_by_key(|rollout| number(&rollout.id)).map(|rollout| rollout.id.clone())
}

fn newest_rollout(app: &App, environment: &EnvironmentName) -> Option<RolloutId> {
    let here = app.rollouts.values().filter(|rollout| rollout.environment == *environment);
    here.map(|rollout| rollout.id.clone()).max_by_key(number)
}

/// The one environment that comes after where the release was good.
fn next_after(
    app: &App,
    release: &ReleaseId,
    origin: Option<&EnvironmentName>,
) -> Result<EnvironmentName, Problem> {
    let project = app.projects.get(release).ok_or_else(|| no_such("release", release.as_str()))?;
    let follows = |after: &EnvironmentName| match origin {
        Some(origin) => after == origin,
        None => true,
    };
    let next = project.environments.iter().filter(|e| e.after.as_ref().is_some_and(follows));
    let next: Vec<&EnvironmentName> = next.map(|environment| &environment.name).collect();
    match next.as_slice() {
        [one] => Ok((*one).clone()),
        [] => Err(Problem::usage("no environment comes after it").help("name one with --to")),
        many => {
            let names: Vec<&str> = many.iter().map(|name| name.as_str()).collect();
            let error = format!("it could go to {}", names.join(" or "));
            Err(Problem::usage(error).help("name one with --to"))
        }
    }
}

/// The environment of this name, if there is one.
pub(super) fn known(app: &App, name: &str) -> Result<EnvironmentName, Problem> {
    let all = control::server::known_environments(app);
    let found = all.iter().find(|known| known.as_str() == name).cloned();
    found.ok_or_else(|| {
        if all.is_empty() {
            return Problem::missing(format!("there is no environment {name} yet"))
                .help("nothing was built so far: `launchway run` builds the newest commit");
        }
        let names: Vec<&str> = all.iter().map(|name| name.as_str()).collect();
        Problem::missing(format!("there is no environment {name}"))
            .help(format!("it has {}", names.join(", ")))
    })
}

/// The rollout that waits for approval: by its id, or that of an environment.
fn awaiting(app: &App, target: &str) -> Result<Rollout, Problem> {
    let waits = |r: &&Rollout| matches!(r.phase, Phase::AwaitingApproval { .. });
    if let Ok(id) = RolloutId::new(target) {
        let rollout = app.rollouts.get(&id).ok_or_else(|| no_such("rollout", target))?;
        if !waits(&rollout) {
            let error = format!("{id} does not wait for approval, it is {}", rollout.phase.name());
            return Err(Problem::conflict(error));
        }
        return Ok(rollout.clone());
    }
    let environment = known(app, target)?;
    let here = app.rollouts.values().filter(|rollout| rollout.environment == environment);
    here.filter(waits)
        .max_by_key(|rollout| number(&rollout.id))
        .cloned()
        .ok_or_else(|| Problem::conflict(format!("nothing waits for approval in {environment}")))
}

/// The rollout to abort: by its id, or the one under way in an environment, or the one that waits there.
fn unfinished(app: &App, target: &str) -> Result<Rollout, Problem> {
    if let Ok(id) = RolloutId::new(target) {
        return app.rollouts.get(&id).cloned().ok_or_else(|| no_such("rollout", target));
    }
    let environment = known(app, target)?;
    let waiting = || {
        let here = app.rollouts.values().filter(|r| r.environment == environment && !r.ended());
        here.max_by_key(|rollout| number(&rollout.id))
    };
    let found = app.active(&environment).or_else(waiting).cloned();
    found.ok_or_else(|| Problem::conflict(format!("nothing is under way in {environment}")))
}

pub(super) fn no_such(kind: &str, id: &str) -> Problem {
    Problem::missing(format!("there is no {kind} {id}")).help("see `launchway history`")
}
