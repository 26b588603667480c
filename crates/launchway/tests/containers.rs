//! The road in containers, with the real binary and a real Docker Engine.

mod support;

use std::io::Read;

use engine::docker::build::ImageBuilder;
use engine::{DockerConfig, DockerEngine};
use support::{Harness, text};

const DOCKERFILE: &str = "\
FROM python:3.11-slim
WORKDIR /app
COPY . .
ENV HOST=0.0.0.0
EXPOSE 8000
CMD [\"python3\", \"app.py\"]
";

fn wait<T>(asking: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(asking)
}

/// Whether an Engine answers here; else a loud line, and a failure where a skip is one.
fn docker_answers() -> bool {
    let Err(error) = wait(ImageBuilder::connect()) else { return true };
    let set = |name| std::env::var_os(name).is_some();
    assert!(!(set("LAUNCHWAY_REQUIRE_DOCKER") || set("CI")), "{error}");
    println!("SKIPPED: no Docker Engine answers (dev/setup docker installs one)");
    false
}

/// The tiny app with these environments, for containers too.
fn in_containers(harness: &Harness, environments: &str, more: &str) {
    let user = nix::unistd::User::from_uid(nix::unistd::getuid());
    let user = user.expect("readable").expect("this user has a name").name;
    harness.project.write("web/Dockerfile", DOCKERFILE);
    let launchway = format!(
        "app: tiny
{more}services:
  web:
    health: /
    migrate: test -s text && echo migrated
    native: {{ run: exec python3 app.py }}
routes: {{ /: web }}
build:
  test: [{{ name: unit, in: web, run: test -s text }}]
  integrate: [{{ name: api, run: \"python3 -c 'import os, urllib.request; urllib.request.urlopen(os.environ[\\\"BASE_URL\\\"])'\", with: [web] }}]
  scan: off
environments:
{}",
        environments.replace("USER", &user)
    );
    harness.project.write("launchway.yaml", &launchway);
    harness.project.save("The first in containers");
}

/// What Docker still has of the harness, once its images went too.
fn left_in_docker(harness: &Harness) -> Vec<String> {
    let state = harness.state.canonicalize().expect("it is there");
    wait(async {
        let images = control::pipeline::Images::new(&state);
        images.keep(|| Some(Default::default())).await.expect("images go");
        let engine = DockerEngine::connect(DockerConfig { state, socket: None });
        engine.left().await.expect("Docker answers")
    })
}

/// The one slot that has the traffic, as `status --json` has it.
fn live_slot(harness: &Harness, environment: &str) -> serde_json::Value {
    let status = harness.status();
    let all = status["environments"].as_array().expect("environments").clone();
    let here = all.into_iter().find(|e| e["name"] == environment).expect("it is there");
    let slots = here["slots"].as_array().expect("slots").clone();
    let mut slot = slots.into_iter().find(|slot| slot["live"] == true).expect("something is live");
    slot["engine"] = here["engine"].clone();
    slot
}

#[test]
fn what_was_good_as_processes_goes_on_in_containers_where_that_is_allowed_in_writing() {
    if !docker_answers() {
        return;
    }
    let mut harness = Harness::new();
    in_containers(
        &harness,
        "  staging: { branch: main, drain: 1s }\n  production: { engine: docker, after: staging, drain: 1s, \
         approval: { from: [USER] } }\n",
        "mixed_artifacts: allow\n",
    );
    harness.start();
    harness.wait_for_live("staging", "The first in containers");
    harness.expect(0, &["approve", "production"]);
    let first = harness.wait_for_live("production", "The first in containers");
    assert!(harness.get("production").expect("an answer").contains("first r1"));
    assert_eq!(live_slot(&harness, "staging")["engine"], "process");
    let slot = live_slot(&harness, "production");
    assert_eq!(slot["engine"], "docker");
    let image = slot["images"]["web"]["location"]["image"].as_str().expect("an image").to_owned();
    assert!(image.starts_with("tiny/web:"), "{image}");
    let shown = text(&harness.launchway(&["status", "production"]).stdout);
    assert!(shown.contains("in containers") && shown.contains(&image), "{shown}");
    // A reading from just before it began is shown for a moment.
    harness.eventually("what it uses is shown", || {
        let slot = live_slot(&harness, "production");
        slot["replicas"][0]["usage"]["memory_bytes"].as_u64() > Some(0)
    });

    // Its output and its inside, as anywhere else.
    let log = harness.expect(0, &["logs", "production", "web"]);
    assert!(log.contains("GET / HTTP/1.1"), "{log}");
    let inside = harness.expect(0, &["exec", "production", "web", "--", "cat", "/app/text"]);
    assert_eq!(inside.trim(), "first");
    let heard = harness.feed("tea\n", &["exec", "production", "web", "--", "cat"]);
    assert_eq!(heard, "tea\n");

    harness.project.commit("second");
    harness.wait_for_live("staging", "second");
    harness.expect(0, &["approve", "production"]);
    let second = harness.wait_for_live("production", "second");
    assert_ne!(first.pids, second.pids);
    assert!(harness.get("production").expect("an answer").contains("second r2"));
    harness.expect(0, &["rollback", "production"]);
    harness.wait_for_live("production", "The first in containers");

    // A killed server takes over what it left.
    harness.kill_server();
    harness.start();
    let again = harness.wait_for_live("production", "The first in containers");
    assert_eq!(again.pids, first.pids);

    let down = harness.launchway(&["down", "--with-data"]);
    let said = text(&down.stderr);
    assert!(down.status.success() && said.contains("what stays: "), "{said}");
    assert!(said.contains("tiny/web:") && said.contains("docker image rm"), "{said}");
    harness.server_ended();
    assert_eq!(left_in_docker(&harness), Vec::<String>::new());
}

#[test]
fn a_release_that_does_not_start_as_a_container_says_why_and_the_live_one_stays() {
    if !docker_answers() {
        return;
    }
    let mut harness = Harness::new();
    in_containers(&harness, "  staging: { engine: docker, branch: main, drain: 1s }\n", "");
    harness.start();
    harness.wait_for_live("staging", "The first in containers");
    for (compose, cause) in [
        // Python alone needs more than this.
        (
            "services: { web: { build: ./web, command: \"python3 -c 'bytearray(200 << 20)'\", mem_limit: 20m } }\n",
            "memory",
        ),
        ("services: { web: { build: ./web, command: \"no-such-program\" } }\n", "no-such-program"),
    ] {
        harness.project.write("compose.yaml", compose);
        // So that the throwaway environment of the build does not find it first.
        let file = std::fs::read_to_string(harness.project.folder.join("launchway.yaml"));
        let file = file.expect("readable");
        let without: Vec<&str> = file.lines().filter(|line| !line.contains("integrate:")).collect();
        harness.project.write("launchway.yaml", &(without.join("\n") + "\n"));
        harness.project.save("Does not start");
        harness.eventually(&format!("the report names {cause}"), || {
            let status = harness.status();
            let last = &status["environments"][0]["last"];
            last["end"].as_str().is_some_and(|end| end.contains(cause))
        });
        let slot = harness.status()["environments"][0]["last"]["id"].clone();
        let rollout = harness.expect(0, &["history", slot.as_str().expect("an id"), "--json"]);
        let rollout: serde_json::Value = serde_json::from_str(&rollout).expect("JSON");
        let slot = rollout["candidate"].as_str().expect("a slot");
        harness.expect(0, &["logs", "staging", "web", "--slot", slot]);
        let live = harness.live("staging").expect("something is live");
        assert_eq!(live.subject, "The first in containers");
    }
    harness.expect(0, &["down", "--with-data"]);
    harness.server_ended();
    assert_eq!(left_in_docker(&harness), Vec::<String>::new());
}

#[test]
fn a_command_inside_of_a_container_whose_server_was_killed_is_ended_by_the_next() {
    if !docker_answers() {
        return;
    }
    let mut harness = Harness::new();
    in_containers(&harness, "  staging: { engine: docker, branch: main, drain: 1s }\n", "");
    harness.start();
    harness.wait_for_live("staging", "The first in containers");
    // No other process sleeps as long as this one.
    let seconds = (900_000 + std::process::id()).to_string();
    let script = format!("echo begun; sleep {seconds}");
    let exec = || {
        let mut exec = harness.begin(&["exec", "staging", "web", "--", "sh", "-c", &script]);
        let mut begun = [0; 6];
        exec.stdout.as_mut().expect("a pipe").read_exact(&mut begun).expect("a line");
        exec
    };
    let left = exec();
    harness.eventually("it sleeps", || sleeps(&seconds) == 1);
    harness.kill_server();
    assert_eq!(left.wait_with_output().expect("it ends").status.code(), Some(1));
    assert_eq!(sleeps(&seconds), 1, "the Engine lets it run");
    harness.start();
    harness.eventually("it was ended", || sleeps(&seconds) == 0);
    harness.expect(0, &["exec", "staging", "web", "--", "true"]);
    let notes = harness.state.join("docker/staging/execs");
    harness.eventually("nothing is noted any more", || {
        std::fs::read_dir(&notes).is_ok_and(|mut notes| notes.next().is_none())
    });
    harness.expect(0, &["down", "--with-data"]);
    harness.server_ended();
    assert_eq!(left_in_docker(&harness), Vec::<String>::new());
}

/// How many processes sleep exactly so long, in whichever container.
fn sleeps(seconds: &str) -> usize {
    let wanted = ["sleep", seconds, ""].join("\0").into_bytes();
    let processes = std::fs::read_dir("/proc").expect("readable").flatten();
    let lines = processes.filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok());
    lines.filter(|line| *line == wanted).count()
}
