//! The command line as it is met first: help, usage errors, and no server. Transcripts.

mod project;

use project::{launchway, text};

macro_rules! transcript {
    ($name:expr, $text:expr) => {
        insta::with_settings!({
            prepend_module_to_snapshot => false,
            snapshot_path => "door",
            omit_expression => true,
        }, { insta::assert_snapshot!($name, $text) })
    };
}

const VERBS: [&str; 18] = [
    "check", "init", "server", "run", "deploy", "promote", "approve", "reject", "abort",
    "rollback", "status", "logs", "exec", "history", "doctor", "edge", "down", "up",
];

const OF_THE_EDGE: [&str; 3] = ["status", "pause", "resume"];

#[test]
fn help_lists_every_verb_and_hides_the_inner_ones() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let output = launchway(folder.path(), &["--help"]);
    assert_eq!(output.status.code(), Some(0));
    let help = text(&output.stdout);
    for verb in VERBS {
        assert!(help.contains(&format!("\n  {verb} ")), "{verb}");
    }
    assert!(!help.contains("\n  shim "), "{help}");
}

#[test]
fn every_verb_shows_examples() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    for verb in VERBS {
        let output = launchway(folder.path(), &[verb, "--help"]);
        let help = text(&output.stdout);
        assert!(help.contains("Examples:\n  launchway "), "{verb}: {help}");
        transcript!(format!("help-{verb}"), help);
    }
    for verb in OF_THE_EDGE {
        let output = launchway(folder.path(), &["edge", verb, "--help"]);
        let help = text(&output.stdout);
        assert!(help.contains("Examples:\n  launchway edge "), "{verb}: {help}");
        transcript!(format!("help-edge-{verb}"), help);
    }
}

#[test]
fn without_an_edge_its_verbs_say_where_they_looked_and_what_to_do() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let state = folder.path().join("nothing");
    let state = state.to_str().expect("UTF-8");
    let cases: [&[&str]; 3] = [
        &["edge", "status", "--json"],
        &["edge", "pause", "production"],
        &["edge", "resume", "production"],
    ];
    for arguments in cases {
        let output = launchway(folder.path(), &[&["--state", state], arguments].concat());
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        assert_eq!(text(&output.stdout), "", "{arguments:?}");
        let said = text(&output.stderr);
        assert!(said.contains("reaching the edge at") && said.contains(state), "{said}");
        assert!(said.contains("launchway server"), "{said}");
    }
    let odd: [&[&str]; 4] = [
        &["Production!"],
        &["production", "--for", "90s"],
        &["production", "--for", "0s"],
        &["production", "--most", "0"],
    ];
    for odd in odd {
        let output = launchway(folder.path(), &[&["edge", "pause"], odd].concat());
        assert_eq!(output.status.code(), Some(2), "{odd:?}");
    }
}

#[test]
fn what_makes_no_sense_ends_with_two() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let cases: [(&str, &[&str]); 6] = [
        ("no-environment", &["deploy"]),
        ("not-an-environment", &["deploy", "Production!"]),
        ("no-reason", &["reject", "production"]),
        ("no-command", &["exec", "staging", "web"]),
        ("time-without-unit", &["deploy", "staging", "--timeout", "30"]),
        ("why-of-nothing", &["history", "--why", "pytest"]),
    ];
    for (name, arguments) in cases {
        let output = launchway(folder.path(), arguments);
        assert_eq!(output.status.code(), Some(2), "{name}");
        assert_eq!(text(&output.stdout), "", "{name}");
        transcript!(name, text(&output.stderr));
    }
}

#[test]
fn without_a_server_each_verb_that_needs_one_says_how_to_start_it() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let cases: [&[&str]; 8] = [
        &["status"],
        &["deploy", "staging"],
        &["promote", "staging"],
        &["approve", "production"],
        &["abort", "production"],
        &["rollback", "production"],
        &["logs", "production"],
        &["down"],
    ];
    for arguments in cases {
        let output = launchway(folder.path(), arguments);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        let said = text(&output.stderr);
        assert!(said.contains("no server answers at ./.launchway/api.sock"), "{said}");
        assert!(said.contains("launchway server"), "{said}");
    }
}

#[test]
fn a_state_folder_with_too_long_a_path_is_refused_by_name() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let state = folder.path().join("a-folder-with-a-long-name/".repeat(5));
    let state = state.to_str().expect("UTF-8");
    let output = launchway(folder.path(), &["--state", state, "server"]);
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("a Unix socket has at most 107"), "{said}");
}

#[test]
fn doctor_says_what_is_missing_and_what_to_do() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let output = launchway(folder.path(), &["doctor", "--json"]);
    assert_eq!(output.status.code(), Some(1), "a folder without a project is not well");
    let answer: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(answer["ok"], false);
    let checks = answer["checks"].as_array().expect("a list");
    let check = |name: &str| checks.iter().find(|check| check["name"] == name).expect("checked");
    assert_eq!(check("git")["verdict"], "ok");
    for name in ["repository", "project"] {
        assert_eq!(check(name)["verdict"], "fail");
        assert!(check(name)["todo"].as_str().is_some_and(|todo| !todo.is_empty()), "{name}");
    }
}
