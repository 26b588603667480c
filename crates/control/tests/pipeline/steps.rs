//! How a step runs and how it is judged.

use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use domain::pipeline::Outcome;
use tokio_util::sync::CancellationToken;

use crate::world::{World, eventually, runs};

const GOOD: &str = r#"<testsuite name="tea"><testcase classname="brew" name="hot"/></testsuite>"#;
const BAD: &str = r#"<testsuite name="tea"><testcase classname="brew" name="hot"><failure message="it is cold"/></testcase></testsuite>"#;
const NOTHING_FOUND: &str =
    r#"{"version":"2.1.0","runs":[{"tool":{"driver":{"name":"scan"}},"results":[]}]}"#;
const ERROR_FOUND: &str = r#"{"version":"2.1.0","runs":[{"tool":{"driver":{"name":"scan","rules":[{"id":"R1","properties":{"security-severity":"9.8"}}]}},"results":[{"ruleId":"R1","level":"error","message":{"text":"a hole"}}]}]}"#;

fn test_step(run: &str, more: &str) -> String {
    format!("{{ scan: off, test: [{{ name: unit, run: '{run}' {more} }}] }}")
}

fn scan_step(run: &str) -> String {
    format!(
        "{{ scan: {{ fail_on: high, steps: [{{ name: scan, run: '{run}', sarif: out.sarif }}] }} }}"
    )
}

#[tokio::test]
async fn a_step_sees_the_listed_variables_its_own_and_nothing_else_of_the_server() {
    let world = World::with_native(
        &test_step("env", ", env: { OWN: mine }"),
        "{ run: x }",
        &[("PIP_INDEX_URL", "https://packages.example.org")],
    );
    let result = world.run(1, "unit").await;
    assert_eq!(result.outcome, Outcome::Passed, "{result:?}");
    let log = world.log(1, "unit");
    for seen in
        ["OWN=mine", "CI=true", "LANG=C.UTF-8", "PIP_INDEX_URL=https://packages.example.org"]
    {
        assert!(log.contains(seen), "{seen} is missing in {log}");
    }
    assert!(log.contains(&format!("HOME={}", world.path("state/build-home").display())), "{log}");
    assert!(
        log.contains(&format!("TMPDIR={}", world.path("state/runs/run-1/tmp").display())),
        "{log}"
    );
    assert!(!log.contains("hunter2") && !log.contains("CLOUD_SECRET"), "{log}");
}

#[tokio::test]
async fn what_a_step_leaves_at_home_stays_for_later_steps_and_is_not_the_home_of_services() {
    let world = World::new(&test_step("touch $HOME/.npmrc", ""));
    assert_eq!(world.run(1, "unit").await.cause, None);
    assert!(world.path("state/build-home/.npmrc").exists());
    assert!(!world.path("state/home").exists() && !world.path("engine/home/.npmrc").exists());
}

#[tokio::test]
async fn commands_never_run_as_root_and_can_write_into_their_checkout_and_folders() {
    let world = World::new(&test_step("id -u; touch web/made $TMPDIR/made $HOME/made", ""));
    let result = world.run(1, "unit").await;
    assert_eq!(result.cause, None);
    assert!(!world.log(1, "unit").lines().any(|line| line == "0"), "it ran as root");
}

#[tokio::test]
async fn the_log_can_be_read_while_the_step_runs() {
    let world = World::new(&test_step("echo steeping; until test -e go; do sleep 0.02; done", ""));
    let go = async {
        eventually("the first line is there", || world.log(1, "unit").contains("steeping")).await;
        std::fs::write(world.path("state/runs/run-1/checkout/go"), "").unwrap();
    };
    let (result, ()) = tokio::join!(world.run(1, "unit"), go);
    assert_eq!(result.outcome, Outcome::Passed, "{result:?}");
}

#[tokio::test]
async fn a_failed_step_keeps_its_last_lines_and_names_the_likeliest_cause() {
    let world = World::new(&test_step("echo one; nosuchtool --all", ""));
    let result = world.run(1, "unit").await;
    assert_eq!(result.outcome, Outcome::Failed);
    assert!(result.cause.unwrap().contains("`nosuchtool` was not found"));
    assert_eq!(result.tail[0], "one");
}

#[tokio::test]
async fn failed_tests_in_the_report_fail_a_step_that_exits_with_0() {
    let world = World::new(&test_step("cp bad.xml junit.xml", ", junit: junit.xml"));
    world.write("bad.xml", BAD);
    let result = world.run(1, "unit").await;
    assert_eq!(result.outcome, Outcome::Failed);
    assert_eq!(result.tests.unwrap().failed, 1);
    let cause = result.cause.unwrap();
    assert!(cause.starts_with("1 of 1 tests failed") && cause.contains("it is cold"), "{cause}");
    assert!(world.path("state/runs/run-1/steps/unit/reports/junit.xml").exists());
}

#[tokio::test]
async fn what_a_step_says_reports_and_is_told_is_not_for_every_user_of_the_machine() {
    let world = World::new(&test_step("echo hi; cp good.xml junit.xml", ", junit: junit.xml"));
    world.write("good.xml", GOOD);
    assert_eq!(world.run(1, "unit").await.cause, None);
    for file in ["log", "result.json", "manifest.json", "reports/junit.xml"] {
        let path = world.path("state/runs/run-1/steps/unit").join(file);
        let mode = std::fs::metadata(path).unwrap().permissions().mode();
        assert_eq!(mode & 0o007, 0, "{file} is open to others: {mode:o}");
    }
}

#[tokio::test]
async fn a_report_that_is_not_written_fails_the_step_even_if_the_commit_has_an_old_one() {
    let world = World::new(&test_step("true", ", junit: junit.xml"));
    world.write("junit.xml", GOOD);
    let result = world.run(1, "unit").await;
    assert_eq!(result.outcome, Outcome::Failed);
    assert_eq!(result.cause.as_deref(), Some("the report junit.xml was not written"));
}

#[tokio::test]
async fn a_report_behind_a_link_out_of_the_checkout_is_not_read() {
    let world = World::new(&test_step("ln -s /etc/passwd junit.xml", ", junit: junit.xml"));
    let result = world.run(1, "unit").await;
    assert_eq!(result.cause.as_deref(), Some("the report junit.xml was not written"));
}

#[tokio::test]
async fn a_step_that_passes_only_on_a_retry_is_flaky_and_not_reused() {
    let world = World::new(&test_step("test -e again || { touch again; exit 1; }", ", retries: 2"));
    let result = world.run(1, "unit").await;
    assert_eq!((result.outcome, result.flaky, result.attempts), (Outcome::Passed, true, 2));
    assert!(world.log(1, "unit").contains("attempt 2 of 3"));
    let again = world.run(2, "unit").await;
    assert_eq!(again.reused, None);
    assert!(world.why(2, "unit").await[0].contains("only on a retry"));
}

#[tokio::test]
async fn the_time_limit_ends_a_step_and_everything_it_has_started() {
    let marker = format!("6{}", std::process::id());
    let world = World::new(&test_step(
        &format!("setsid sleep {marker} & sleep {marker}"),
        ", time_limit: 300ms",
    ));
    let result = world.run(1, "unit").await;
    assert_eq!(result.outcome, Outcome::TimedOut);
    assert!(result.cause.unwrap().contains("300ms"));
    eventually("its processes are gone", || !runs(&format!("sleep\0{marker}"))).await;
}

#[tokio::test]
async fn a_canceled_step_ends_at_once_with_everything_it_has_started() {
    let marker = format!("7{}", std::process::id());
    let world = World::new(&test_step(&format!("echo on; sleep {marker}"), ""));
    let cancel = CancellationToken::new();
    let stop = async {
        eventually("it runs", || world.log(1, "unit").contains("on")).await;
        cancel.cancel();
        Instant::now()
    };
    let (result, stopped) = tokio::join!(world.run_until(1, "unit", cancel.clone()), stop);
    assert_eq!(result.outcome, Outcome::Canceled);
    assert!(stopped.elapsed() < Duration::from_secs(20));
    eventually("its processes are gone", || !runs(&format!("sleep\0{marker}"))).await;
}

#[tokio::test]
async fn a_stopped_step_that_is_asked_for_again_runs_again() {
    let world = World::new(&test_step("echo on; test -e go || sleep 60", ""));
    let cancel = CancellationToken::new();
    let stop = async {
        eventually("it runs", || world.log(1, "unit").contains("on")).await;
        cancel.cancel();
    };
    let (result, ()) = tokio::join!(world.run_until(1, "unit", cancel.clone()), stop);
    assert_eq!(result.outcome, Outcome::Canceled);
    std::fs::write(world.path("state/runs/run-1/checkout/go"), "").unwrap();
    assert_eq!(world.run(1, "unit").await.outcome, Outcome::Passed);
}

#[tokio::test]
async fn a_server_that_comes_back_gets_the_job_that_still_runs_and_never_starts_it_twice() {
    let mut world = World::new(&test_step(
        "echo begun >> begun; until test -e go; do sleep 0.02; done; cat begun; cp begun junit.xml",
        "",
    ));
    {
        let step = world.run(1, "unit");
        let begun = world.path("state/runs/run-1/checkout/begun");
        tokio::select! {
            result = step => panic!("it ended by itself: {result:?}"),
            () = eventually("it runs", || begun.exists()) => {}
        }
    }
    world.restart(&[]);
    std::fs::write(world.path("state/runs/run-1/checkout/go"), "").unwrap();
    let result = world.run(1, "unit").await;
    assert_eq!(result.outcome, Outcome::Passed, "{result:?}");
    assert_eq!(world.log(1, "unit").matches("begun").count(), 1);
    let again = world.run(1, "unit").await;
    assert_eq!(again, result, "a finished step answers from its record");
}

#[tokio::test]
async fn without_a_scanner_the_gate_is_unavailable() {
    let world = World::new("{ test: [] }");
    let result = world.run(1, "scanner").await;
    assert_eq!(result.outcome, Outcome::Unavailable);
    assert!(result.cause.unwrap().contains("scan: off"));
}

#[tokio::test]
async fn a_scanner_is_judged_by_its_findings_and_not_by_its_exit_status() {
    for (report, exit, outcome) in [
        (NOTHING_FOUND, 0, Outcome::Passed),
        (ERROR_FOUND, 0, Outcome::Failed),
        (ERROR_FOUND, 1, Outcome::Failed),
        (NOTHING_FOUND, 3, Outcome::Unavailable),
        ("not a report", 0, Outcome::Unavailable),
    ] {
        let world = World::new(&scan_step(&format!("cp report out.sarif; exit {exit}")));
        world.write("report", report);
        let result = world.run(1, "scan").await;
        assert_eq!(result.outcome, outcome, "{report} with {exit}: {:?}", result.cause);
    }
}

#[tokio::test]
async fn a_scanner_without_a_report_is_unavailable_and_says_why() {
    let world = World::new(&scan_step("echo database is locked; exit 2"));
    let result = world.run(1, "scan").await;
    assert_eq!(result.outcome, Outcome::Unavailable);
    let cause = result.cause.unwrap();
    assert!(cause.contains("database is locked") && cause.contains("was not written"), "{cause}");
}

#[tokio::test]
async fn a_check_outside_of_a_run_sees_what_it_is_given() {
    let world = World::new(&test_step("test $BASE_URL = http://candidate", ""));
    let commit = world.commit();
    let (_, project) = world.pipeline.plan(&commit).await.unwrap();
    let step = &project.build.test[0];
    let env = &[("BASE_URL".to_owned(), "http://candidate".to_owned())].into();
    let request = control::pipeline::CheckRequest { scope: "ro-1", commit: &commit, step, env };
    let result = world.pipeline.check(request, CancellationToken::new()).await;
    assert_eq!(result.cause, None);
    world.pipeline.sweep(&Default::default()).await.unwrap();
    assert!(!world.path("state/runs/ro-1/checkout").exists());
}
