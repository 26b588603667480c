//! What `images` makes: built once, read-only, named by its content.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use domain::pipeline::{Outcome, StepResult};
use domain::slot::ArtifactRef;
use tokio_util::sync::CancellationToken;

use crate::world::{World, eventually, runs};

const STEP: &str = "image web";
const NO_SCAN: &str = "{ scan: off }";

fn world(setup: &str) -> World {
    World::with_native(NO_SCAN, &format!("{{ setup: '{setup}', run: ./made }}"), &[])
}

fn artifact(result: &StepResult) -> ArtifactRef {
    result.artifact.clone().unwrap_or_else(|| panic!("no artifact: {result:?}"))
}

#[tokio::test]
async fn an_artifact_is_the_build_context_after_its_setup_read_only() {
    let world = world("pwd > made; chmod +x made; mkdir sub; echo x > sub/file");
    world.write("other/not-in-the-context", "");
    let artifact = artifact(&world.run(1, STEP).await);
    let root = artifact.folder().unwrap();
    let built_at = fs::read_to_string(root.join("made")).unwrap();
    assert_eq!(built_at.trim(), root.display().to_string(), "it was moved after it was built");
    assert!(root.join("server.py").exists() && !root.join("other").exists());
    for (path, mode) in [("", 0o555), ("sub", 0o555), ("sub/file", 0o444), ("made", 0o555)] {
        let seen = fs::metadata(root.join(path)).unwrap().permissions().mode() & 0o777;
        assert_eq!(seen, mode, "{path}");
    }
    assert!(world.pipeline.verify(&artifact).await.unwrap());
}

#[tokio::test]
async fn what_was_tampered_with_is_noticed() {
    let world = world("echo tea > made");
    let artifact = artifact(&world.run(1, STEP).await);
    let file = artifact.folder().unwrap().join("made");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    fs::write(&file, "coffee").unwrap();
    assert!(!world.pipeline.verify(&artifact).await.unwrap());
}

#[tokio::test]
async fn an_artifact_is_built_once_and_reused_by_later_runs() {
    let world = world("echo built >> made");
    let first = world.run(1, STEP).await;
    world.write("README", "not in the context");
    let second = world.run(2, STEP).await;
    assert_eq!(second.reused.as_ref().unwrap().as_str(), "run-1");
    assert_eq!(artifact(&first), artifact(&second));
    world.write("web/server.py", "print()");
    let third = world.run(3, STEP).await;
    assert_eq!(third.reused, None);
    assert_ne!(artifact(&third).location, artifact(&first).location);
    assert_eq!(world.why(3, STEP).await, ["file changed: web/server.py"]);
}

#[tokio::test]
async fn runs_that_want_the_same_artifact_at_once_build_it_once() {
    let world = world("echo built >> made; sleep 0.3");
    let commit = world.commit();
    let (_, project) = world.pipeline.plan(&commit).await.unwrap();
    let build = |run| world.perform(run, &commit, &project, STEP, CancellationToken::new());
    let (a, b, c) = tokio::join!(build(1), build(2), build(3));
    assert_eq!([&a, &b, &c].iter().filter(|result| result.reused.is_none()).count(), 1);
    assert_eq!(fs::read_to_string(artifact(&a).folder().unwrap().join("made")).unwrap(), "built\n");
    assert_eq!((artifact(&a), artifact(&a)), (artifact(&b), artifact(&c)));
}

#[tokio::test]
async fn a_setup_that_a_crash_left_running_is_waited_for() {
    let mut world = world("echo built >> made; until test -e $HOME/go; do sleep 0.02; done");
    let commit = world.commit();
    let (_, project) = world.pipeline.plan(&commit).await.unwrap();
    {
        let build = world.perform(1, &commit, &project, STEP, CancellationToken::new());
        let built = || tree_of(&world).is_some_and(|tree| tree.join("made").exists());
        tokio::select! {
            result = build => panic!("it ended by itself: {result:?}"),
            () = eventually("it runs", built) => {}
        }
    }
    world.restart(&[]);
    fs::write(world.path("state/build-home/go"), "").unwrap();
    let result = world.perform(1, &commit, &project, STEP, CancellationToken::new()).await;
    assert_eq!(
        fs::read_to_string(artifact(&result).folder().unwrap().join("made")).unwrap(),
        "built\n"
    );
}

#[tokio::test]
async fn what_another_run_left_half_built_is_stopped_removed_and_built_again() {
    let marker = format!("8{}", std::process::id());
    let mut world =
        world(&format!("test -e $HOME/second || {{ touch half; sleep {marker}; }}; touch made"));
    let commit = world.commit();
    let (_, project) = world.pipeline.plan(&commit).await.unwrap();
    {
        let build = world.perform(1, &commit, &project, STEP, CancellationToken::new());
        let half = || tree_of(&world).is_some_and(|tree| tree.join("half").exists());
        tokio::select! {
            result = build => panic!("it ended by itself: {result:?}"),
            () = eventually("it is half built", half) => {}
        }
    }
    world.restart(&[]);
    fs::write(world.path("state/build-home/second"), "").unwrap();
    let result = world.perform(2, &commit, &project, STEP, CancellationToken::new()).await;
    let root = artifact(&result).folder().unwrap().to_owned();
    assert!(root.join("made").exists() && !root.join("half").exists());
    assert!(!runs(&format!("sleep\0{marker}")), "the abandoned setup still runs");
}

#[tokio::test]
async fn a_failed_setup_leaves_nothing_and_the_next_run_tries_again() {
    let world = world("touch half; echo no network >&2; test -e $HOME/network");
    let failed = world.run(1, STEP).await;
    assert_eq!(failed.outcome, Outcome::Failed);
    assert!(failed.cause.unwrap().contains("no network"));
    assert!(!tree_of(&world).unwrap().exists());
    fs::write(world.path("state/build-home/network"), "").unwrap();
    assert_eq!(world.run(2, STEP).await.outcome, Outcome::Passed);
}

#[tokio::test]
async fn of_a_static_service_only_what_is_served_is_kept() {
    let native =
        "{ setup: 'mkdir -p dist node_modules; echo tea > dist/index.html', static: dist }";
    let world = World::with_native(NO_SCAN, native, &[]);
    let root = artifact(&world.run(1, STEP).await).folder().unwrap().to_owned();
    assert_eq!(fs::read_to_string(root.join("dist/index.html")).unwrap(), "tea\n");
    assert_eq!(fs::read_dir(&root).unwrap().count(), 1);
}

#[tokio::test]
async fn a_setup_that_does_not_make_the_served_folder_fails() {
    let world = World::with_native(NO_SCAN, "{ setup: 'true', static: dist }", &[]);
    let result = world.run(1, STEP).await;
    assert_eq!(result.outcome, Outcome::Failed);
    assert!(result.cause.unwrap().contains("`dist`"));
}

#[tokio::test]
async fn without_a_setup_the_artifact_is_the_context_as_committed() {
    let world = World::with_native(NO_SCAN, "{ run: x }", &[]);
    let root = artifact(&world.run(1, STEP).await).folder().unwrap().to_owned();
    assert_eq!(fs::read_to_string(root.join("server.py")).unwrap(), "print('tea')");
}

/// The tree of the only artifact.
fn tree_of(world: &World) -> Option<std::path::PathBuf> {
    let mut artifacts = fs::read_dir(world.path("state/artifacts")).ok()?;
    Some(artifacts.next()?.ok()?.path().join("tree"))
}
