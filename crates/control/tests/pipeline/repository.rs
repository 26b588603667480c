//! What is read from the repository, and that nothing is written into it.

use control::pipeline::PlanError;
use domain::CommitId;

use crate::world::World;

#[tokio::test]
async fn a_commit_is_known_by_author_and_subject_and_a_branch_by_its_head() {
    let world = World::new("{ scan: off }");
    let commit = world.commit();
    world.git(&["branch", "feature/x"]);
    let (known, project) = world.pipeline.plan(&commit).await.unwrap();
    assert_eq!(known.author, "Mei <mei@example.org>");
    assert_eq!(known.subject, "Steep it longer");
    assert_eq!(project.app.as_str(), "tea");
    let branches = world.pipeline.branches().await.unwrap();
    assert_eq!(branches.keys().collect::<Vec<_>>(), ["feature/x", "main"]);
    for revision in ["main", "HEAD", commit.short()] {
        assert_eq!(world.pipeline.resolve(revision).await.unwrap(), commit);
    }
}

#[tokio::test]
async fn a_revision_that_is_none_is_refused_and_never_taken_for_an_option() {
    let world = World::new("{ scan: off }");
    world.commit();
    for revision in ["nothing", "--all", "-h"] {
        let error = world.pipeline.resolve(revision).await.unwrap_err();
        assert!(error.to_string().contains(revision), "{error}");
    }
}

#[tokio::test]
async fn mistakes_in_the_configuration_of_a_commit_have_their_place() {
    let world = World::new("{ tset: [] }");
    let error = world.pipeline.plan(&world.commit()).await.unwrap_err();
    let PlanError::Mistakes(mistakes) = error else { panic!("{error}") };
    assert!(mistakes.iter().any(|line| line.starts_with("launchway.yaml:5:")), "{mistakes:?}");
}

#[tokio::test]
async fn a_commit_without_a_configuration_is_a_mistake_and_nothing_to_wait_for() {
    let world = World::new("{ scan: off }");
    std::fs::remove_file(world.path("repository/launchway.yaml")).unwrap();
    let error = world.pipeline.plan(&world.commit()).await.unwrap_err();
    let PlanError::Mistakes(mistakes) = error else { panic!("{error}") };
    assert!(mistakes[0].starts_with("launchway.yaml:1:1:"), "{mistakes:?}");
}

#[tokio::test]
async fn a_folder_that_the_configuration_names_and_the_commit_lacks_is_a_mistake() {
    let world = World::new("{ scan: off, test: [{ name: unit, in: nowhere, run: 'true' }] }");
    let error = world.pipeline.plan(&world.commit()).await.unwrap_err();
    let PlanError::Mistakes(mistakes) = error else { panic!("{error}") };
    assert!(mistakes[0].contains("nowhere"), "{mistakes:?}");
}

#[tokio::test]
async fn a_step_works_in_a_clean_checkout_of_the_commit_and_the_repository_stays_as_it_is() {
    let world = World::new(
        "{ scan: off, test: [{ name: unit, run: 'ls -A; ls -l run.sh; cat note; touch made' }] }",
    );
    world.write("note", "committed\n");
    world.write("run.sh", "#!/bin/sh\n");
    world.write(".gitattributes", "note export-ignore\n");
    world.git(&["update-index", "--add", "--chmod=+x", "run.sh"]);
    let commit = world.commit();
    world.write("note", "changed since\n");
    world.write("untracked", "");
    let before = world.git(&["status", "--porcelain"]);
    let (_, project) = world.pipeline.plan(&commit).await.unwrap();
    let result = world.perform(1, &commit, &project, "unit", Default::default()).await;
    let log = world.log(1, "unit");
    assert_eq!(result.cause, None);
    assert!(log.contains("committed") && !log.contains("untracked"), "{log}");
    assert_eq!(world.git(&["status", "--porcelain"]), before);
    assert_eq!(world.git(&["worktree", "list"]).lines().count(), 1);
    world.pipeline.finish("run-1").await.unwrap();
    assert!(!world.path("state/runs/run-1/checkout").exists());
    assert_eq!(world.log(1, "unit"), log, "the log went with the checkout");
}

#[tokio::test]
async fn steps_that_ask_at_once_share_one_whole_checkout() {
    let world = World::new(
        "{ scan: off, test: [{ name: a, run: 'ls web/server.py' }, { name: b, run: 'ls web/server.py' }] }",
    );
    let commit = world.commit();
    let (_, project) = world.pipeline.plan(&commit).await.unwrap();
    let none = Default::default;
    let (a, b) = tokio::join!(
        world.perform(1, &commit, &project, "a", none()),
        world.perform(1, &commit, &project, "b", none()),
    );
    assert_eq!((a.cause, b.cause), (None, None));
}

#[tokio::test]
async fn a_project_in_a_folder_of_the_repository_and_a_repository_of_another_owner_are_read() {
    let world = World::new("{ scan: off, test: [{ name: unit, run: 'ls' }] }");
    world.write("apps/tea/web/only-here", "");
    for file in ["launchway.yaml", "compose.yaml"] {
        let text = std::fs::read_to_string(world.path("repository").join(file)).unwrap();
        world.write(&format!("apps/tea/{file}"), &text);
    }
    let commit: CommitId = world.commit();
    if nix::unistd::geteuid().is_root() {
        world.give_repository_to(12_345);
    }
    let pipeline = world.pipeline_of("repository/apps/tea");
    let (_, project) = pipeline.plan(&commit).await.unwrap();
    let step = crate::world::step_called(&project, "unit");
    let result = crate::world::perform(&pipeline, 1, &commit, &project, &step).await;
    assert_eq!(result.cause, None);
    let log = pipeline.tail("run-1", &step.name, 10).await.unwrap();
    assert_eq!(log, ["compose.yaml", "launchway.yaml", "web"]);
}
