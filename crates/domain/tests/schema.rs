//! The schema for editors: it takes what the reader takes, and refuses what is broken in structure.

use std::fs;
use std::path::{Path, PathBuf};

use domain::config::schema;
use jsonschema::Validator;
use serde_json::Value;

fn fixtures(kind: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/config").join(kind);
    let entries = fs::read_dir(folder).expect("the fixtures are there");
    entries.map(|entry| entry.expect("readable").path()).collect()
}

fn document(folder: &Path) -> Value {
    let text = fs::read_to_string(folder.join("launchway.yaml")).expect("readable");
    // As YAML 1.2 has it (10.3.2), and editors with it: `off` is text.
    let options = serde_saphyr::options! { strict_booleans: true };
    serde_saphyr::from_str_with_options(&text, options).expect("YAML")
}

fn validator() -> Validator {
    jsonschema::validator_for(&schema()).expect("a schema")
}

#[test]
fn the_schema_accepts_what_the_reader_accepts() {
    let validator = validator();
    for folder in fixtures("accepted") {
        let document = document(&folder);
        let errors: Vec<String> =
            validator.iter_errors(&document).map(|error| error.to_string()).collect();
        assert!(errors.is_empty(), "{}: {errors:?}", folder.display());
    }
}

#[test]
fn the_schema_refuses_what_is_broken_in_structure() {
    let validator = validator();
    let broken = fixtures("broken").into_iter().filter(|folder| {
        folder.file_name().is_some_and(|name| name.to_string_lossy().starts_with("structure-"))
    });
    let mut refused = 0;
    for folder in broken {
        assert!(!validator.is_valid(&document(&folder)), "{} was accepted", folder.display());
        refused += 1;
    }
    assert!(refused >= 20, "only {refused} files are broken in structure");
}
