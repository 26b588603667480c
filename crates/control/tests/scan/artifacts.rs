//! Bills of materials and vulnerabilities: Syft and osv-scanner on what was built.

use domain::config::Severity;
use domain::pipeline::Outcome;

use crate::place::{
    aged, artifact, configure, database, evidence, found, jinja, scanners, with, with_script,
};
use crate::world::World;

const STEP: &str = "scan artifacts";

/// A world with a vulnerable artifact, both scanners and a database; `more` keys of `build.scan`.
fn vulnerable(more: &str) -> Option<World> {
    let scanners = scanners()?;
    let mut world = World::new("{ test: [] }");
    with(&mut world, &scanners, &["syft", "osv-scanner"]);
    jinja(&mut world, "2.4.1");
    keys(&world, more);
    Some(world)
}

fn keys(world: &World, more: &str) {
    let database = database(world);
    let keys = format!(
        "sbom: syft, vulnerabilities: osv-scanner, database: {{ path: {} }}{more}",
        database.display()
    );
    configure(world, &keys);
}

#[tokio::test]
async fn a_planted_vulnerable_package_is_found_and_refuses_until_it_is_renewed() {
    let Some(mut world) = vulnerable("") else { return };
    let result = world.run(1, STEP).await;
    assert_eq!(result.outcome, Outcome::Failed, "{result:?}\n{}", world.log(1, STEP));
    let cause = result.cause.clone().unwrap();
    for part in [
        "1 finding of severity high or worse",
        "web: jinja2@2.4.1",
        "CVE-2014-1402",
        "fixed in 2.7.2",
    ] {
        assert!(cause.contains(part), "{part} is missing in: {cause}");
    }
    assert_eq!(result.findings.unwrap().at_least(Severity::High), 1);
    let kept = evidence(&world, 1, STEP);
    let bill = kept.iter().find(|path| path.ends_with("reports/web.cdx.json")).expect("it is kept");
    let bill = domain::report::cyclonedx::read(&std::fs::read_to_string(bill).unwrap()).unwrap();
    assert!(
        bill.components.iter().any(|part| part.purl.as_deref() == Some("pkg:pypi/jinja2@2.4.1"))
    );
    assert!(world.log(1, STEP).contains("jinja2@2.4.1"), "`launchway logs` shows what was found");

    std::fs::remove_dir_all(world.path("artifact")).unwrap();
    jinja(&mut world, "3.1.4");
    let result = world.run(2, STEP).await;
    assert_eq!((result.outcome, found(&result)), (Outcome::Passed, 0), "{result:?}");
}

#[tokio::test]
async fn a_finding_below_the_floor_is_shown_and_does_not_refuse() {
    let Some(world) = vulnerable(", fail_on: critical") else { return };
    let result = world.run(1, STEP).await;
    assert_eq!((result.outcome, found(&result)), (Outcome::Passed, 1), "{result:?}");
    assert!(result.findings.unwrap().worst[0].contains("GHSA-8r7q-cvjq-x353"));
}

#[tokio::test]
async fn an_ignore_counts_until_its_day_and_an_expired_one_refuses_with_its_line() {
    let ignore = |expires: &str| {
        format!(
            ", ignore: [{{ id: CVE-2014-1402, reason: 'no sandbox here', expires: {expires} }}]"
        )
    };
    let Some(world) = vulnerable(&ignore("2199-12-31")) else { return };
    let result = world.run(1, STEP).await;
    assert_eq!(result.outcome, Outcome::Passed, "{result:?}");
    let findings = result.findings.unwrap();
    assert_eq!((findings.ignored, findings.at_least(Severity::Low)), (1, 0));
    assert!(findings.notes.iter().any(|note| note.contains("no sandbox here")), "{findings:?}");

    keys(&world, &ignore("2020-01-31"));
    let result = world.run(2, STEP).await;
    assert_eq!(result.outcome, Outcome::Failed);
    let cause = result.cause.unwrap();
    assert!(
        cause.starts_with("launchway.yaml:5: the ignore of CVE-2014-1402 expired on 2020-01-31;"),
        "{cause}"
    );
}

#[tokio::test]
async fn an_ignore_that_matches_nothing_is_a_note() {
    let Some(mut world) =
        vulnerable(", ignore: [{ id: CVE-2000-1, reason: gone, expires: 2199-01-01 }]")
    else {
        return;
    };
    jinja(&mut world, "3.1.4");
    std::fs::remove_dir_all(
        world.path("artifact/lib/python3.11/site-packages/jinja2-2.4.1.dist-info"),
    )
    .unwrap();
    let result = world.run(1, STEP).await;
    assert_eq!(result.outcome, Outcome::Passed, "{result:?}");
    let notes = result.findings.unwrap().notes;
    assert!(
        notes[0].contains("launchway.yaml:5: the ignore of CVE-2000-1 matches nothing"),
        "{notes:?}"
    );
}

#[tokio::test]
async fn a_database_that_is_missing_incomplete_empty_or_old_is_unavailable() {
    let Some(world) = vulnerable("") else { return };
    let unavailable = async |run: u64, words: &[&str]| {
        let result = world.run(run, STEP).await;
        assert_eq!(result.outcome, Outcome::Unavailable, "{result:?}");
        let cause = result.cause.unwrap();
        for word in words {
            assert!(cause.contains(word), "{word} is missing in: {cause}");
        }
    };
    let database = database(&world);
    aged(&database, 8);
    unavailable(1, &["8.0 days old", "max_age", "renew it"]).await;

    keys(&world, "");
    // The scanner itself would write a report without findings here.
    std::fs::remove_dir_all(database.join("PyPI")).unwrap();
    unavailable(
        2,
        &["osv-scanner", "could not look everything up", "no offline version of the OSV database"],
    )
    .await;

    std::fs::create_dir(database.join("PyPI")).unwrap();
    std::fs::write(database.join("PyPI/all.zip"), [&b"PK\x05\x06"[..], &[0; 18]].concat()).unwrap();
    unavailable(3, &["holds no records"]).await;

    std::fs::remove_dir_all(&database).unwrap();
    unavailable(4, &["osv-scanner has no database in", "build.scan.database.path"]).await;
}

#[tokio::test]
async fn an_older_database_is_good_enough_if_the_project_says_so() {
    let Some(world) = vulnerable("") else { return };
    let database = database(&world);
    aged(&database, 8);
    let keys = format!(
        "sbom: syft, vulnerabilities: osv-scanner, database: {{ path: {}, max_age: 30d }}",
        database.display()
    );
    configure(&world, &keys);
    aged(&database, 8);
    assert_eq!(world.run(1, STEP).await.outcome, Outcome::Failed);
}

#[tokio::test]
async fn a_scanner_that_is_missing_is_unavailable_and_says_both_ways_out() {
    let mut world = World::new("{ test: [] }");
    jinja(&mut world, "2.4.1");
    with_script(&mut world, "nothing", "");
    configure(&world, "vulnerabilities: auto");
    let result = world.run(1, STEP).await;
    assert_eq!(result.outcome, Outcome::Unavailable, "{result:?}");
    let cause = result.cause.unwrap();
    assert!(cause.contains("none of trivy, grype, osv-scanner is installed"), "{cause}");
    assert!(cause.contains("`build.scan.vulnerabilities: off`"), "{cause}");
}

#[tokio::test]
async fn a_scanner_that_crashes_lies_or_stops_half_way_is_unavailable() {
    let mut world = World::new("{ test: [] }");
    jinja(&mut world, "2.4.1");
    configure(&world, "vulnerabilities: osv-scanner");
    // Its report is the last of its words.
    let report = r#"for report; do :; done"#;
    for (run, script, word) in [
        (1, "kill -SEGV $$", "was not written"),
        (2, "echo 'database is locked' >&2; exit 2", "database is locked"),
        (3, "echo 'no vulnerabilities found'; exit 0", "was not written"),
        (
            4,
            r#"printf '{"results":[{"packages":[{"pack' > "$report""#,
            "cannot read the osv-scanner report",
        ),
        (
            5,
            r#"echo 'ERROR: cannot reach osv.dev' > "$report"; exit 0"#,
            "cannot read the osv-scanner report",
        ),
        (6, r#": > "$report"; exit 0"#, "cannot read the osv-scanner report"),
        (7, r#"echo '{"results":[]}' > "$report"; exit 127"#, "could not look everything up"),
        (8, r#"echo '{"results":[]}' > "$report"; kill -9 $$"#, "it failed"),
        (9, r#"ln -s /etc/passwd "$report""#, "was not written"),
    ] {
        with_script(&mut world, "osv-scanner", &format!("{report}\n{script}"));
        let result = world.run(run, STEP).await;
        assert_eq!(result.outcome, Outcome::Unavailable, "{script}: {result:?}");
        let cause = result.cause.unwrap();
        assert!(cause.contains(word), "{script}: {cause}");
    }
    with_script(
        &mut world,
        "osv-scanner",
        &format!("{report}\necho '{{\"results\":[]}}' > \"$report\""),
    );
    let result = world.run(10, STEP).await;
    assert_eq!(result.outcome, Outcome::Passed, "{result:?}");
    let notes = result.findings.unwrap().notes;
    assert_eq!(notes, ["nobody looked for sbom: `build.scan.sbom` is off"]);
}

#[tokio::test]
async fn a_bill_of_materials_is_made_once_for_an_artifact_and_kept_with_every_run() {
    let Some(mut world) = vulnerable(", fail_on: critical") else { return };
    assert_eq!(world.run(1, STEP).await.outcome, Outcome::Passed);
    assert_eq!(world.run(2, STEP).await.outcome, Outcome::Passed);
    assert!(world.log(2, STEP).contains("the same bill of materials"), "{}", world.log(2, STEP));
    assert!(evidence(&world, 2, STEP).iter().any(|path| path.ends_with("reports/web.cdx.json")));
    artifact(
        &mut world,
        domain::Digest::of("another"),
        domain::slot::Location::Folder("/nowhere".into()),
    );
    let result = world.run(3, STEP).await;
    assert_eq!(result.outcome, Outcome::Unavailable, "{result:?}");
    assert!(result.cause.unwrap().contains("there is no bill of materials of web"));
}
