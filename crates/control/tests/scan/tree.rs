//! Dockerfiles and secrets: hadolint and gitleaks on the commit.

use domain::pipeline::Outcome;

use crate::place::{configure, evidence, found, scanners, with, with_script};
use crate::world::World;

/// Not one that opens anything. In two parts, so that nobody finds it here.
const SECRET: &str = concat!("AKIA", "IMNOJVGFDQZKE4OA");

fn world_with(name: &str, keys: &str) -> Option<World> {
    let scanners = scanners()?;
    let mut world = World::new("{ test: [] }");
    with(&mut world, &scanners, &[name]);
    configure(&world, keys);
    Some(world)
}

#[tokio::test]
async fn mistakes_in_dockerfiles_are_found_by_file_and_line_whatever_the_file_says_of_them() {
    let Some(world) = world_with("hadolint", "dockerfiles: auto") else { return };
    world.write(
        "web/Dockerfile",
        "FROM python:3.11-slim\n# hadolint ignore=DL4000\nMAINTAINER mei\nRUN cd /x && make\n",
    );
    let result = world.run(1, "scan dockerfiles").await;
    assert_eq!(result.outcome, Outcome::Failed, "{result:?}");
    let cause = result.cause.unwrap();
    assert!(cause.contains("web/Dockerfile:3: DL4000"), "{cause}");

    world.write("web/Dockerfile", "FROM python:3.11-slim\nRUN cd /x && make\n");
    let result = world.run(2, "scan dockerfiles").await;
    assert_eq!((result.outcome, found(&result)), (Outcome::Passed, 1), "{result:?}");
}

#[tokio::test]
async fn a_dockerfile_that_cannot_be_read_or_is_not_there_is_not_clean() {
    let Some(world) = world_with("hadolint", "dockerfiles: hadolint") else { return };
    let result = world.run(1, "scan dockerfiles").await;
    assert_eq!(result.outcome, Outcome::Unavailable, "{result:?}");
    world.write("web/Dockerfile", "FROM\n");
    assert_eq!(world.run(2, "scan dockerfiles").await.outcome, Outcome::Failed);
}

#[tokio::test]
async fn a_secret_is_found_by_file_line_and_rule_and_nothing_that_is_kept_repeats_it() {
    let Some(world) = world_with("gitleaks", "secrets: gitleaks, fail_on: critical") else {
        return;
    };
    world.write("web/conf.ini", &format!("# AWS\naws_access_key_id = {SECRET} # gitleaks:allow\n"));
    world.write(".gitleaksignore", "web/conf.ini:aws-access-token:2\n");
    let result = world.run(1, "scan secrets").await;
    assert_eq!(result.outcome, Outcome::Failed, "{result:?}\n{}", world.log(1, "scan secrets"));
    let cause = result.cause.clone().unwrap();
    assert!(cause.contains("web/conf.ini:2: aws-access-token"), "{cause}");
    assert!(!format!("{result:?}").contains(SECRET));
    for file in evidence(&world, 1, "scan secrets") {
        let text = std::fs::read_to_string(&file).unwrap();
        assert!(!text.contains(SECRET), "{} repeats it", file.display());
    }
    world.pipeline.finish("run-1").await.unwrap();
    assert!(!world.path("state/runs/run-1/scan").exists());
}

#[tokio::test]
async fn a_false_alarm_about_a_secret_can_be_lived_with_in_its_file_alone() {
    let keys = "secrets: gitleaks, ignore: [{ id: aws-access-token, path: web/tests, reason: an example, expires: 2199-01-01 }]";
    let Some(world) = world_with("gitleaks", keys) else { return };
    let line = format!("aws_access_key_id = {SECRET}\n");
    world.write("web/tests/conf.ini", &line);
    let result = world.run(1, "scan secrets").await;
    assert_eq!(result.outcome, Outcome::Passed, "{result:?}");
    assert_eq!(result.findings.unwrap().ignored, 1);
    world.write("web/conf.ini", &line);
    assert_eq!(world.run(2, "scan secrets").await.outcome, Outcome::Failed);
}

#[tokio::test]
async fn a_search_that_fails_is_unavailable_whatever_its_report_says() {
    let mut world = World::new("{ test: [] }");
    configure(&world, "secrets: gitleaks");
    let report = "for report; do :; done";
    for (run, script) in [
        (1, "exit 1"),
        (2, "echo '[]' > \"$report\"; exit 1"),
        (3, "echo '[]' > \"$report\"; exit 10"),
        (4, "echo '[{\"RuleID\":' > \"$report\"; exit 10"),
        (5, "exit 0"),
    ] {
        with_script(&mut world, "gitleaks", &format!("{report}\n{script}"));
        let result = world.run(run, "scan secrets").await;
        assert_eq!(result.outcome, Outcome::Unavailable, "{script}: {result:?}");
    }
}

#[tokio::test]
async fn what_a_step_of_the_project_quotes_of_a_secret_is_not_kept_either() {
    let world = World::new(
        "{ scan: { steps: [{ name: leaks, run: 'cp report.json leaks.sarif', sarif: leaks.sarif }] } }",
    );
    world.write(
        "report.json",
        &format!(
            r#"{{"version":"2.1.0","runs":[{{"tool":{{"driver":{{"name":"leaks"}}}},"results":[{{"ruleId":"token",
            "level":"error","message":{{"text":"a token"}},"locations":[{{"physicalLocation":{{"artifactLocation":{{"uri":"a.ini"}},
            "region":{{"startLine":1,"snippet":{{"text":"{SECRET}"}}}}}}}}]}}]}}]}}"#
        ),
    );
    let result = world.run(1, "leaks").await;
    assert_eq!(result.outcome, Outcome::Failed, "{result:?}");
    let kept = evidence(&world, 1, "leaks");
    assert!(kept.iter().any(|path| path.ends_with("reports/leaks.sarif")));
    for file in kept {
        assert!(!std::fs::read_to_string(&file).unwrap().contains(SECRET), "{}", file.display());
    }
}

#[tokio::test]
async fn an_ignore_is_for_steps_of_the_project_too() {
    let keys = |expires: &str| {
        format!(
            "steps: [{{ name: leaks, run: 'cp report.json leaks.sarif', sarif: leaks.sarif }}], \
             ignore: [{{ id: token, reason: an example, expires: {expires} }}]"
        )
    };
    let world = World::new("{ test: [] }");
    world.write(
        "report.json",
        r#"{"version":"2.1.0","runs":[{"tool":{"driver":{"name":"leaks"}},"results":[{"ruleId":"token","level":"error"}]}]}"#,
    );
    configure(&world, &keys("2199-01-01"));
    let result = world.run(1, "leaks").await;
    assert_eq!(result.outcome, Outcome::Passed, "{result:?}");
    configure(&world, &keys("2020-01-01"));
    let result = world.run(2, "leaks").await;
    assert_eq!(result.outcome, Outcome::Failed, "{result:?}");
    assert!(result.cause.unwrap().contains("expired on 2020-01-01"));
}
