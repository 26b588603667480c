//! `launchway status`: what runs where, what is under way, what it waits for, and the way back.

mod crash;
mod load;
mod tls;

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write;

use domain::app::App;
use domain::config::EngineKind;
use domain::route::Finishing;
use domain::slot::Endpoint;
use domain::{EnvironmentName, Timestamp};

use super::paint::{Paint, ago, by, commit, left, line, span};
use super::{Exit, Failure, Globals, Outcome, here, offline, print, print_json};
use crate::api;
use crate::client::{CallError, encode};
use crate::view::{
    BackingView, EnvironmentView, Gathered, ReplicaView, RollbackView, RolloutView, RunView,
    SlotView, Status, Way,
};

/// Show what runs, what is under way, and what it waits for
#[derive(clap::Args)]
#[command(after_help = "Examples:
  launchway status                 every environment
  launchway status production      one of them
  launchway status --json          for a program, with process ids

Ends with 1 when no server answers; what its log knows is shown then. In a folder that never had a \
server it shows what `launchway up` runs from there.")]
pub struct Args {
    /// By default all of them
    environment: Option<EnvironmentName>,
}

/// Runs the verb.
pub async fn run(args: Args, globals: &Globals) -> Outcome {
    let path = match &args.environment {
        Some(name) => format!("/v1/status?environment={}", encode(name.as_str())),
        None => "/v1/status".into(),
    };
    let absent = match globals.client().get::<Status>(&path).await {
        Ok(status) => {
            show(&status, globals)?;
            return Ok(Exit::Ok);
        }
        Err(absent @ CallError::Absent { .. }) => absent,
        Err(error) => return Err(error.into()),
    };
    let state = globals.state();
    let server = state.join("events.db").is_file() || args.environment.is_some();
    if !server && here::status(globals).await? {
        return Ok(Exit::Ok);
    }
    if let Ok(app) = offline::app(&state).await {
        let status = from_disk(&state, &app, args.environment.as_ref()).await;
        show(&status, globals)?;
        eprintln!("this is what the log knows: no server looks after it");
    }
    Err(Failure::from(absent))
}

async fn from_disk(state: &std::path::Path, app: &App, only: Option<&EnvironmentName>) -> Status {
    let (edge, answer) = api::edge_alone(state, app).await;
    let gathered = Gathered {
        app,
        now: control::clock::wall(),
        server: None,
        edge,
        answer,
        notes: HashMap::new(),
        failed: BTreeMap::new(),
        snapshots: BTreeMap::new(),
        stale: BTreeMap::new(),
        units: BTreeMap::new(),
        certificates: BTreeMap::new(),
        usage: BTreeMap::new(),
    };
    gathered.status(only)
}

fn show(status: &Status, globals: &Globals) -> Result<(), Failure> {
    match globals.json {
        true => print_json(status),
        false => print(&page(status)),
    }
}

/// All of it, for people.
fn page(status: &Status) -> String {
    let mut page = Page { text: String::new(), paint: Paint::stdout(), now: status.now };
    page.head(status);
    for environment in &status.environments {
        page.environment(environment);
    }
    if status.environments.is_empty() {
        page.line("nothing was built so far; `launchway check` finds mistakes, `launchway run` builds the newest commit");
    }
    for run in &status.refused {
        page.refused(run);
    }
    for run in &status.runs {
        let hold = run.hold.as_ref().map_or(String::new(), |hold| format!(", waits for {hold}"));
        let subject = run.subject.as_deref().unwrap_or("");
        let began = ago(page.now, run.created);
        page.line(&format!(
            "\n{} of {} {subject}: {}, began {began}{hold}",
            run.id,
            run.commit.short(),
            run.phase
        ));
    }
    page.text
}

struct Page {
    text: String,
    paint: Paint,
    now: Timestamp,
}

impl Page {
    fn line(&mut self, text: &str) {
        let _ = writeln!(self.text, "{text}");
    }

    fn row(&mut self, name: &str, text: &str) {
        let _ = writeln!(self.text, "  {name:<10} {text}");
    }

    fn detail(&mut self, name: &str, text: &str) {
        self.row("", &format!("  {name:<7} {text}"));
    }

    fn head(&mut self, status: &Status) {
        let app = status.app.as_ref().map_or("no app yet", |app| app.as_str());
        let server = match &status.server {
            Some(server) => {
                format!("server {} up for {}", server.pid, span(self.now.since(server.since)))
            }
            None => self.paint.bad("no server"),
        };
        let edge = &status.edge;
        let edge = match (&edge.problem, edge.epoch, edge.pid) {
            (None, Some(epoch), Some(pid)) => {
                let behind = match epoch == edge.wanted {
                    true => String::new(),
                    false => format!(", behind: {} is wanted", edge.wanted),
                };
                let restarts = restarts(edge.restarts);
                let listen = edge.listen.map_or(String::new(), |listen| format!(" on {listen}"));
                let https = edge.https.map_or(String::new(), |https| format!(" and {https} (TLS)"));
                let finishing = finishing(&edge.finishing);
                format!("edge {pid}{listen}{https}, table {epoch}{behind}{restarts}{finishing}")
            }
            (problem, ..) => {
                let why = problem.as_deref().unwrap_or("it does not answer");
                self.paint.bad(&format!("edge out of reach: {why}"))
            }
        };
        let title = self.paint.bold(app);
        self.line(&format!("{title}   {server}   {edge}"));
        if let Some(ends) = status.edge.ends.as_ref().filter(|ends| ends.crashing()) {
            let text = format!("the edge {}", crash::looping(ends, self.now));
            self.line(&format!("  {}", self.paint.bad(&text)));
        }
        if status.edge.problem.is_some() {
            let way = match &status.server {
                Some(_) => {
                    "one that ended is started again, and `launchway doctor` says what is in its way"
                }
                None => "`launchway server` starts it",
            };
            self.line(&format!("  no request is answered without the edge: {way}"));
        }
    }

    /// A commit that nothing came of.
    fn refused(&mut self, run: &RunView) {
        let (id, commit, by) = (&run.id, run.commit.short(), by(&run.by));
        let when = ago(self.now, run.ended.unwrap_or(run.created));
        let subject = run.subject.as_ref().map_or(String::new(), |subject| format!(" {subject}"));
        let (what, more) = match run.phase.as_str() {
            "invalid" => ("was refused", "every mistake"),
            _ => ("failed", "every step"),
        };
        let why = line(run.problem.as_deref().unwrap_or_default());
        let text = format!("{id} of {commit}{subject} {by} {what} {when}: {why}");
        let text = self.paint.bad(&text);
        self.line(&format!("\n{text}\n  `launchway history {id}` shows {more}"));
    }

    fn environment(&mut self, environment: &EnvironmentView) {
        let name = self.paint.bold(environment.name.as_str());
        let url = environment.url.as_deref().unwrap_or(&environment.host);
        let containers = environment.engine == Some(EngineKind::Docker);
        self.line(&format!("\n{name}   {url}{}", if containers { "   in containers" } else { "" }));
        if let Some(seen) = &environment.certificate {
            for (index, line) in tls::lines(seen, self.now, self.paint).iter().enumerate() {
                self.row(if index == 0 { "tls" } else { "" }, line);
            }
        }
        if environment.going_down {
            let note = environment.note.as_ref();
            let note = note.map_or(String::new(), |note| format!(": {}", line(note)));
            self.row("down", &format!("it is being taken down{note}"));
        }
        if let Some(stale) = &environment.stale {
            let when = stale.seen.map_or("nothing yet".into(), |seen| ago(self.now, seen));
            let text = format!("{when}; {}", line(&stale.because));
            let text = self.paint.bad(&text);
            self.row("seen", &text);
        }
        if environment.live.is_none() {
            self.row("live", "nothing");
        }
        let (live, other): (Vec<_>, Vec<_>) = environment.slots.iter().partition(|slot| slot.live);
        for slot in live.into_iter().chain(other) {
            self.slot(slot);
        }
        for backing in &environment.backing {
            let text = self.backing(backing);
            self.row(backing.service.as_str(), &text);
            if let Some(usage) = &backing.usage {
                self.detail("uses", &load::usage(usage));
            }
        }
        if let Some(rollout) = &environment.under_way {
            self.rollout("under way", rollout);
        }
        for rollout in &environment.waiting {
            self.rollout("waiting", rollout);
        }
        if environment.live.is_some() {
            let text = self.rollback(environment, &environment.rollback);
            self.row("rollback", &text);
        }
        let telling = |last: &&RolloutView| last.phase != "live" || last.unjudged;
        if let Some(last) = environment.last.as_ref().filter(telling) {
            let end = line(last.end.as_deref().unwrap_or_default());
            let text = format!(
                "{} of {} {}, {}",
                last.id,
                last.release.id,
                end,
                ago(self.now, last.since)
            );
            let text = self.paint.bad(&text);
            self.row("last", &text);
        }
    }

    fn slot(&mut self, slot: &SlotView) {
        let what = format!(
            "{:<5}  {} {} {}",
            slot.color,
            slot.release.id,
            commit(slot.release.commit.as_ref()),
            slot.release.subject
        );
        let when = match (slot.live, slot.leaving, slot.expires) {
            (true, ..) => slot.since.map_or(String::new(), |since| {
                format!(", live for {}", span(self.now.since(since)))
            }),
            (_, true, _) => ", leaving".into(),
            (_, _, Some(expires)) => format!(", kept warm {}", left(self.now, expires)),
            _ => String::new(),
        };
        let name = if slot.live { "live" } else { "other" };
        self.row(name, &format!("{}{when}", what.trim_end()));
        let mut services: BTreeMap<&str, Vec<&ReplicaView>> = BTreeMap::new();
        for replica in &slot.replicas {
            services.entry(replica.service.as_str()).or_default().push(replica);
        }
        for (service, replicas) in services {
            let text = self.replicas(service, &replicas);
            self.row("", &text);
            let image = slot.images.iter().find(|(name, _)| name.as_str() == service);
            if let Some((_, image)) = image {
                let id = &image.digest.as_str()[..12];
                self.detail("image", &format!("{} ({id})", image.location));
            }
            self.load(slot, service, &replicas);
        }
    }

    /// What each replica uses, and what the service did with it.
    fn load(&mut self, slot: &SlotView, service: &str, replicas: &[&ReplicaView]) {
        for replica in replicas {
            let Some(usage) = &replica.usage else { continue };
            let name = match replicas {
                [_] => "uses".into(),
                _ => format!("{} uses", replica.index),
            };
            self.detail(&name, &load::usage(usage));
        }
        let traffic = slot.traffic.iter().find(|(name, _)| name.as_str() == service);
        for (name, text) in
            traffic.map_or(Vec::new(), |(_, seen)| load::traffic(seen, self.now, self.paint))
        {
            self.detail(name, &text);
        }
    }

    fn replicas(&self, service: &str, replicas: &[&ReplicaView]) -> String {
        let ready = replicas.iter().filter(|replica| crash::has_traffic(replica)).count();
        let total = replicas.len();
        let count = match replicas.first().map(|replica| &replica.endpoint) {
            Some(Endpoint::Files(_)) if ready == total => "files, served by the edge".into(),
            _ => format!("{ready} of {total} ready"),
        };
        let well = ready == total && !replicas.iter().any(|replica| crash::is_looping(replica));
        let count = if well { self.paint.good(&count) } else { self.paint.bad(&count) };
        let all: u32 = replicas.iter().map(|replica| replica.restarts).sum();
        let mut text = format!("{service}: {count}{}", restarts(all));
        for replica in replicas {
            for said in crash::troubles(replica, self.now) {
                let _ = write!(text, "\n{:13}{service} {} {said}", "", replica.index);
            }
        }
        text
    }

    fn backing(&self, backing: &BackingView) -> String {
        let restarts = restarts(backing.restarts);
        match &backing.problem {
            None => format!("{} at {}{restarts}", self.paint.good("ready"), backing.address),
            Some(problem) => self.paint.bad(&format!("not ready{restarts}: {}", line(problem))),
        }
    }

    fn rollout(&mut self, name: &str, rollout: &RolloutView) {
        let (id, release, phase) = (&rollout.id, &rollout.release.id, &rollout.phase);
        let since = span(self.now.since(rollout.since));
        let by = by(&rollout.by);
        self.row(name, &format!("{id} of {release} {by}: {phase} for {since}"));
        if let Some(hold) = &rollout.hold {
            let until = hold
                .until
                .map_or(String::new(), |until| format!(", {} at the most", left(self.now, until)));
            self.row("", &format!("waits for {hold}{until}"));
        }
        if let Some(note) = &rollout.note {
            self.row("", &line(note));
        }
        if let Some(command) = &rollout.command {
            self.row(
                "",
                &format!(
                    "`{command}` lets it go on, `launchway reject {} --reason ...` does not",
                    rollout.environment
                ),
            );
        }
    }

    fn rollback(&self, environment: &EnvironmentView, way: &RollbackView) -> String {
        let to = way.to.as_ref().map(ToString::to_string).unwrap_or_default();
        let about = way.about_ms.map(|ms| span(std::time::Duration::from_millis(ms)));
        let about = about.map_or("unknown how long".into(), |about| format!("about {about}"));
        let because = &way.because;
        let command = format!("`launchway rollback {}`", environment.name);
        match way.way {
            Way::Warm => {
                format!("{} to {to}, {about} ({because}): {command}", self.paint.good("ready"))
            }
            Way::Cold => format!("cold to {to}, {about} ({because}): {command}"),
            Way::None => format!("none: {because}"),
        }
    }
}

/// The edges before this one, as long as they have something.
fn finishing(all: &[Finishing]) -> String {
    let each =
        |left: &Finishing| format!(", {} finishes {} connections", left.pid, left.connections);
    all.iter().map(each).collect()
}

fn restarts(count: u32) -> String {
    match count {
        0 => String::new(),
        1 => ", restarted once".into(),
        many => format!(", restarted {many} times"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// A page of what is not well.
    fn told(edge_problem: Option<&str>, server: bool) -> String {
        let server = server.then(|| json!({ "pid": 7, "since": 0, "version": "1" }));
        let mut status = json!({
            "app": "shop", "now": 600_000, "server": server,
            "edge": {
                "listen": "127.0.0.1:80", "pid": 8, "shim_pid": 9, "restarts": 0, "epoch": 3,
                "wanted": 3, "problem": edge_problem,
            },
            "environments": [{
                "name": "staging", "host": "shop", "url": null, "preview_url": null, "live": null,
                "stale": { "seen": 597_000, "because": "a new look takes longer than 500ms" },
                "slots": [], "backing": [], "under_way": null, "waiting": [], "last": null,
                "rollback": { "way": "none", "to": null, "about_ms": null, "because": "no" },
                "going_down": false, "note": null,
            }],
            "runs": [],
            "refused": [{
                "id": "run-2", "commit": "a".repeat(40), "subject": null, "branch": "main",
                "by": "(branch main)", "created": 500_000, "ended": 540_000, "phase": "invalid",
                "release": null, "deploy_to": null, "hold": null,
                "problem": "launchway.yaml:10:1: no key `rutes`",
            }],
        });
        // Times are written as people write them.
        let time = |value: &mut serde_json::Value| {
            if let Some(millis) = value.as_i64() {
                *value = serde_json::to_value(Timestamp::from_millis(millis)).unwrap();
            }
        };
        time(&mut status["now"]);
        if status["server"].is_object() {
            time(&mut status["server"]["since"]);
        }
        time(&mut status["environments"][0]["stale"]["seen"]);
        time(&mut status["refused"][0]["created"]);
        time(&mut status["refused"][0]["ended"]);
        page(&serde_json::from_value(status).unwrap())
    }

    #[test]
    fn a_commit_that_was_refused_is_told_with_the_way_to_its_mistakes() {
        let said = told(None, true);
        assert!(
            said.contains(
                "run-2 of aaaaaaaaaaaa (branch main) was refused 60 s ago: \
                 launchway.yaml:10:1: no key `rutes`\n  `launchway history run-2` shows every mistake"
            ),
            "{said}"
        );
    }

    #[test]
    fn what_is_shown_as_it_was_before_has_its_age_and_its_reason() {
        let said = told(None, true);
        assert!(
            said.contains("seen       3.0 s ago; a new look takes longer than 500ms"),
            "{said}"
        );
    }

    #[test]
    fn an_edge_that_is_down_is_told_with_the_way_out() {
        let why = Some("nobody answers for it: Connection refused");
        let served = told(why, true);
        assert!(served.contains("edge out of reach: nobody answers for it"), "{served}");
        assert!(served.contains("`launchway doctor` says what is in its way"), "{served}");
        let alone = told(why, false);
        assert!(alone.contains("without the edge: `launchway server` starts it"), "{alone}");
        assert!(!told(None, true).contains("without the edge"));
    }
}
