//! Compose files in the shapes of well-known projects: each is read whole, or refused with every reason.
//!
//! The files are our own, written to use the features that the projects use, in their manner.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::{Path, PathBuf};

use domain::config::{Composition, Mistake, Note, Source, compose, parse_env_file};
use serde_json::Value;

#[path = "compose/real.rs"]
mod real;

/// Where whoever runs the files is at home.
const HOME: &str = "/home/tea";

fn fixtures() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/compose");
    let entries = std::fs::read_dir(folder).expect("the fixtures are there");
    let mut folders: Vec<PathBuf> = entries
        .map(|entry| entry.expect("readable").path())
        .filter(|path| path.join("compose.yaml").is_file())
        .collect();
    folders.sort();
    folders
}

fn name(fixture: &Path) -> String {
    fixture.file_name().expect("a name").to_string_lossy().into_owned()
}

fn read(fixture: &Path) -> Result<(Composition, Vec<Note>), Vec<Mistake>> {
    let text = std::fs::read_to_string(fixture.join("compose.yaml")).expect("readable");
    let dotenv = std::fs::read_to_string(fixture.join(".env")).unwrap_or_default();
    let home = |name: &str| (name == "HOME").then(|| HOME.to_owned());
    let dotenv = parse_env_file(&dotenv, false, &home).expect("a right .env");
    let lookup = |name: &str| home(name).or_else(|| dotenv.get(name).cloned());
    compose(Source { path: "compose.yaml", text: &text }, &lookup, &[])
}

/// Without what a file does not say.
fn said(value: Value) -> Value {
    let empty = |value: &Value| match value {
        Value::Null | Value::Bool(false) => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(entries) => entries.is_empty(),
        _ => false,
    };
    match value {
        Value::Object(entries) => {
            let entries = entries.into_iter().map(|(key, value)| (key, said(value)));
            Value::Object(entries.filter(|(_, value)| !empty(value)).collect())
        }
        Value::Array(items) => items.into_iter().map(said).collect(),
        other => other,
    }
}

#[test]
fn every_file_of_a_known_project_is_read_whole_or_refused_with_its_reasons() {
    let fixtures = fixtures();
    assert!(fixtures.len() >= 25, "only {} files", fixtures.len());
    let mut table = String::new();
    for fixture in fixtures {
        let name = name(&fixture);
        let mut page = String::new();
        match read(&fixture) {
            Ok((composition, notes)) => {
                let _ = writeln!(table, "{name:<15} read, {} services", composition.services.len());
                for note in notes {
                    let _ = writeln!(page, "note {}:{}: {}", note.line, note.column, note.message);
                }
                let names: Vec<&str> = composition.networks.keys().map(String::as_str).collect();
                let _ = writeln!(page, "networks: {}", names.join(", "));
                let names: Vec<&str> = composition.volumes.keys().map(String::as_str).collect();
                let _ = writeln!(page, "volumes: {}", names.join(", "));
                let value = said(serde_json::to_value(&composition).expect("written"));
                page += &serde_json::to_string_pretty(&value).expect("written");
            }
            Err(mistakes) => {
                let _ = writeln!(table, "{name:<15} refused, {} reasons", mistakes.len());
                for mistake in &mistakes {
                    let _ =
                        writeln!(page, "{mistake}\n  {}\n  help: {}", mistake.text, mistake.help);
                }
            }
        }
        insta::with_settings!({
            prepend_module_to_snapshot => false,
            snapshot_path => "compose/read",
            omit_expression => true,
        }, { insta::assert_snapshot!(name, page) });
    }
    insta::with_settings!({
        prepend_module_to_snapshot => false,
        snapshot_path => "compose/read",
        omit_expression => true,
    }, { insta::assert_snapshot!("0-table", table) });
}

#[test]
fn real_compose_makes_the_same_of_every_file_that_is_read() {
    let Some(program) = real::program() else { return };
    let mut differences = String::new();
    for fixture in fixtures() {
        let Ok((composition, _)) = read(&fixture) else { continue };
        let name = name(&fixture);
        let config = match real::config(program, &fixture) {
            Ok(config) => config,
            Err(why) => {
                let _ = writeln!(differences, "{name}: Compose refuses it: {why}");
                continue;
            }
        };
        let (ours, theirs) = (real::ours(&composition, &fixture), real::theirs(&config));
        let names: BTreeSet<&String> = ours.keys().chain(theirs.keys()).collect();
        for service in names {
            let (ours, theirs) = (ours.get(service), theirs.get(service));
            let side = |side: Option<&Value>, key: &str| side.and_then(|s| s.get(key)).cloned();
            let keys = |side: Option<&Value>| {
                side.and_then(Value::as_object)
                    .map(|s| s.keys().cloned().collect())
                    .unwrap_or_default()
            };
            let (mine, other): (Vec<String>, Vec<String>) = (keys(ours), keys(theirs));
            for key in mine.iter().chain(other.iter().filter(|key| !mine.contains(key))) {
                let (ours, theirs) = (side(ours, key), side(theirs, key));
                if ours != theirs {
                    let _ = writeln!(
                        differences,
                        "{name}: {service}: {key}\n  ours   {ours:?}\n  theirs {theirs:?}"
                    );
                }
            }
        }
    }
    assert!(differences.is_empty(), "{differences}");
}
