//! The policy of the scan gate: examples, and what must hold for all findings.

use proptest::prelude::*;

use super::*;

const SEVERITIES: [Severity; 4] =
    [Severity::Low, Severity::Medium, Severity::High, Severity::Critical];

fn today() -> Date {
    "2026-06-15".parse().unwrap()
}

fn finding(id: &str, severity: Option<Severity>, fix: Fix) -> Finding {
    Finding {
        id: id.into(),
        aliases: Vec::new(),
        severity,
        place: "jinja2@2.4.1 in backend".into(),
        package: Some("jinja2".into()),
        path: None,
        fix,
        title: "sandbox escape".into(),
    }
}

fn ignore(id: &str, expires: &str, line: usize) -> Ignore {
    Ignore {
        id: id.into(),
        package: None,
        path: None,
        reason: "not reachable: we render nothing of users".into(),
        expires: expires.parse().unwrap(),
        line,
    }
}

fn policy(fail_on: Severity, ignore: &[Ignore]) -> Policy<'_> {
    Policy { fail_on, fixable_only: false, ignore }
}

fn high(id: &str) -> Finding {
    finding(id, Some(Severity::High), Fix::In("2.10.1".into()))
}

#[test]
fn a_finding_as_bad_as_the_policy_says_refuses_and_is_named_with_its_way_out() {
    let judged = judge(&[high("CVE-1")], &policy(Severity::High, &[]), None, today());
    let refused = judged.refused.unwrap();
    assert_eq!(
        refused,
        "1 finding of severity high or worse; worst: jinja2@2.4.1 in backend: CVE-1: sandbox escape; fixed in 2.10.1"
    );
    assert_eq!(
        judge(&[high("CVE-1")], &policy(Severity::Critical, &[]), None, today()).refused,
        None
    );
}

#[test]
fn an_ignored_finding_is_counted_and_noted_with_its_reason_and_does_not_refuse() {
    let ignores = [ignore("CVE-1", "2026-06-15", 9)];
    let judged = judge(&[high("CVE-1")], &policy(Severity::High, &ignores), None, today());
    assert_eq!((judged.refused, judged.summary.ignored, judged.summary.high), (None, 1, 0));
    assert_eq!(
        judged.summary.notes,
        ["ignored until 2026-06-15: CVE-1: not reachable: we render nothing of users"]
    );
}

#[test]
fn an_expired_ignore_refuses_and_names_its_line_even_for_a_small_finding() {
    let ignores = [ignore("CVE-1", "2026-06-14", 9)];
    let small = finding("CVE-1", Some(Severity::Low), Fix::None);
    let judged = judge(&[small], &policy(Severity::High, &ignores), None, today());
    let refused = judged.refused.unwrap();
    assert!(
        refused.starts_with("launchway.yaml:9: the ignore of CVE-1 expired on 2026-06-14;"),
        "{refused}"
    );
    assert_eq!((judged.summary.low, judged.summary.ignored), (1, 0));
}

#[test]
fn an_ignore_that_matches_nothing_is_a_note_of_the_inspection_that_it_is_about() {
    let ignores = [ignore("CVE-9", "2027-01-01", 4), ignore("DL3008", "2026-01-01", 5)];
    let notes = |inspection| {
        let judged = judge(&[], &policy(Severity::High, &ignores), inspection, today());
        assert_eq!(judged.refused, None);
        judged.summary.notes
    };
    assert_eq!(
        notes(Some(Inspection::Artifacts)),
        ["launchway.yaml:4: the ignore of CVE-9 matches nothing: take it out"]
    );
    assert_eq!(
        notes(Some(Inspection::Dockerfiles)),
        ["launchway.yaml:5: the ignore of DL3008 has expired and matches nothing: take it out"]
    );
    assert!(notes(None).is_empty());
}

#[test]
fn what_has_no_fixed_version_is_shown_and_refuses_only_if_asked_to() {
    let unfixed = [finding("CVE-1", Some(Severity::Critical), Fix::None)];
    let strict = policy(Severity::High, &[]);
    assert!(judge(&unfixed, &strict, None, today()).refused.is_some());
    let judged = judge(&unfixed, &Policy { fixable_only: true, ..strict }, None, today());
    assert_eq!((judged.refused, judged.summary.critical), (None, 1));
    assert!(judged.summary.worst[0].ends_with("no fixed version yet"));
    let not_said = [finding("CVE-1", Some(Severity::Critical), Fix::NotSaid)];
    let judged = judge(&not_said, &Policy { fixable_only: true, ..strict }, None, today());
    assert!(judged.refused.is_some(), "not to know of a fix is not to know that there is none");
}

#[test]
fn a_finding_that_nobody_has_rated_weighs_like_a_high_one() {
    let unrated = [finding("CVE-1", None, Fix::NotSaid)];
    let judged = judge(&unrated, &policy(Severity::High, &[]), None, today());
    assert!(judged.refused.unwrap().ends_with("nobody says how bad it is"));
    assert_eq!(judged.summary.high, 1);
}

#[test]
fn the_worst_come_first_and_of_many_only_the_first_are_kept() {
    let mut many: Vec<Finding> =
        (0..200).map(|n| finding(&format!("CVE-{n}"), Some(Severity::Low), Fix::None)).collect();
    many.push(high("CVE-1000"));
    let judged = judge(&many, &policy(Severity::Critical, &[]), None, today());
    assert_eq!((judged.summary.low, judged.summary.worst.len()), (200, KEPT));
    assert!(judged.summary.worst[0].contains("CVE-1000"));
}

fn findings() -> impl Strategy<Value = Vec<Finding>> {
    let severity = prop::option::of(prop::sample::select(SEVERITIES.to_vec()));
    let fix = prop::sample::select(vec![Fix::In("2".into()), Fix::None, Fix::NotSaid]);
    let one = (0..6_u8, severity, fix)
        .prop_map(|(id, severity, fix)| finding(&format!("CVE-{id}"), severity, fix));
    prop::collection::vec(one, 0..12)
}

fn ignores() -> impl Strategy<Value = Vec<Ignore>> {
    let date = prop::sample::select(vec!["2026-01-01", "2026-06-14", "2026-06-15", "2027-01-01"]);
    let one = (0..8_u8, date, 1..99_usize)
        .prop_map(|(id, date, line)| ignore(&format!("CVE-{id}"), date, line));
    prop::collection::vec(one, 0..6)
}

proptest! {
    #[test]
    fn an_expired_ignore_never_hides_anything(findings in findings(), ignores in ignores()) {
        let in_force: Vec<Ignore> =
            ignores.iter().filter(|i| !i.expired(today())).cloned().collect();
        for fail_on in SEVERITIES {
            let with = judge(&findings, &policy(fail_on, &ignores), None, today());
            let without = judge(&findings, &policy(fail_on, &in_force), None, today());
            prop_assert_eq!(&with.summary, &without.summary);
            prop_assert!(with.refused.is_some() || without.refused.is_none());
        }
    }

    #[test]
    fn raising_the_floor_never_refuses_more(findings in findings(), ignores in ignores(), fixable_only: bool) {
        let refuses = SEVERITIES.map(|fail_on| {
            let policy = Policy { fail_on, fixable_only, ignore: &ignores };
            judge(&findings, &policy, None, today()).refused.is_some()
        });
        prop_assert!(refuses.is_sorted_by(|lower, higher| lower >= higher), "{:?}", refuses);
    }

    #[test]
    fn every_finding_is_counted_once_and_only_ignores_in_force_make_it_not_count(findings in findings(), ignores in ignores()) {
        let summary = judge(&findings, &policy(Severity::High, &ignores), None, today()).summary;
        let total = summary.at_least(Severity::Low) + summary.ignored;
        prop_assert_eq!(total as usize, findings.len());
        let covered = findings.iter().filter(|f| {
            ignores.iter().any(|i| i.covers(f) && !i.expired(today()))
        });
        prop_assert_eq!(summary.ignored as usize, covered.count());
    }

    #[test]
    fn time_passing_never_makes_a_refused_release_pass(findings in findings(), ignores in ignores(), days in 0..400_u64) {
        let later = (crate::Timestamp::from_millis(1_781_481_600_000)
            + std::time::Duration::from_secs(days * 86_400)).date();
        let policy = policy(Severity::High, &ignores);
        let now = judge(&findings, &policy, None, today()).refused.is_some();
        prop_assert!(!now || judge(&findings, &policy, None, later).refused.is_some());
    }

    #[test]
    fn being_stricter_about_fixes_never_passes_more(findings in findings(), ignores in ignores()) {
        let refuses = |fixable_only| {
            let policy = Policy { fail_on: Severity::Medium, fixable_only, ignore: &ignores };
            judge(&findings, &policy, None, today()).refused.is_some()
        };
        prop_assert!(!refuses(true) || refuses(false));
    }
}
