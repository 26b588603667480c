//! `launchway check` as a user meets it: files in, text and exit code out.
//!
//! The files are those of the configuration's own tests, `crates/domain/tests/config`.

mod project;

use std::path::Path;

use project::{fixtures, launchway, name, project, text};

/// Compares with the file of this name in a folder beside this test.
macro_rules! snapshot {
    ($folder:literal, $name:expr, $text:expr) => {
        insta::with_settings!({
            prepend_module_to_snapshot => false,
            snapshot_path => $folder,
            omit_expression => true,
        }, { insta::assert_snapshot!($name, $text) })
    };
}

#[test]
fn every_broken_file_is_refused_with_its_place_and_a_way_out() {
    let fixtures = fixtures("broken");
    assert!(fixtures.len() >= 40, "only {} broken files", fixtures.len());
    for fixture in fixtures {
        let folder = project(&fixture);
        let output = launchway(folder.path(), &["check"]);
        assert_eq!(output.status.code(), Some(2), "{}", name(&fixture));
        assert_eq!(text(&output.stdout), "", "{}", name(&fixture));
        let said = text(&output.stderr) + &pointed_at(folder.path());
        snapshot!("check/broken", name(&fixture), said);
    }
}

/// The text under the caret of each mistake.
fn pointed_at(folder: &Path) -> String {
    let output = launchway(folder, &["check", "--json"]);
    let answer: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let line = |mistake: &serde_json::Value| {
        format!("caret under: {}\n", mistake["text"].as_str().expect("text"))
    };
    answer["mistakes"].as_array().expect("a list").iter().map(line).collect()
}

#[test]
fn every_mistake_has_file_line_column_and_help_for_programs_too() {
    for fixture in fixtures("broken") {
        let folder = project(&fixture);
        let output = launchway(folder.path(), &["check", "--json"]);
        assert_eq!(output.status.code(), Some(2), "{}", name(&fixture));
        let answer: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
        assert_eq!(answer["ok"], false);
        let mistakes = answer["mistakes"].as_array().expect("a list");
        assert!(!mistakes.is_empty(), "{}", name(&fixture));
        for mistake in mistakes {
            let path = mistake["path"].as_str().expect("a path");
            assert!(["launchway.yaml", "compose.yaml"].contains(&path), "{mistake}");
            assert!(mistake["line"].as_u64() >= Some(1), "{mistake}");
            assert!(mistake["column"].as_u64() >= Some(1), "{mistake}");
            assert!(!mistake["message"].as_str().expect("a message").is_empty(), "{mistake}");
            assert!(!mistake["help"].as_str().expect("help").is_empty(), "{mistake}");
        }
    }
}

#[test]
fn a_right_project_shows_what_would_happen_in_each_environment() {
    for fixture in fixtures("accepted") {
        let folder = project(&fixture);
        let output = launchway(folder.path(), &["check"]);
        assert_eq!(text(&output.stderr), "", "{}", name(&fixture));
        assert_eq!(output.status.code(), Some(0));
        snapshot!("check/accepted", name(&fixture), text(&output.stdout));
        let output = launchway(folder.path(), &["check", "--json"]);
        let answer: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
        assert_eq!(answer["ok"], true);
        assert!(answer["project"]["environments"].is_array());
    }
}

#[test]
fn the_teahouse_of_the_examples_is_right() {
    let teahouse = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/teahouse");
    let output = launchway(&teahouse, &["check"]);
    assert_eq!(text(&output.stderr), "");
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn a_file_that_the_project_names_and_that_is_not_there_is_a_mistake() {
    let whole = fixtures("accepted").into_iter().find(|fixture| name(fixture) == "whole");
    let folder = project(&whole.expect("the fixture is there"));
    std::fs::remove_dir(folder.path().join("api")).expect("removed");
    std::fs::remove_file(folder.path().join("data/test.sql")).expect("removed");
    let output = launchway(folder.path(), &["check"]);
    assert_eq!(output.status.code(), Some(2));
    snapshot!("check/door", "missing-files", text(&output.stderr));
}

#[test]
fn a_folder_without_the_files_says_which_one_is_missing() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let output = launchway(folder.path(), &["check"]);
    assert_eq!(output.status.code(), Some(2));
    snapshot!("check/door", "no-launchway", text(&output.stderr));
    std::fs::write(folder.path().join("launchway.yaml"), "app: shop\n").expect("written");
    let output = launchway(folder.path(), &["check"]);
    assert_eq!(output.status.code(), Some(2));
    snapshot!("check/door", "no-compose", text(&output.stderr));
}

#[test]
fn a_folder_that_does_not_exist_and_one_in_the_place_of_a_file_are_told_as_such() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let output = launchway(folder.path(), &["status", "-C", "nowhere"]);
    assert_eq!(output.status.code(), Some(2));
    let said = text(&output.stderr);
    assert!(said.contains("'nowhere'") && said.contains("there is no such folder"), "{said}");
    std::fs::write(folder.path().join("file"), "").expect("written");
    let output = launchway(folder.path(), &["status", "-C", "file"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("it is not a folder"), "{}", text(&output.stderr));
    std::fs::create_dir(folder.path().join("launchway.yaml")).expect("made");
    let output = launchway(folder.path(), &["check"]);
    assert_eq!(output.status.code(), Some(2));
    let said = text(&output.stderr);
    assert!(said.contains("put a file in the place of this folder"), "{said}");
}

#[test]
fn the_schema_is_printed_without_a_project() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let output = launchway(folder.path(), &["check", "--schema"]);
    assert_eq!(output.status.code(), Some(0));
    let schema: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(schema["$schema"], "https://json-schema.org/draft/2020-12/schema");
    assert!(schema["properties"]["environments"].is_object());
}

#[test]
fn a_file_that_only_compose_would_merge_is_told() {
    let fixture = fixtures("accepted").into_iter().find(|path| name(path) == "smallest");
    let folder = project(&fixture.expect("it is there"));
    project::write(folder.path(), &[("compose.override.yaml", "services: {}\n")]);
    let output = launchway(folder.path(), &["check"]);
    assert_eq!(output.status.code(), Some(0));
    let said = text(&output.stdout);
    assert!(
        said.contains("compose.override.yaml:1:1: no environment has what is in this file"),
        "{said}"
    );
}

#[test]
fn a_command_without_its_port_is_told_unless_its_program_reads_it() {
    let fixture = fixtures("accepted").into_iter().find(|path| name(path) == "whole");
    let folder = project(&fixture.expect("it is there"));
    let told = |program: &str| {
        project::write(folder.path(), &[("api/serve", program)]);
        let output = launchway(folder.path(), &["check"]);
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        text(&output.stdout).contains("the command does not use `$PORT`")
    };
    let file = folder.path().join("launchway.yaml");
    let yaml = std::fs::read_to_string(&file).expect("it is there");
    let without = yaml.replace("./serve --port $PORT", "exec ./serve");
    assert_ne!(yaml, without);
    project::write(folder.path(), &[("launchway.yaml", &without)]);
    assert!(told("#!/bin/sh\nexec nc -l 8000\n"));
    assert!(!told("#!/bin/sh\nexec nc -l \"$PORT\"\n"));
}
