//! Good, slow, wrong and unmeasured load tests.

use proptest::prelude::*;

use super::*;
use crate::units::Percent;

const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn wanted() -> Performance {
    Performance {
        rate: Rate(200.0),
        duration: ms(30_000),
        paths: vec!["/".into()],
        p95: Some(ms(250)),
        p99: Some(ms(500)),
        errors: Percent(0.001),
        versus_live: None,
    }
}

fn versus_live() -> Performance {
    Performance { versus_live: Some(Factor(1.5)), ..wanted() }
}

/// 6000 requests without a failure, of which 95 % took at most `p95` and 99 % twice as long.
fn load(p95: Duration) -> LoadSummary {
    LoadSummary {
        sent: 6000,
        answered: 6000,
        failed: 0,
        rate_wanted: Rate(200.0),
        rate_reached: Rate(200.0),
        lag_p99: ms(1),
        p50: p95 / 2,
        p95,
        p99: p95 * 2,
        p999: p95 * 3,
        by_path: Vec::new(),
    }
}

fn failed(verdict: &Verdict) -> bool {
    matches!(verdict, Verdict::Failed { .. })
}

fn passed(verdict: &Verdict) -> bool {
    matches!(verdict, Verdict::Passed { .. })
}

fn unavailable(verdict: &Verdict) -> bool {
    matches!(verdict, Verdict::Unavailable { .. })
}

#[test]
fn a_candidate_within_its_thresholds_passes() {
    assert!(passed(&judge(&wanted(), &load(ms(100)), None)));
}

#[test]
fn a_slow_candidate_fails_with_both_numbers() {
    let Verdict::Failed { reasons } = judge(&wanted(), &load(ms(300)), None) else {
        panic!("it passed");
    };
    assert_eq!(
        reasons,
        ["p95 is 300 ms, and 250 ms is allowed", "p99 is 600 ms, and 500 ms is allowed"]
    );
}

#[test]
fn a_candidate_that_answers_a_twentieth_with_500_fails_and_the_path_is_named() {
    let path = |path: &str, failed| PathSummary {
        path: path.into(),
        sent: 3000,
        failed,
        refused: 0,
        p99: ms(5),
    };
    let by_path = vec![path("/", 0), path("/api/teas", 150)];
    let candidate = LoadSummary { failed: 150, by_path, ..load(ms(5)) };
    let Verdict::Failed { reasons } = judge(&wanted(), &candidate, None) else {
        panic!("it passed");
    };
    assert_eq!(
        reasons,
        [
            "150 of 6000 requests failed (2.5%), and 0.1% is allowed",
            "the worst is /api/teas: 150 of 3000 failed (5.0%)"
        ]
    );
}

#[test]
fn a_candidate_that_nobody_can_reach_fails_rather_than_being_unmeasured() {
    let dead = LoadSummary { failed: 6000, answered: 0, ..load(ms(0)) };
    assert!(failed(&judge(&wanted(), &dead, None)));
}

#[test]
fn too_little_asked_is_no_answer() {
    let few = LoadSummary { sent: 10, answered: 10, ..load(ms(1)) };
    assert!(unavailable(&judge(&wanted(), &few, None)));
    let no_p99 = LoadSummary { sent: 60, answered: 60, ..load(ms(1)) };
    assert!(unavailable(&judge(&wanted(), &no_p99, None)));
    let slow_generator = LoadSummary { rate_reached: Rate(180.0), ..load(ms(1)) };
    assert!(unavailable(&judge(&wanted(), &slow_generator, None)));
}

#[test]
fn a_path_that_does_not_exist_measures_nothing() {
    let missing = PathSummary { path: "/apo".into(), sent: 9, failed: 0, refused: 9, p99: ms(1) };
    let candidate = LoadSummary { by_path: vec![missing], ..load(ms(1)) };
    assert!(unavailable(&judge(&wanted(), &candidate, None)));
}

#[test]
fn a_generator_that_was_late_itself_blames_nobody() {
    let late = LoadSummary { lag_p99: ms(400), ..load(ms(300)) };
    assert!(unavailable(&judge(&wanted(), &late, None)));
    let good_all_the_same = LoadSummary { lag_p99: ms(400), ..load(ms(100)) };
    assert!(passed(&judge(&wanted(), &good_all_the_same, None)));
}

#[test]
fn on_a_machine_that_is_slow_for_both_the_pair_decides() {
    let live = load(ms(400));
    assert!(passed(&judge(&versus_live(), &load(ms(420)), Some(&live))));
    assert!(failed(&judge(&versus_live(), &load(ms(700)), Some(&live))));
}

#[test]
fn at_the_edge_of_the_threshold_it_is_not_chance_that_decides() {
    assert!(passed(&judge(&versus_live(), &load(ms(255)), Some(&load(ms(245))))));
}

#[test]
fn a_threshold_that_live_keeps_with_room_to_spare_holds_for_the_candidate() {
    assert!(failed(&judge(&versus_live(), &load(ms(300)), Some(&load(ms(210))))));
}

#[test]
fn without_thresholds_the_pair_alone_decides() {
    let wanted = Performance { p95: None, p99: None, ..versus_live() };
    assert!(passed(&judge(&wanted, &load(ms(900)), Some(&load(ms(800))))));
    assert!(failed(&judge(&wanted, &load(ms(90)), Some(&load(ms(20))))));
    let floor = judge(&wanted, &load(ms(3)), Some(&load(ms(1))));
    assert!(passed(&floor), "a millisecond more decided: {floor:?}");
}

#[test]
fn live_that_was_not_measured_leaves_the_pair_unjudged() {
    assert!(unavailable(&judge(&versus_live(), &load(ms(1)), None)));
    let few = LoadSummary { sent: 10, answered: 10, ..load(ms(1)) };
    assert!(unavailable(&judge(&versus_live(), &load(ms(1)), Some(&few))));
}

#[test]
fn clearly_more_errors_than_live_fail_even_below_the_threshold() {
    let wanted = Performance { errors: Percent(0.01), ..versus_live() };
    let with = |failed| LoadSummary { failed, ..load(ms(1)) };
    assert!(failed(&judge(&wanted, &with(48), Some(&with(0)))));
    assert!(passed(&judge(&wanted, &with(3), Some(&with(0)))));
    assert!(passed(&judge(&wanted, &with(48), Some(&with(40)))));
    assert!(failed(&judge(&wanted, &with(90), Some(&with(90)))), "errors are no noise");
}

proptest! {
    #[test]
    fn more_errors_than_allowed_never_pass(
        sent in 0..20_000_u64,
        bad in 0..20_000_u64,
        live_bad in 0..20_000_u64,
        with_live in any::<bool>(),
    ) {
        let load = |bad: u64| {
            let failed = bad.min(sent);
            LoadSummary { sent, failed, answered: sent - failed, ..load(ms(1)) }
        };
        let wanted = if with_live { versus_live() } else { wanted() };
        let verdict = judge(&wanted, &load(bad), Some(&load(live_bad)));
        let share = bad.min(sent) as f64 / sent.max(1) as f64;
        prop_assert!(share <= wanted.errors.0 || !passed(&verdict), "{verdict:?}");
    }

    #[test]
    fn a_candidate_that_is_just_like_live_is_never_called_slow(p95 in 1..5_000_u64) {
        let both = load(ms(p95));
        let verdict = judge(&versus_live(), &both, Some(&both));
        prop_assert!(passed(&verdict), "{verdict:?}");
    }
}
