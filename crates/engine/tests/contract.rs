//! What every engine promises. Each test runs against every engine; a new engine adds one line at the end.

mod common;

use std::time::Duration;

use common::docker::SERVE_INSIDE;
use common::*;
use domain::slot::{
    Color, Endpoint, Exit, JobSpec, Launch, ReplicaState, ReplicaStatus, ServiceSpec,
};
use engine::fake::{Behaviour, FakeEngine};
use engine::{Engine, LogSource};

/// An engine and the commands that make it show a behaviour.
trait World {
    fn engine(&self) -> &dyn Engine;
    fn home(&self) -> &Home;
    /// A command that behaves so. `environment` holds what the server of the tests is told.
    fn command(&self, plot: Plot) -> String;

    /// The replicas of `Plot::Spoils` turn unhealthy now.
    fn spoil(&self) {
        std::fs::write(self.home().sick(), "").unwrap();
    }

    /// `kill -9` of a replica's process.
    fn kill(&self, status: &ReplicaStatus) {
        kill(status.pid.unwrap(), "KILL");
    }

    /// The engine of the next server, after a `kill -9` of the first; `None` where there is no server to kill.
    fn successor(&self) -> Option<Box<dyn Engine>>;

    fn service(&self, name: &str, plot: Plot) -> ServiceSpec {
        service(self.home(), name, &self.command(plot))
    }

    fn job(&self, id: &str, plot: Plot) -> JobSpec {
        job(self.home(), id, &self.command(plot))
    }
}

enum Plot {
    Healthy,
    /// Healthy until [`World::spoil`].
    Spoils,
    Answers(&'static str, &'static str),
    Says(&'static [&'static str], i32),
    Runs(Duration),
}

struct Process(Home, engine::process::ProcessEngine);

impl Process {
    fn new() -> Self {
        let home = Home::new();
        let engine = home.engine();
        Self(home, engine)
    }
}

impl World for Process {
    fn successor(&self) -> Option<Box<dyn Engine>> {
        Some(Box::new(self.0.engine()))
    }

    fn engine(&self) -> &dyn Engine {
        &self.1
    }

    fn home(&self) -> &Home {
        &self.0
    }

    fn command(&self, plot: Plot) -> String {
        match plot {
            Plot::Healthy => SERVE.to_owned(),
            Plot::Spoils => format!("SICK={} {SERVE}", self.0.sick().display()),
            Plot::Answers(status, _) => format!("ANSWER={status} {SERVE}"),
            Plot::Says(lines, code) => {
                let says: String = lines.iter().map(|line| format!("echo '{line}'; ")).collect();
                format!("{says}exit {code}")
            }
            Plot::Runs(time) => format!("exec sleep {}", time.as_secs_f64()),
        }
    }
}

struct Fake(Home, FakeEngine);

const SPOILS: &str = "spoils";

impl World for Fake {
    fn spoil(&self) {
        let answer = "500 Internal Server Error".to_owned();
        self.1.script(SPOILS, Behaviour::NeverReady { answer });
    }

    fn kill(&self, _: &ReplicaStatus) {
        self.1.kill_replica(&staging(), Color::Blue, &name("web"));
    }

    fn successor(&self) -> Option<Box<dyn Engine>> {
        None
    }

    fn engine(&self) -> &dyn Engine {
        &self.1
    }

    fn home(&self) -> &Home {
        &self.0
    }

    fn command(&self, plot: Plot) -> String {
        let (command, behaviour) = match plot {
            Plot::Healthy => {
                ("healthy".to_owned(), Behaviour::Works { says: vec!["serving".into()] })
            }
            Plot::Spoils => (SPOILS.to_owned(), Behaviour::Works { says: Vec::new() }),
            Plot::Answers(status, answer) => {
                (format!("answers {status}"), Behaviour::NeverReady { answer: answer.to_owned() })
            }
            Plot::Says(lines, code) => {
                let says = lines.iter().map(|line| (*line).to_owned()).collect();
                let behaviour = match code {
                    0 => Behaviour::Works { says },
                    code => Behaviour::Exits { exit: Exit::Code(code), says },
                };
                (format!("says {lines:?} {code}"), behaviour)
            }
            Plot::Runs(time) => (format!("runs {time:?}"), Behaviour::Slow(time)),
        };
        self.1.script(&command, behaviour);
        command
    }
}

impl World for common::docker::World {
    fn successor(&self) -> Option<Box<dyn Engine>> {
        Some(Box::new(self.again()))
    }

    fn engine(&self) -> &dyn Engine {
        &self.engine
    }

    fn home(&self) -> &Home {
        &self.home
    }

    fn command(&self, plot: Plot) -> String {
        match plot {
            Plot::Healthy => SERVE_INSIDE.to_owned(),
            Plot::Spoils => format!("SICK={} {SERVE_INSIDE}", self.home.sick().display()),
            Plot::Answers(status, _) => format!("ANSWER={status} {SERVE_INSIDE}"),
            Plot::Says(lines, code) => {
                let says: String = lines.iter().map(|line| format!("echo '{line}'; ")).collect();
                format!("{says}exit {code}")
            }
            Plot::Runs(time) => format!("exec sleep {}", time.as_secs_f64()),
        }
    }

    fn service(&self, name: &str, plot: Plot) -> ServiceSpec {
        self.service(name, &self.command(plot))
    }

    fn job(&self, id: &str, plot: Plot) -> JobSpec {
        self.job(id, &self.command(plot))
    }
}

async fn applying_twice_changes_nothing(world: &impl World) {
    let engine = world.engine();
    let web = world.service("web", Plot::Healthy);
    let spec = slot(Color::Blue, 1, vec![web]);
    engine.apply(&spec).await.unwrap();
    let first = until_ready(engine, Color::Blue, "web").await;
    engine.apply(&spec).await.unwrap();
    assert_eq!(replica(engine, Color::Blue, "web", 0).await, first);
    assert!(engine.observe(&staging()).await.unwrap().slots[&Color::Blue].ready());
}

async fn more_replicas_do_not_disturb_those_that_run(world: &impl World) {
    let engine = world.engine();
    let mut web = world.service("web", Plot::Healthy);
    engine.apply(&slot(Color::Blue, 1, vec![web.clone()])).await.unwrap();
    let first = until_ready(engine, Color::Blue, "web").await;
    web.replicas = 3;
    engine.apply(&slot(Color::Blue, 1, vec![web.clone()])).await.unwrap();
    let all = engine.observe(&staging()).await.unwrap();
    let replicas = &all.slots[&Color::Blue].services[&name("web")];
    assert_eq!(replicas.len(), 3);
    assert_eq!(replicas[0].pid, first.pid);
    let mut endpoints: Vec<_> = replicas.iter().map(|r| format!("{:?}", r.endpoint)).collect();
    endpoints.sort();
    endpoints.dedup();
    assert_eq!(endpoints.len(), 3, "each replica has an address of its own");
    web.replicas = 1;
    engine.apply(&slot(Color::Blue, 1, vec![web])).await.unwrap();
    let all = engine.observe(&staging()).await.unwrap();
    assert_eq!(all.slots[&Color::Blue].services[&name("web")].len(), 1);
}

async fn a_replica_that_ends_at_once_is_shown_with_its_output(world: &impl World) {
    let engine = world.engine();
    let web = world.service("web", Plot::Says(&["cannot find tea.toml"], 3));
    engine.apply(&slot(Color::Green, 1, vec![web])).await.unwrap();
    let exited = |s: &domain::slot::ReplicaStatus| matches!(s.state, ReplicaState::Exited { .. });
    let status = until(engine, Color::Green, "web", exited).await;
    let ReplicaState::Exited { exit, tail } = status.state else { unreachable!() };
    assert_eq!(exit, Exit::Code(3));
    assert!(tail.iter().any(|line| line == "cannot find tea.toml"), "{tail:?}");
    assert!(!engine.observe(&staging()).await.unwrap().slots[&Color::Green].ready());
    let keeps_ending = |s: &ReplicaStatus| {
        let known = s.ends.as_ref().filter(|ends| ends.crashing());
        known.is_some_and(|ends| ends.exit == Some(Exit::Code(3)))
    };
    let ends = until(engine, Color::Green, "web", keeps_ending).await.ends.unwrap();
    assert_eq!(ends.said.as_deref(), Some("cannot find tea.toml"));
}

async fn a_replica_that_is_unhealthy_shows_what_it_answered(world: &impl World) {
    let engine = world.engine();
    let answers = [("500", "500 Internal Server Error"), ("302", "302 Found, to /login")];
    for (release, (status, expected)) in answers.into_iter().enumerate() {
        let web = world.service("web", Plot::Answers(status, expected));
        let spec = slot(Color::Blue, release as u64, vec![web]);
        engine.apply(&spec).await.unwrap();
        let seen = |s: &domain::slot::ReplicaStatus| match &s.state {
            ReplicaState::Starting { transcript } => {
                assert!(transcript.iter().all(|record| !record.ok));
                transcript.iter().any(|r| r.answer == expected && r.request.ends_with("/health"))
            }
            other => panic!("{other:?}"),
        };
        until(engine, Color::Blue, "web", seen).await;
    }
}

async fn a_replica_that_turns_unhealthy_is_unready_and_shows_what_it_answered(world: &impl World) {
    let engine = world.engine();
    let web = world.service("web", Plot::Spoils);
    engine.apply(&slot(Color::Blue, 1, vec![web])).await.unwrap();
    let first = until_ready(engine, Color::Blue, "web").await;
    world.spoil();
    let unready = |status: &ReplicaStatus| matches!(status.state, ReplicaState::Unready { .. });
    let status = until(engine, Color::Blue, "web", unready).await;
    let ReplicaState::Unready { transcript } = status.state else { unreachable!() };
    let last = transcript.last().unwrap();
    assert!(!last.ok && last.request.ends_with("/health"), "{last:?}");
    assert_eq!(last.answer, "500 Internal Server Error");
    assert_eq!((status.pid, status.endpoint), (first.pid, first.endpoint), "it is left running");
}

async fn a_killed_replica_comes_back_where_it_was(world: &impl World) {
    let engine = world.engine();
    let web = world.service("web", Plot::Healthy);
    engine.apply(&slot(Color::Blue, 1, vec![web])).await.unwrap();
    let first = until_ready(engine, Color::Blue, "web").await;
    world.kill(&first);
    let back =
        |s: &ReplicaStatus| s.state == ReplicaState::Ready && s.restarts > 0 && s.pid != first.pid;
    let second = until(engine, Color::Blue, "web", back).await;
    assert_eq!(second.endpoint, first.endpoint);
    assert!(engine.observe(&staging()).await.unwrap().slots[&Color::Blue].ready());
}

/// Killed at some moment of an `apply`, and never told what came of it.
async fn the_next_server_goes_on_where_one_was_killed(world: &impl World) {
    let mut web = world.service("web", Plot::Healthy);
    web.replicas = 2;
    let api = world.service("api", Plot::Healthy);
    for (round, after) in [0, 20, 150, 600].into_iter().enumerate() {
        let spec = slot(Color::Blue, round as u64, vec![web.clone(), api.clone()]);
        let killed = world.successor();
        let applying = killed.as_deref().unwrap_or(world.engine()).apply(&spec);
        let _ = tokio::time::timeout(Duration::from_millis(after), applying).await;
        drop(killed);
        let next = world.successor();
        let engine = next.as_deref().unwrap_or(world.engine());
        engine.apply(&spec).await.unwrap();
        let first = until_slot_ready(engine, Color::Blue).await;
        let pids = |snapshot: &domain::slot::Snapshot| {
            let all = snapshot.slots[&Color::Blue].services.values().flatten();
            all.map(|replica| replica.pid.unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(pids(&first).len(), 3);
        assert_eq!(first.slots[&Color::Blue].release.as_str(), format!("r{round}"));
        let after = world.successor();
        let engine = after.as_deref().unwrap_or(world.engine());
        engine.apply(&spec).await.unwrap();
        let second = until_slot_ready(engine, Color::Blue).await;
        assert_eq!(pids(&second), pids(&first), "what runs is adopted");
        assert_eq!(engine.usage(&staging()).await.unwrap().len(), 3, "and nothing else runs");
    }
}

async fn another_spec_replaces_what_runs(world: &impl World) {
    let engine = world.engine();
    let mut web = world.service("web", Plot::Healthy);
    engine.apply(&slot(Color::Blue, 1, vec![web.clone()])).await.unwrap();
    let first = until_ready(engine, Color::Blue, "web").await;
    web.env.insert("BODY".into(), "oolong".into());
    engine.apply(&slot(Color::Blue, 1, vec![web.clone()])).await.unwrap();
    let second = until_ready(engine, Color::Blue, "web").await;
    assert_ne!(first.pid, second.pid);
    engine.apply(&slot(Color::Blue, 2, vec![web])).await.unwrap();
    let third = until_ready(engine, Color::Blue, "web").await;
    assert_ne!(second.pid, third.pid);
    let snapshot = engine.observe(&staging()).await.unwrap();
    assert_eq!(snapshot.slots[&Color::Blue].release.as_str(), "r2");
}

async fn two_slots_run_side_by_side_and_one_can_be_removed(world: &impl World) {
    let engine = world.engine();
    let web = world.service("web", Plot::Healthy);
    engine.apply(&slot(Color::Blue, 1, vec![web.clone()])).await.unwrap();
    engine.apply(&slot(Color::Green, 2, vec![web])).await.unwrap();
    let blue = until_ready(engine, Color::Blue, "web").await;
    let green = until_ready(engine, Color::Green, "web").await;
    assert_ne!(blue.endpoint, green.endpoint);
    engine.remove(&staging(), Color::Blue).await.unwrap();
    engine.remove(&staging(), Color::Blue).await.unwrap();
    let snapshot = engine.observe(&staging()).await.unwrap();
    assert!(!snapshot.slots.contains_key(&Color::Blue));
    assert_eq!(replica(engine, Color::Green, "web", 0).await, green);
}

async fn a_static_service_is_ready_without_a_process(world: &impl World) {
    let engine = world.engine();
    let mut front = service(world.home(), "front", "");
    front.launch = Launch::Static("dist".into());
    engine.apply(&slot(Color::Blue, 1, vec![front])).await.unwrap();
    let status = replica(engine, Color::Blue, "front", 0).await;
    assert_eq!(status.state, ReplicaState::Ready);
    assert_eq!(status.endpoint, Endpoint::Files(world.home().artifact().join("dist")));
    assert_eq!(status.pid, None);
}

async fn a_job_runs_once_even_if_asked_for_twice_at_the_same_time(world: &impl World) {
    let engine = world.engine();
    let counted = world.job("ro-1.migrate", Plot::Says(&["migrated"], 0));
    let (one, two) = tokio::join!(engine.run(&counted), engine.run(&counted));
    let (one, two) = (one.unwrap(), two.unwrap());
    assert_eq!(one, two);
    assert_eq!((one.exit, one.tail.as_slice()), (Exit::Code(0), &["migrated".to_owned()][..]));
    assert!(one.started <= one.finished);
    assert_eq!(engine.run(&counted).await.unwrap(), one);
    let log = engine.logs(&staging(), &LogSource::Job { id: counted.id }, 10).await.unwrap();
    assert_eq!(log, ["migrated"]);
}

async fn a_job_that_fails_says_how(world: &impl World) {
    let engine = world.engine();
    let failing = world.job("failing", Plot::Says(&["column tea does not exist"], 7));
    let outcome = engine.run(&failing).await.unwrap();
    assert_eq!(outcome.exit, Exit::Code(7));
    assert_eq!(outcome.tail, ["column tea does not exist"]);
}

async fn a_job_is_stopped_at_its_time_limit(world: &impl World) {
    let engine = world.engine();
    let mut long = world.job("long", Plot::Runs(Duration::from_secs(300)));
    long.time_limit = Duration::from_millis(300);
    let outcome = tokio::time::timeout(PATIENCE, engine.run(&long)).await.unwrap().unwrap();
    assert_eq!(outcome.exit, Exit::TimedOut);
}

async fn a_job_can_be_canceled(world: &impl World) {
    let engine = world.engine();
    let long = world.job("canceled", Plot::Runs(Duration::from_secs(300)));
    engine.cancel(&staging(), "never-began").await.unwrap();
    let stop = async {
        let source = LogSource::Job { id: long.id.clone() };
        while engine.logs(&staging(), &source, 1).await.is_err() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        engine.cancel(&staging(), &long.id).await.unwrap();
    };
    let both = async { tokio::join!(engine.run(&long), stop).0 };
    let outcome = tokio::time::timeout(PATIENCE, both).await.unwrap().unwrap();
    assert_eq!(outcome.exit, Exit::Signal(15));
    assert_eq!(engine.run(&long).await.unwrap(), outcome, "a canceled job does not run again");
}

async fn logs_are_the_last_lines_as_they_were_written(world: &impl World) {
    let engine = world.engine();
    let web = world.service("web", Plot::Healthy);
    engine.apply(&slot(Color::Blue, 1, vec![web])).await.unwrap();
    until_ready(engine, Color::Blue, "web").await;
    let source = LogSource::Replica { slot: Color::Blue, service: name("web"), index: 0 };
    assert_eq!(engine.logs(&staging(), &source, 10).await.unwrap(), ["serving"]);
    assert!(engine.logs(&staging(), &source, 0).await.unwrap().is_empty());
    let nobody = LogSource::Replica { slot: Color::Green, service: name("web"), index: 0 };
    assert!(engine.logs(&staging(), &nobody, 10).await.is_err());
}

async fn a_command_runs_beside_a_replica(world: &impl World) {
    let engine = world.engine();
    let web = world.service("web", Plot::Healthy);
    engine.apply(&slot(Color::Blue, 1, vec![web])).await.unwrap();
    let (blue, green) = (Color::Blue, Color::Green);
    // What it does not read does not hold it back.
    let endless = Box::new(tokio::io::repeat(b'y'));
    let ran = exec(engine, blue, &["true"], endless).await.unwrap();
    assert_eq!((ran.exit, ran.text(), ran.errors.as_str()), (Exit::Code(0), "", ""));
    assert!(exec(engine, green, &["true"], nothing()).await.is_err());
    engine.apply(&slot(green, 1, vec![world.service("other", Plot::Healthy)])).await.unwrap();
    assert!(exec(engine, green, &["true"], nothing()).await.is_err(), "it has no such service");

    // Byte for byte, no text, more than any buffer holds, and without an end of the line at its end.
    let said = b"what it reads\n\0\xff\r".repeat(1_200_000);
    let input = Box::new(std::io::Cursor::new(said.clone()));
    let ran = exec(engine, blue, &["cat"], input).await.unwrap();
    assert_eq!(ran.exit, Exit::Code(0));
    assert!(ran.output == said, "{} bytes came back", ran.output.len());
}

async fn usage_names_every_replica_that_runs(world: &impl World) {
    let engine = world.engine();
    let web = world.service("web", Plot::Healthy);
    engine.apply(&slot(Color::Blue, 1, vec![web])).await.unwrap();
    until_ready(engine, Color::Blue, "web").await;
    let usage = engine.usage(&staging()).await.unwrap();
    assert_eq!(usage.len(), 1, "{usage:?}");
    assert_eq!((usage[0].slot, &usage[0].service), (Some(Color::Blue), &name("web")));
    let snapshot = engine.observe(&staging()).await.unwrap();
    let shown = &snapshot.slots[&Color::Blue].services[&name("web")][0];
    assert_eq!(Some(usage[0].pid), shown.pid);
    assert!(usage[0].memory > 0 && usage[0].cpu > Duration::ZERO && usage[0].disk > 0, "{usage:?}");
}

async fn after_down_nothing_is_left(world: &impl World) {
    let engine = world.engine();
    let web = world.service("web", Plot::Healthy);
    engine.apply(&slot(Color::Blue, 1, vec![web.clone()])).await.unwrap();
    engine.apply(&slot(Color::Green, 2, vec![web])).await.unwrap();
    engine.down(&staging(), true).await.unwrap();
    engine.down(&staging(), true).await.unwrap();
    let snapshot = engine.observe(&staging()).await.unwrap();
    assert!(snapshot.slots.is_empty() && snapshot.backing.is_empty());
    assert!(engine.usage(&staging()).await.unwrap().is_empty());
    assert_eq!(world.home().processes(), Vec::<u32>::new());
    assert_eq!(world.home().shims(), Vec::<u32>::new());
}

macro_rules! contract {
    ($engine:ident, $make:expr; $($promise:ident)*) => {
        mod $engine {
            use super::*;
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $promise() {
                    // Without what it runs on, an engine says so and is left out.
                    let Some(world) = $make else { return };
                    super::$promise(&world).await;
                    world.engine().down(&staging(), true).await.unwrap();
                }
            )*
        }
    };
}

macro_rules! engines {
    ($($engine:ident: $make:expr),* $(,)?) => {
        $(contract! {
            $engine, $make;
            applying_twice_changes_nothing
            more_replicas_do_not_disturb_those_that_run
            a_replica_that_ends_at_once_is_shown_with_its_output
            a_replica_that_is_unhealthy_shows_what_it_answered
            a_replica_that_turns_unhealthy_is_unready_and_shows_what_it_answered
            a_killed_replica_comes_back_where_it_was
            the_next_server_goes_on_where_one_was_killed
            another_spec_replaces_what_runs
            two_slots_run_side_by_side_and_one_can_be_removed
            a_static_service_is_ready_without_a_process
            a_job_runs_once_even_if_asked_for_twice_at_the_same_time
            a_job_that_fails_says_how
            a_job_is_stopped_at_its_time_limit
            a_job_can_be_canceled
            logs_are_the_last_lines_as_they_were_written
            a_command_runs_beside_a_replica
            usage_names_every_replica_that_runs
            after_down_nothing_is_left
        })*
    };
}

engines! {
    process: Some(Process::new()),
    docker: common::docker::World::new().await,
    fake: Some(Fake(Home::new(), FakeEngine::new())),
}
