//! Images of containers: built once for the same inputs, by a real Docker Engine.

use std::collections::BTreeSet;

use control::pipeline::Needed;
use domain::pipeline::{Outcome, StepResult};
use domain::slot::Location;
use engine::docker::build::{ImageBuilder, by_id};

use crate::docker;
use crate::world::World;

const DOCKERFILE: &str = "FROM python:3.11-slim\nCOPY . /app\nRUN ls /app && echo steeped\n";

/// An app in containers, if an Engine answers here.
async fn world() -> Option<(World, ImageBuilder)> {
    let builder = docker::engine().await?;
    let world = World::new("{}");
    world.in_containers();
    world.write("web/Dockerfile", DOCKERFILE);
    world.write("web/.dockerignore", "*.md\n");
    Some((world, builder))
}

fn image(result: &StepResult) -> (String, String) {
    assert_eq!(result.outcome, Outcome::Passed, "{:?}\n{}", result.cause, result.tail.join("\n"));
    let artifact = result.artifact.as_ref().unwrap();
    let Location::Image { image, .. } = &artifact.location else { panic!("{artifact:?}") };
    (by_id(&artifact.digest), image.clone())
}

/// Takes away what the test has made.
async fn clear(world: &World) {
    world.docker.keep(|| Some(Needed::default())).await.unwrap();
}

#[tokio::test]
async fn an_image_is_built_once_for_the_same_inputs_and_named_after_each_commit() {
    let Some((world, builder)) = world().await else { return };
    let first = world.run(1, "image web").await;
    let (id, name) = image(&first);
    assert_eq!(name, format!("tea/web:{}", world.git(&["rev-parse", "HEAD"])));
    assert!(world.log(1, "image web").contains("steeped"), "{}", world.log(1, "image web"));
    let labels = builder.image(&id).await.unwrap().unwrap().labels;
    assert_eq!(labels["org.opencontainers.image.revision"], world.git(&["rev-parse", "HEAD"]));
    assert_eq!(labels["org.opencontainers.image.title"], "tea/web");

    // Neither is sent to the Engine.
    world.write("README.md", "of the project");
    world.write("web/NOTES.md", "left out");
    let second = world.run(2, "image web").await;
    let (same, another) = image(&second);
    assert_eq!(same, id);
    assert_eq!(second.reused.as_ref().map(|run| run.as_str()), Some("run-1"));
    assert_ne!(another, name);
    let tags = builder.image(&id).await.unwrap().unwrap().tags;
    assert!(tags.contains(&name) && tags.contains(&another), "{tags:?}");

    world.write("web/server.py", "print('green tea')");
    let third = world.run(3, "image web").await;
    assert_ne!(image(&third).0, id);
    assert_eq!(world.why(3, "image web").await, ["file changed: web/server.py"]);
    clear(&world).await;
}

#[tokio::test]
async fn an_image_that_is_gone_is_built_again_and_one_that_nobody_noted_is_found() {
    let Some((world, builder)) = world().await else { return };
    let (id, name) = image(&world.run(1, "image web").await);
    // As after a crash between the end of the build and our note of it.
    std::fs::remove_dir_all(world.path("state/images")).unwrap();
    let second = world.run(2, "image web").await;
    assert_eq!(image(&second).0, id);
    assert!(!world.log(2, "image web").contains("steeped"), "{}", world.log(2, "image web"));

    for tag in [&name, &image(&second).1] {
        builder.remove(tag).await.unwrap();
    }
    assert!(builder.image(&id).await.unwrap().is_none());
    let third = world.run(3, "image web").await;
    let (again, _) = image(&third);
    assert!(third.reused.is_none() && builder.image(&again).await.unwrap().is_some());
    clear(&world).await;
}

#[tokio::test]
async fn a_build_that_fails_says_why_first() {
    let Some((world, _)) = world().await else { return };
    for (run, dockerfile, cause) in [
        (
            1,
            "FROM python:3.11-slim\nRUN python -c 'import tea'\n",
            "`RUN python -c 'import tea'` of web/Dockerfile:2 failed: ModuleNotFoundError: No module named 'tea' (exit status 1)",
        ),
        (
            2,
            "FROM python:3.11-slim\nCOPY leaves /\n",
            "web/Dockerfile:2 copies a file that the build context does not have",
        ),
        (
            3,
            "FROM nobody.invalid/tea:1\n",
            "an image that web/Dockerfile:1 begins with cannot be pulled",
        ),
        (4, "FROM python:3.11-slim\nRNU x\n", "web/Dockerfile:2 cannot be read"),
        (
            5,
            "FROM python:3.11-slim\nRUN echo 'cp: x: No space left on device' && exit 1\n",
            "the disk of the Docker Engine is full",
        ),
    ] {
        world.write("web/Dockerfile", dockerfile);
        let result = world.run(run, "image web").await;
        assert_eq!(result.outcome, Outcome::Failed);
        let said = result.cause.unwrap();
        assert!(said.starts_with(cause), "{said}\n{}", result.tail.join("\n"));
    }
    clear(&world).await;
}

#[tokio::test]
async fn what_a_build_is_told_decides_about_it_and_its_secrets_do_not_show() {
    let Some((mut world, _)) = world().await else { return };
    world.restart(&[("LEAF", "hunter22")]);
    let compose = |grade: &str| {
        format!(
            "services:\n  web:\n    build: {{ context: ./web, args: {{ GRADE: {grade} }}, secrets: [leaf] }}\n\
             secrets: {{ leaf: {{ environment: LEAF }} }}\n"
        )
    };
    world.write("compose.yaml", &compose("first"));
    // Another one each time: what comes from the cache says nothing.
    let case = world.path("").display().to_string();
    let dockerfile = format!(
        "FROM python:3.11-slim\nENV CASE={case}\nARG GRADE\n\
         RUN --mount=type=secret,id=leaf echo $GRADE $(wc -c < /run/secrets/leaf)\n"
    );
    world.write("web/Dockerfile", &dockerfile);
    let (first, _) = image(&world.run(1, "image web").await);
    let log = world.log(1, "image web");
    assert!(log.contains("first 8") && !log.contains("hunter22"), "{log}");
    world.write("compose.yaml", &compose("second"));
    let (second, _) = image(&world.run(2, "image web").await);
    assert_ne!(first, second);
    assert_eq!(world.why(2, "image web").await, ["setting changed: arg GRADE"]);
    clear(&world).await;
}

#[tokio::test]
async fn images_that_no_release_needs_go_and_the_others_stay() {
    let Some((world, builder)) = world().await else { return };
    let (old, _) = image(&world.run(1, "image web").await);
    world.write("web/server.py", "print('green tea')");
    let result = world.run(2, "image web").await;
    let (kept, name) = image(&result);
    let commit = domain::CommitId::new(world.git(&["rev-parse", "HEAD"])).unwrap();
    // A server that has been up for a while.
    let images = world.fresh_docker();
    let digest = result.artifact.unwrap().digest;
    let needed = || Needed { images: BTreeSet::from([digest]), commits: BTreeSet::from([commit]) };
    assert_eq!(images.keep(|| Some(needed())).await.unwrap(), 1);
    assert!(builder.image(&old).await.unwrap().is_none());
    assert_eq!(builder.image(&kept).await.unwrap().unwrap().tags, [name]);
    // Nobody knows what is needed: nothing goes.
    assert_eq!(images.keep(|| None).await.unwrap(), 0);
    images.keep(|| Some(Needed::default())).await.unwrap();
    assert!(builder.image(&kept).await.unwrap().is_none());
}
