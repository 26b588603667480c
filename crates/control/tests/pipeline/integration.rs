//! Throwaway environments: real services around a step, gone afterwards whatever happens.

use std::fs;
use std::time::Duration;

use domain::config::Project;
use domain::pipeline::{Outcome, StepResult};
use domain::{CommitId, ServiceName};
use tokio_util::sync::CancellationToken;

use crate::world::{World, eventually, runs};

/// Answers `/health` and tells its environment, like the shop's backend but smaller.
const SERVER: &str = r#"
import http.server, os
class Tea(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        told = {name: os.environ.get(name) for name in ("CACHE", "TOKEN", "LAUNCHWAY_ENVIRONMENT", "RELEASE", "COMMIT")}
        self.wfile.write(str(told).encode())
    def log_message(self, *args): pass
http.server.HTTPServer(("127.0.0.1", int(os.environ["PORT"])), Tea).serve_forever()
"#;

/// Asks the service and the cache where the step is told that they are.
const TEST: &str = r#"
import os, socket, urllib.request
print(urllib.request.urlopen(os.environ["BASE_URL"] + "/x").read().decode())
assert os.environ["BASE_URL"].endswith(":" + os.environ["WEB_PORT"])
cache = socket.create_connection((os.environ["CACHE_HOST"], int(os.environ["CACHE_PORT"])))
cache.sendall(b"PING\r\n")
print(cache.recv(100).decode())
"#;

const PYTHON: &str = "{ run: exec python3 server.py }";

fn build(run: &str) -> String {
    format!("{{ scan: off, integrate: [{{ name: api, run: '{run}', with: [web] }}] }}")
}

/// A world whose artifacts are built.
async fn world(run: &str, native: &str) -> (World, CommitId, Project) {
    let mut world = World::with_native(&build(run), native, &[]);
    world.write("web/server.py", SERVER);
    world.write("test.py", TEST);
    let commit = world.commit();
    let (_, project) = world.pipeline.plan(&commit).await.unwrap();
    let none = CancellationToken::new();
    let image = world.perform(1, &commit, &project, "image web", none).await;
    world.artifacts.insert(ServiceName::new("web").unwrap(), image.artifact.unwrap());
    (world, commit, project)
}

async fn integrate(world: &(World, CommitId, Project), cancel: CancellationToken) -> StepResult {
    let (world, commit, project) = world;
    world.perform(1, commit, project, "api", cancel).await
}

/// Nothing of the throwaway environment is left.
async fn assert_gone(world: &World) {
    let records = fs::read_dir(world.path("state/throwaway")).unwrap().count();
    assert_eq!(records, 0, "a throwaway environment is still on record");
    let folder = world.path("engine").display().to_string();
    eventually("its processes are gone", || !runs(&format!("{folder}/environments/it-"))).await;
    let data = fs::read_dir(world.path("engine/environments")).unwrap().flatten();
    let left: Vec<_> = data
        .filter(|entry| entry.file_name().to_string_lossy().starts_with("it-"))
        .filter(|entry| entry.path().join("data").exists())
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

#[tokio::test]
async fn a_step_finds_its_services_and_afterwards_they_are_gone() {
    let world = world("python3 test.py", PYTHON).await;
    let result = integrate(&world, CancellationToken::new()).await;
    let log = world.0.log(1, "api");
    assert_eq!(result.outcome, Outcome::Passed, "{result:?}\n{log}");
    assert!(log.contains("PONG"), "{log}");
    assert!(log.contains("'CACHE': '127.0.0.1:"), "{log}");
    assert!(log.contains("'LAUNCHWAY_ENVIRONMENT': 'it-1-api-1'"), "{log}");
    assert!(log.contains(world.1.as_str()), "{log}");
    assert_gone(&world.0).await;
}

#[tokio::test]
async fn a_required_variable_that_nobody_sets_gets_a_value_that_is_in_no_manifest() {
    let world = world("python3 test.py", PYTHON).await;
    integrate(&world, CancellationToken::new()).await;
    let log = world.0.log(1, "api");
    let token = log.split("'TOKEN': '").nth(1).and_then(|rest| rest.split('\'').next()).unwrap();
    assert_eq!(token.len(), 32);
    let manifest = fs::read_to_string(world.0.path("state/runs/run-1/steps/api/manifest.json"));
    assert!(!manifest.unwrap().contains(token));
}

#[tokio::test]
async fn a_failed_step_keeps_what_the_services_said_and_they_are_gone() {
    let world = world(
        "python3 -c \"import sys; sys.exit(3)\"",
        "{ run: echo I am up; exec python3 server.py }",
    )
    .await;
    let result = integrate(&world, CancellationToken::new()).await;
    assert_eq!(result.outcome, Outcome::Failed, "{result:?}");
    let kept = fs::read_to_string(world.0.path("state/runs/run-1/steps/api/services/web.0.log"));
    assert!(kept.unwrap().contains("I am up"));
    assert_gone(&world.0).await;
}

#[tokio::test]
async fn a_service_that_ends_while_it_starts_fails_the_step_at_once() {
    let native = "{ run: echo Error no port here >&2; exit 4 }";
    let world = world("python3 test.py", native).await;
    let result = integrate(&world, CancellationToken::new()).await;
    assert_eq!(result.outcome, Outcome::Failed);
    let cause = result.cause.unwrap();
    assert!(cause.contains("`web` ended") && cause.contains("no port here"), "{cause}");
    assert!(result.duration < Duration::from_secs(20), "it waited {:?}", result.duration);
    assert_gone(&world.0).await;
}

#[tokio::test]
async fn a_canceled_step_leaves_no_environment() {
    let world = world("echo on; sleep 60", PYTHON).await;
    let cancel = CancellationToken::new();
    let stop = async {
        eventually("the command runs", || world.0.log(1, "api").contains("on")).await;
        cancel.cancel();
    };
    let (result, ()) = tokio::join!(integrate(&world, cancel.clone()), stop);
    assert_eq!(result.outcome, Outcome::Canceled);
    assert_gone(&world.0).await;
}

#[tokio::test]
async fn what_a_dead_server_left_is_swept_unless_its_run_goes_on() {
    let mut world = world("echo on; sleep 60", PYTHON).await;
    {
        let step = integrate(&world, CancellationToken::new());
        tokio::select! {
            result = step => panic!("it ended by itself: {result:?}"),
            () = eventually("the command runs", || world.0.log(1, "api").contains("on")) => {}
        }
    }
    world.0.restart(&[]);
    world.0.pipeline.sweep(&["run-1".to_owned()].into()).await.unwrap();
    assert!(world.0.path("state/throwaway/it-1-api-1").exists(), "its run goes on");
    world.0.pipeline.sweep(&Default::default()).await.unwrap();
    assert_gone(&world.0).await;
    assert!(!world.0.path("state/runs/run-1/checkout").exists());
}
