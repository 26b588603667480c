//! The steps of the story, and the traffic that flows through all of them.

use std::time::{Duration, Instant};

use control::load::{
    Counters, FailedRequest, Incident, Lasting, LastingLoad, Load, Target, Traffic,
};
use control::observer::Observer;
use domain::app::App;
use domain::pipeline::{RunPhase, Stage as Pipeline};
use domain::rollout::{End, Phase, Rollout, Switch};
use domain::units::Rate;
use domain::{EnvironmentName, RolloutId, RunId, Timestamp};

use super::edits::{AUTUMN, BROKEN_UNIT, Change, FIVE_PERCENT, ONLY_IN_PRODUCTION, VISIBLE};
use super::stage::{DemoError, Stage};
use super::summary::{Step, Summary, Switched};

const RATE: Rate = Rate(200.0);
/// Visitors that look at the counter and at the ticker all the time.
const WEBSOCKETS: usize = 20;
const EVENT_STREAMS: usize = 10;
/// For anything of the story: the first build fetches packages.
const PATIENCE: Duration = Duration::from_secs(600);

const PAUSE: Duration = Duration::from_millis(20);

/// The story as far as it is told.
pub struct Story {
    stage: Stage,
    observer: Observer,
    traffic: Option<Traffic>,
    lasting: Option<Lasting>,
    /// While the bad release had the traffic.
    bad: Option<(Timestamp, Timestamp)>,
    summary: Summary,
    step: Option<Open>,
    rollbacks: Vec<Duration>,
}

/// A step that is not done.
struct Open {
    name: &'static str,
    expected: String,
    began: Instant,
    before: Counters,
}

impl Story {
    /// Raises the curtain: the server starts.
    pub async fn begin(mut stage: Stage) -> Result<Self, DemoError> {
        say(&format!("The stage is {}", stage.folder.display()));
        stage.start_server()?;
        let observer = Observer::of(&stage.state());
        let summary = Summary::new(stage.engine);
        Ok(Self {
            stage,
            observer,
            traffic: None,
            lasting: None,
            bad: None,
            summary,
            step: None,
            rollbacks: Vec::new(),
        })
    }

    /// All steps, in their order. Stops at the first that is not as expected.
    pub async fn tell(&mut self) -> Result<(), DemoError> {
        self.first_release().await?;
        self.visible_change().await?;
        self.failing_unit_test().await?;
        self.stopped_in_staging().await?;
        self.bad_in_production().await?;
        self.killed_server().await?;
        self.rollback().await
    }

    async fn first_release(&mut self) -> Result<(), DemoError> {
        self.open("first release", "release r1 live in production, edition First Flush");
        self.reach_production(None).await?;
        let edition = self.edition().await?;
        self.close(edition == "First Flush", format!("edition {edition}"))
    }

    async fn visible_change(&mut self) -> Result<(), DemoError> {
        self.open("visible change", "edition Second Flush live in production");
        self.reach_production(Some(&VISIBLE)).await?;
        let edition = self.edition().await?;
        self.close(edition == "Second Flush", format!("edition {edition}"))
    }

    async fn failing_unit_test(&mut self) -> Result<(), DemoError> {
        self.open("failing unit test", "the run stops at stage test; nothing is deployed");
        let rollouts = self.observer.app.rollouts.len();
        let run = self.commit(&BROKEN_UNIT).await?;
        let (ok, seen) = self
            .wait("the end of the run", move |app| {
                let run = app.runs.get(&run).filter(|run| run.ended())?;
                let stopped = matches!(run.phase, RunPhase::Red { stage: Pipeline::Test, .. });
                let quiet = app.rollouts.len() == rollouts;
                let at = match &run.phase {
                    RunPhase::Red { stage, .. } => format!("red at {stage}"),
                    other => other.name().into(),
                };
                Some((stopped && quiet, format!("{} is {at}", run.id)))
            })
            .await?;
        self.close(ok, seen)
    }

    async fn stopped_in_staging(&mut self) -> Result<(), DemoError> {
        self.open("5% errors", "stopped in staging before it gets traffic; production unchanged");
        self.commit(&FIVE_PERCENT).await?;
        let id = self.next_rollout();
        let ended = self.rollout(&id, "the end of the rollout in staging", Rollout::ended).await?;
        let edition = self.edition().await?;
        let stopped = matches!(ended.phase, Phase::Ended { end: End::Failed { .. } });
        let untouched = ended.switches.is_empty() && edition == "Second Flush";
        self.close(stopped && untouched, format!("{}: {}", ended.id, how_it_ended(&ended)))
    }

    async fn bad_in_production(&mut self) -> Result<(), DemoError> {
        self.open("bad in production", "rolled back by the bake, in under 1 s from the verdict");
        let run = self.commit(&ONLY_IN_PRODUCTION).await?;
        let id = self.approved(run).await?;
        let ended =
            self.rollout(&id, "the end of the rollout in production", Rollout::ended).await?;
        let back = matches!(ended.phase, Phase::Ended { end: End::RolledBack { .. } });
        let (there, here) = (ended.switches.first(), ended.switches.get(1));
        let (Some(there), Some(here)) = (there, here) else {
            return self.close(false, how_it_ended(&ended));
        };
        let last = here.last_request.max(here.published).unwrap_or(here.decided);
        self.bad = Some((there.decided, last));
        let took = way_back(here);
        self.rollbacks.push(took);
        let edition = self.edition().await?;
        let quick = took < Duration::from_secs(1);
        let seen = format!("{}, back after {} ms", how_it_ended(&ended), took.as_millis());
        self.close(back && quick && edition == "Second Flush", seen)
    }

    async fn killed_server(&mut self) -> Result<(), DemoError> {
        self.open(
            "server killed",
            "kill -9 in the middle of the rollout; a new server finishes it",
        );
        let run = self.commit(&AUTUMN).await?;
        let id = self.approved(run).await?;
        self.rollout(&id, "the rollout to start its replicas", |r| {
            r.phase == Phase::Starting || matches!(r.phase, Phase::Baking { .. })
        })
        .await?;
        let pid = self.stage.kill_server()?;
        let phase = self.observer.look().await?.rollouts[&id].phase.name();
        say(&format!("kill -9 {pid}, while {id} was {phase}; traffic goes on"));
        tokio::time::sleep(Duration::from_secs(2)).await;
        self.stage.start_server()?;
        let ended = self.rollout(&id, "the rollout to be finished", Rollout::ended).await?;
        let edition = self.edition().await?;
        let ok = ended.phase == Phase::Live && edition == "Autumn Flush";
        self.close(ok, format!("killed while {phase}; {}, edition {edition}", how_it_ended(&ended)))
    }

    async fn rollback(&mut self) -> Result<(), DemoError> {
        self.open("rollback", "`launchway rollback production` goes back in under 1 s");
        let id = self.next_rollout();
        self.stage.verb(&["rollback", "production"]).await?;
        let ended = self.rollout(&id, "the rollback", Rollout::ended).await?;
        let took = ended.switches.first().map(way_back);
        self.rollbacks.extend(took);
        let edition = self.edition().await?;
        let quick = took.is_some_and(|took| took < Duration::from_secs(1));
        let ok = ended.phase == Phase::Live && quick && edition == "Second Flush";
        let ms = took.map_or("?".into(), |took| took.as_millis().to_string());
        self.close(ok, format!("edition {edition} after {ms} ms"))
    }

    /// Stops the traffic, takes everything down unless it is to stay, and adds up.
    pub async fn end(
        mut self,
        stopped: Option<&DemoError>,
        stay: bool,
    ) -> Result<Summary, DemoError> {
        self.summary.stopped = stopped.map(ToString::to_string);
        if let Some(open) = self.step.take() {
            let ended = self.stage.server_ended().or_else(|| self.summary.stopped.clone());
            self.record(open, false, ended.unwrap_or_default());
        }
        let mut failures: Vec<FailedRequest> = Vec::new();
        if let Some(traffic) = self.traffic.take() {
            failures = traffic.failures();
            let report = traffic.stop().await;
            self.summary.sent = report.sent;
            let bad = failures.iter().filter(|failure| self.excused(failure)).count() as u64;
            self.summary.failed_in_bad_release = bad;
            self.summary.failed_outside_bad_release = report.failed().saturating_sub(bad);
        }
        let incidents = self.count_lasting().await;
        for incident in incidents.iter().take(20) {
            say(&format!("a client that stays: {incident:?}"));
        }
        self.observer.look().await?;
        self.summary.switches = switches(&self.observer.app);
        let slowest = self.rollbacks.iter().max();
        self.summary.rollback_ms = slowest.map(|took| took.as_millis() as u64);
        for failure in failures.iter().filter(|f| !self.excused(f)).take(20) {
            say(&format!("failed: {failure:?}"));
        }
        if stay {
            self.say_how_to_look_around();
        } else {
            let state = self.stage.state();
            let in_docker = self.stage.clear().await?;
            for left in &in_docker {
                say(&format!("left in Docker: {left}"));
            }
            self.summary.left_running = left_running(&state) + in_docker.len();
        }
        self.summary.ok = self.summary.steps.len() == 7
            && self.summary.steps.iter().all(|step| step.ok)
            && self.summary.failed_outside_bad_release == 0
            && self.summary.abnormal_closes == 0
            && self.summary.failed_opens == 0
            && self.summary.left_running == 0;
        Ok(self.summary)
    }

    /// Closes the clients that stayed and adds up what they saw; what they should not have seen.
    async fn count_lasting(&mut self) -> Vec<Incident> {
        let Some(lasting) = self.lasting.take() else { return Vec::new() };
        let report = lasting.stop().await;
        let mut incidents = report.incidents.clone();
        incidents.retain(|incident| !self.excused_open(incident));
        let failed_opens = incidents.iter().filter(|incident| incident.opening).count() as u64;
        let summary = &mut self.summary;
        (summary.websockets, summary.event_streams) = (WEBSOCKETS as u64, EVENT_STREAMS as u64);
        (summary.polite_closes, summary.abnormal_closes) = (report.polite(), report.abnormal());
        summary.failed_opens = failed_opens;
        let counts = [("websockets", report.websockets), ("event_streams", report.event_streams)];
        summary.lasting = counts.into();
        incidents
    }

    /// The bad release answers some of the attempts to open a stream with 500; it breaks none that is open.
    fn excused_open(&self, incident: &Incident) -> bool {
        let bad = |(from, until)| incident.at >= from && incident.at <= until;
        incident.opening && self.bad.is_some_and(bad)
    }

    /// It may have been the bad release that failed it.
    fn excused(&self, failure: &FailedRequest) -> bool {
        self.bad.is_some_and(|(from, until)| failure.ended >= from && failure.due <= until)
    }

    fn say_how_to_look_around(&self) {
        let (state, repository) = (self.stage.state(), self.stage.repository());
        let flags = format!("--state {} -C {}", state.display(), repository.display());
        say(&format!("All of it stays. Look:  launchway {flags} status"));
        say(&format!("Commit to develop in {} and watch", repository.display()));
        say(&format!("Away with it:           launchway {flags} down --with-data"));
    }

    /// A commit, all the way to production; the commit that was there at first if no change is given.
    async fn reach_production(&mut self, change: Option<&Change>) -> Result<(), DemoError> {
        let run = match change {
            Some(change) => self.commit(change).await?,
            None => RunId::nth(1),
        };
        let id = self.approved(run).await?;
        if self.traffic.is_none() {
            self.rollout(&id, "the first switch", |r| {
                r.switches.iter().any(|switch| switch.published.is_some())
            })
            .await?;
            self.start_traffic()?;
        }
        let ended = self.rollout(&id, "the release to be live", Rollout::ended).await?;
        match ended.phase {
            Phase::Live => Ok(()),
            _ => self.close(false, how_it_ended(&ended)),
        }
    }

    /// Waits until what the run makes asks to go to production, and lets it.
    async fn approved(&mut self, run: RunId) -> Result<RolloutId, DemoError> {
        let asks = self.wait("a release to ask for production", |app| asks(app, &run)).await?;
        match asks {
            Ok(id) => {
                self.stage.verb(&["approve", "production"]).await?;
                Ok(id)
            }
            Err(seen) => {
                let (step, expected) = self.opened();
                Err(DemoError::Unexpected { step, expected, seen })
            }
        }
    }

    /// Commits; the run that the server makes of it.
    async fn commit(&mut self, change: &Change) -> Result<RunId, DemoError> {
        let run = self.observer.look().await?.next_run_id();
        say(&format!("$ git commit -m {:?}", change.subject));
        self.stage.change(change)?;
        Ok(run)
    }

    fn start_traffic(&mut self) -> Result<(), DemoError> {
        let mut load = Load::new(self.target()?, RATE);
        load.paths = vec![
            "/".into(),
            "/api/teas".into(),
            "/api/version".into(),
            "/api/teas?q=oolong".into(),
        ];
        say(&format!(
            "Traffic: {RATE}, {WEBSOCKETS} WebSockets and {EVENT_STREAMS} streams of events through the \
             edge to production, from now on"
        ));
        self.lasting = Some(Lasting::start(LastingLoad {
            websockets: WEBSOCKETS,
            websocket_path: "/api/live".into(),
            event_streams: EVENT_STREAMS,
            event_path: "/api/events".into(),
            ..LastingLoad::new(load.target.clone())
        }));
        self.traffic = Some(Traffic::start(load)?);
        Ok(())
    }

    fn target(&self) -> Result<Target, DemoError> {
        let path = control::server::edge_folder(&self.stage.state()).join("listen");
        let listen = std::fs::read_to_string(&path);
        let listen = listen.map_err(|source| DemoError::Io {
            doing: "reading",
            path: path.clone(),
            source,
        })?;
        let connect =
            listen.trim().parse().map_err(|_| DemoError::Anchor { path, text: listen })?;
        let routes = self.observer.app.table.environments.get(&production());
        let host = routes.map(|routes| routes.host.clone()).unwrap_or_default();
        Ok(Target { connect, host })
    }

    /// What production says it is.
    async fn edition(&self) -> Result<String, DemoError> {
        let target = self.target()?;
        let failed = |why: String| DemoError::Command { command: "GET /api/version".into(), why };
        let body = super::stage::get(&target, "/api/version").await.map_err(failed)?;
        let value: serde_json::Value =
            serde_json::from_str(&body).map_err(|error| failed(error.to_string()))?;
        Ok(value["edition"].as_str().unwrap_or("unknown").into())
    }

    async fn rollout(
        &mut self,
        id: &RolloutId,
        what: &str,
        reached: impl Fn(&Rollout) -> bool,
    ) -> Result<Rollout, DemoError> {
        let found = |app: &App| {
            app.rollouts.get(id).filter(|rollout| reached(rollout) || rollout.ended()).cloned()
        };
        self.wait(what, found).await
    }

    /// Looks until `found` finds something; a server that died by itself is not waited for.
    async fn wait<T>(
        &mut self,
        what: &str,
        found: impl Fn(&App) -> Option<T>,
    ) -> Result<T, DemoError> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(found) = found(self.observer.look().await?) {
                return Ok(found);
            }
            if let Some(why) = self.stage.server_ended() {
                return Err(DemoError::Server { what: what.into(), why });
            }
            if Instant::now() > deadline {
                return Err(DemoError::Late { what: what.into() });
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    fn next_rollout(&self) -> RolloutId {
        let newest = self.observer.app.rollouts.keys().map(domain::app::number).max();
        RolloutId::nth(newest.unwrap_or(0) + 1)
    }

    fn open(&mut self, name: &'static str, expected: &str) {
        say("");
        say(&format!("{}. {name}: {expected}", self.summary.steps.len() + 1));
        let before = self.counters();
        self.step = Some(Open { name, expected: expected.into(), began: Instant::now(), before });
    }

    fn opened(&self) -> (&'static str, String) {
        self.step.as_ref().map_or(("", String::new()), |open| (open.name, open.expected.clone()))
    }

    fn close(&mut self, ok: bool, seen: String) -> Result<(), DemoError> {
        let Some(open) = self.step.take() else { return Ok(()) };
        let (name, expected) = (open.name, open.expected.clone());
        self.record(open, ok, seen.clone());
        if ok { Ok(()) } else { Err(DemoError::Unexpected { step: name, expected, seen }) }
    }

    fn record(&mut self, open: Open, ok: bool, seen: String) {
        let now = self.counters();
        let step = Step {
            name: open.name,
            expected: open.expected,
            seen,
            ok,
            seconds: (open.began.elapsed().as_secs_f64() * 10.0).round() / 10.0,
            sent: now.sent - open.before.sent,
            failed: now.failed - open.before.failed,
        };
        let verdict = if ok { "ok" } else { "NOT AS EXPECTED" };
        say(&format!(
            "   {verdict}: {} ({} s, {} requests, {} failed)",
            step.seen, step.seconds, step.sent, step.failed
        ));
        self.summary.steps.push(step);
    }

    fn counters(&self) -> Counters {
        self.traffic.as_ref().map(Traffic::counters).unwrap_or_default()
    }
}

/// Progress is for people: on standard error, where nobody parses it.
pub fn say(text: &str) {
    eprintln!("{text}");
}

fn production() -> EnvironmentName {
    EnvironmentName::new("production").expect("a valid name")
}

/// The rollout by which the release of `run` asks for production, or why it never will.
fn asks(app: &App, run: &RunId) -> Option<Result<RolloutId, String>> {
    let state = app.runs.get(run).filter(|run| run.ended())?;
    let Some(release) = app.releases.values().find(|release| release.run == *run) else {
        let steps = state.plan.iter().flat_map(|plan| &plan.steps);
        let causes: Vec<String> = steps.filter_map(|step| step.result()?.cause.clone()).collect();
        return Some(Err(format!("{run} is {}: {}", state.phase.name(), causes.join("; "))));
    };
    let mut rollouts = app.rollouts.values().filter(|rollout| rollout.release == release.id);
    rollouts.find_map(|rollout| match &rollout.phase {
        Phase::AwaitingApproval { .. } => Some(Ok(rollout.id.clone())),
        Phase::Ended { end } => {
            Some(Err(format!("{} in {}: {end}", rollout.id, rollout.environment)))
        }
        _ => None,
    })
}

fn how_it_ended(rollout: &Rollout) -> String {
    match &rollout.phase {
        Phase::Ended { end } => end.to_string(),
        other => format!("{} is {}", rollout.release, other.name()),
    }
}

/// From the decision until the slot that was left got its last request, and the edge had said so.
fn way_back(switch: &Switch) -> Duration {
    let published = switch.published.map_or(Duration::ZERO, |at| at.since(switch.decided));
    switch.took().unwrap_or_default().max(published)
}

fn switches(app: &App) -> Vec<Switched> {
    let mut rollouts: Vec<&Rollout> = app.rollouts.values().collect();
    rollouts.sort_by_key(|rollout| domain::app::number(&rollout.id));
    let switched = |rollout: &Rollout, switch: &Switch| Switched {
        environment: rollout.environment.to_string(),
        from: switch.from.map(|color| color.to_string()),
        to: switch.to.to_string(),
        ms: switch.took().map(|took| took.as_millis() as u64),
    };
    rollouts.iter().flat_map(|r| r.switches.iter().map(|s| switched(r, s))).collect()
}

/// Processes that carry this state folder's name in their environment or command line.
fn left_running(state: &std::path::Path) -> usize {
    let needle = state.display().to_string();
    let own = std::process::id().to_string();
    let Ok(processes) = std::fs::read_dir("/proc") else { return 0 };
    let mentions = |path: std::path::PathBuf| {
        std::fs::read(path).is_ok_and(|bytes| String::from_utf8_lossy(&bytes).contains(&needle))
    };
    processes
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy() != own)
        .filter(|entry| entry.file_name().to_string_lossy().bytes().all(|b| b.is_ascii_digit()))
        .filter(|entry| {
            mentions(entry.path().join("environ")) || mentions(entry.path().join("cmdline"))
        })
        .count()
}
