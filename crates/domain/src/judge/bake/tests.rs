//! Bakes that go well, badly, slowly and without traffic.

use proptest::prelude::*;

use super::*;
use crate::route::Reason;
use crate::sketch::Sketch;
use crate::units::{Factor, Percent};

const OVER: Duration = Duration::from_secs(300);

fn bake() -> Bake {
    Bake { duration: OVER, errors: Percent(0.01), p99: Some(Factor(2.0)) }
}

fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

/// `good` answers of 3 ms and `bad` ones with a 5xx.
fn facts(good: u64, bad: u64) -> Facts {
    Facts {
        classes: [0, good, 0, 0, bad],
        latency: Sketch::of([(3_000, good + bad)]),
        ..Facts::default()
    }
}

fn breached(verdict: &BakeVerdict) -> bool {
    matches!(verdict, BakeVerdict::Breached { .. })
}

fn at(seen: &Facts, elapsed: Duration) -> BakeVerdict {
    judge(&bake(), seen, Some(Duration::from_millis(3)), elapsed)
}

#[test]
fn one_stray_error_does_not_roll_back() {
    for (good, bad) in [(0, 1), (19, 1), (99, 1), (198, 2), (395, 5)] {
        assert_eq!(at(&facts(good, bad), secs(5)), BakeVerdict::Continue, "{bad} in {good}");
    }
}

#[test]
fn five_percent_of_errors_are_found_within_three_seconds_at_two_hundred_a_second() {
    let Some(found) = (1..=60).find(|tenths: &u64| {
        let sent = tenths * 20;
        breached(&at(&facts(sent - sent / 20, sent / 20), Duration::from_millis(tenths * 100)))
    }) else {
        panic!("never found");
    };
    assert!(found <= 30, "found after {found} tenths of a second");
}

#[test]
fn requests_that_had_to_wait_for_a_crashed_replica_count_as_errors() {
    let crashing = Facts { reasons: [(Reason::Waited, 20)].into(), ..facts(200, 0) };
    let BakeVerdict::Breached { reason } = at(&crashing, secs(1)) else { panic!("not found") };
    assert_eq!(
        reason,
        "20 of 200 answers were 5xx or had to wait for a replica that had gone (10%), and 1% is allowed"
    );
}

#[test]
fn a_release_that_answers_nothing_well_is_found_with_twenty_answers() {
    assert_eq!(at(&facts(0, 19), secs(1)), BakeVerdict::Continue);
    let dead = Facts { reasons: [(Reason::Connect, 20)].into(), ..facts(0, 20) };
    let BakeVerdict::Breached { reason } = at(&dead, secs(1)) else { panic!("not found") };
    assert_eq!(
        reason,
        "20 of 20 answers were 5xx (100%), and 1% is allowed; \
         20 of them because no replica could be reached"
    );
}

#[test]
fn when_the_bake_is_over_the_plain_share_decides() {
    assert!(matches!(at(&facts(990, 10), OVER), BakeVerdict::Passed { .. }));
    assert!(breached(&at(&facts(989, 11), OVER)));
    assert!(breached(&at(&facts(0, 1), OVER)));
}

#[test]
fn no_error_allowed_means_none() {
    let strict = Bake { errors: Percent(0.0), ..bake() };
    assert!(breached(&judge(&strict, &facts(999, 1), None, secs(1))));
}

#[test]
fn a_bake_without_traffic_is_not_clean() {
    assert_eq!(at(&Facts::default(), secs(10)), BakeVerdict::Continue);
    assert_eq!(at(&Facts::default(), OVER), BakeVerdict::NoTraffic);
}

#[test]
fn a_release_that_is_slow_as_a_whole_is_found_at_once() {
    let slow = Facts { latency: Sketch::of([(3_000, 50), (80_000, 150)]), ..facts(200, 0) };
    assert!(breached(&at(&slow, secs(2))));
}

#[test]
fn a_hiccup_of_the_machine_has_time_to_drown_but_a_slow_tail_is_found_from_half_time() {
    let hiccup = Facts { latency: Sketch::of([(3_000, 800), (900_000, 200)]), ..facts(1000, 0) };
    assert_eq!(at(&hiccup, secs(5)), BakeVerdict::Continue);
    assert!(breached(&at(&hiccup, secs(150))));
    let drowned =
        Facts { latency: Sketch::of([(3_000, 59_800), (900_000, 200)]), ..facts(60_000, 0) };
    assert!(matches!(at(&drowned, OVER), BakeVerdict::Passed { .. }));
}

#[test]
fn a_difference_of_a_few_milliseconds_or_too_few_answers_do_not_breach_on_latency() {
    let near = Facts { latency: Sketch::of([(10_900, 1000)]), ..facts(1000, 0) };
    assert!(matches!(at(&near, OVER), BakeVerdict::Passed { .. }));
    let few = Facts { latency: Sketch::of([(900_000, 90)]), ..facts(90, 0) };
    let BakeVerdict::Passed { notes } = at(&few, OVER) else { panic!("it did not pass") };
    assert!(notes[1].contains("not judged"), "{notes:?}");
}

#[test]
fn without_a_p99_before_the_switch_latency_is_not_judged_and_the_notes_say_so() {
    let verdict = judge(&bake(), &facts(1000, 0), None, OVER);
    let BakeVerdict::Passed { notes } = verdict else { panic!("it did not pass") };
    assert!(notes[1].contains("none before the switch"), "{notes:?}");
}

#[test]
fn one_bad_service_breaches_and_an_idle_one_is_noted() {
    let service =
        |name: &str, facts| (ServiceName::new(name).unwrap(), Seen { facts, baseline_p99: None });
    let all = |services: Vec<_>, elapsed| {
        judge_services(&bake(), &services.into_iter().collect(), elapsed)
    };
    let verdict = all(vec![service("api", facts(100, 50)), service("web", facts(900, 0))], secs(1));
    assert!(matches!(&verdict, BakeVerdict::Breached { reason } if reason.starts_with("api: ")));
    let verdict = all(vec![service("api", facts(100, 0)), service("web", Facts::default())], OVER);
    assert!(matches!(verdict, BakeVerdict::Passed { .. }), "{verdict:?}");
    assert_eq!(all(vec![service("api", Facts::default())], OVER), BakeVerdict::NoTraffic);
    assert_eq!(all(vec![], secs(1)), BakeVerdict::Continue);
    assert!(matches!(all(vec![], OVER), BakeVerdict::Unavailable { .. }));
}

proptest! {
    #[test]
    fn a_share_above_the_threshold_never_passes(
        good in 0..100_000_u64, bad in 0..100_000_u64, seconds in 0..600_u64, allowed in 0..=100_u32,
    ) {
        let bake = Bake { errors: Percent(f64::from(allowed) / 100.0), ..bake() };
        let verdict = judge(&bake, &facts(good, bad), None, secs(seconds));
        let over = bad as f64 > bake.errors.0 * (good + bad) as f64 * (1.0 + 1e-12);
        prop_assert!(!over || !matches!(verdict, BakeVerdict::Passed { .. }), "{verdict:?}");
    }

    #[test]
    fn no_errors_and_the_usual_latency_never_breach(
        counts in prop::collection::vec(0..10_000_u64, 1..20), seconds in 0..600_u64,
    ) {
        let latency =
            Sketch::of(counts.iter().enumerate().map(|(i, n)| (1_000 * (i as u64 + 1), *n)));
        let total = counts.iter().sum();
        let seen = Facts { classes: [0, total, 0, 0, 0], latency, ..Facts::default() };
        let verdict = judge(&bake(), &seen, seen.latency_at(0.99), secs(seconds));
        prop_assert!(!breached(&verdict), "{verdict:?}");
    }

    #[test]
    fn a_share_within_the_threshold_never_breaches(total in 1..100_000_u64, seconds in 0..600_u64) {
        let bad = total / 100;
        prop_assert!(!breached(&at(&facts(total - bad, bad), secs(seconds))));
    }

    #[test]
    fn more_errors_never_turn_a_breach_back(good in 0..10_000_u64, bad in 0..1_000_u64, more in 0..1_000_u64) {
        let before = breached(&at(&facts(good, bad), secs(1)));
        prop_assert!(!before || breached(&at(&facts(good, bad + more), secs(1))));
    }
}
