//! Steps whose inputs are the same are not run again; `why` says what was not the same.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use domain::pipeline::Outcome;

use crate::world::World;

const BUILD: &str =
    "{ scan: off, test: [{ name: unit, in: web, run: 'cat server.py', env: { LEVEL: low } }] }";

#[tokio::test]
async fn an_unchanged_step_is_reused_without_a_checkout_and_says_so() {
    let world = World::new(BUILD);
    let first = world.run(1, "unit").await;
    assert_eq!((first.outcome, first.reused.is_none()), (Outcome::Passed, true));
    world.write("README", "of no concern to the step");
    for run in [2, 3] {
        let again = world.run(run, "unit").await;
        assert_eq!(again.outcome, Outcome::Passed);
        assert_eq!(again.reused.unwrap().as_str(), "run-1");
        assert!(world.log(run, "unit").contains("reused from run-1"));
        assert!(!world.path(&format!("state/runs/run-{run}/checkout")).exists());
    }
    assert_eq!(world.why(3, "unit").await, Vec::<String>::new());
}

#[tokio::test]
async fn a_failed_step_is_run_again_and_why_says_that() {
    let world = World::new("{ scan: off, test: [{ name: unit, run: 'exit 1' }] }");
    world.run(1, "unit").await;
    let again = world.run(2, "unit").await;
    assert_eq!((again.outcome, again.reused), (Outcome::Failed, None));
    assert!(world.why(2, "unit").await[0].contains("in run-1 it failed"));
    assert_eq!(world.why(1, "unit").await, ["no earlier run had this step"]);
}

#[tokio::test]
async fn changed_added_and_removed_files_are_named() {
    let world = World::new(BUILD);
    world.write("web/old.py", "");
    world.run(1, "unit").await;
    world.write("web/server.py", "print('more tea')");
    world.write("web/new.py", "");
    fs::remove_file(world.path("repository/web/old.py")).unwrap();
    assert_eq!(world.run(2, "unit").await.reused, None);
    assert_eq!(
        world.why(2, "unit").await,
        ["file added: web/new.py", "file changed: web/server.py", "file removed: web/old.py"]
    );
}

#[tokio::test]
async fn another_command_setting_or_variable_is_named_and_a_value_is_never_shown() {
    let world = World::new(BUILD);
    world.run(1, "unit").await;
    let build = "{ scan: off, test: [{ name: unit, in: web, run: 'cat server.py #', sarif: x, env: { LEVEL: topsecret, MORE: '1' } }] }";
    world.configure(build, "{ run: x }");
    assert_eq!(world.run(2, "unit").await.reused, None);
    assert_eq!(
        world.why(2, "unit").await,
        [
            "command changed: from `cat server.py` to `cat server.py #`",
            "setting changed: sarif",
            "environment variable changed: LEVEL",
            "environment variable added: MORE",
        ]
    );
    let manifest = fs::read_to_string(world.path("state/runs/run-2/steps/unit/manifest.json"));
    assert!(!manifest.unwrap().contains("topsecret"));
}

#[tokio::test]
async fn a_listed_variable_of_the_server_counts_and_the_way_to_the_network_does_not() {
    let mut world = World::new(BUILD);
    world.run(1, "unit").await;
    world.restart(&[("https_proxy", "http://proxy"), ("CLOUD_SECRET", "another")]);
    assert!(world.run(2, "unit").await.reused.is_some());
    world.restart(&[("PIP_INDEX_URL", "https://packages.example.org")]);
    assert!(world.run(3, "unit").await.reused.is_none());
    assert_eq!(world.why(3, "unit").await, ["environment variable added: PIP_INDEX_URL"]);
}

#[tokio::test]
async fn another_version_of_a_tool_is_named() {
    let mut world = World::new("{ scan: off, test: [{ name: unit, run: 'steep now' }] }");
    let tools = world.path("tools");
    let install = |version: &str| {
        fs::create_dir_all(&tools).unwrap();
        fs::write(tools.join("steep"), format!("#!/bin/sh\necho {version}\n")).unwrap();
        fs::set_permissions(tools.join("steep"), fs::Permissions::from_mode(0o755)).unwrap();
    };
    install("1.0");
    let path = format!("{}:/usr/bin:/bin", tools.display());
    world.restart(&[("PATH", &path)]);
    let first = world.run(1, "unit").await;
    assert_eq!(first.outcome, Outcome::Passed, "{first:?}");
    assert!(world.run(2, "unit").await.reused.is_some());
    install("10.0");
    assert!(world.run(3, "unit").await.reused.is_none());
    let why = world.why(3, "unit").await;
    assert!(why.len() == 1 && why[0].starts_with("tool changed: steep"), "{why:?}");
}

#[tokio::test]
async fn named_inputs_replace_the_folder_of_the_step() {
    let world =
        World::new("{ scan: off, test: [{ name: unit, in: web, run: 'true', inputs: [schema] }] }");
    world.write("schema/one.sql", "1");
    world.run(1, "unit").await;
    world.write("web/server.py", "other");
    assert!(world.run(2, "unit").await.reused.is_some());
    world.write("schema/one.sql", "2");
    assert!(world.run(3, "unit").await.reused.is_none());
}

#[tokio::test]
async fn a_scan_is_reused_for_a_day_and_no_longer() {
    let report = r#"{"version":"2.1.0","runs":[{"tool":{"driver":{"name":"scan"}},"results":[]}]}"#;
    let world =
        World::new("{ scan: { steps: [{ name: scan, run: 'cp report out', sarif: out }] } }");
    world.write("report", report);
    assert_eq!(world.run(1, "scan").await.outcome, Outcome::Passed);
    assert!(world.run(2, "scan").await.reused.is_some());
    let known = fs::read_dir(world.path("state/steps")).unwrap().next().unwrap().unwrap().path();
    let text = fs::read_to_string(&known).unwrap();
    let mut value: serde_json::Value = serde_json::from_str(&text).unwrap();
    value["at"] = "2001-01-01T00:00:00.000Z".into();
    fs::write(known, value.to_string()).unwrap();
    assert!(world.run(3, "scan").await.reused.is_none());
}
