//! What the tests of the command line share: projects in temporary folders, and the binary.

#![allow(dead_code, reason = "each test file uses its part")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;

/// The folders of `crates/domain/tests/config/KIND`.
pub fn fixtures(kind: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../domain/tests/config").join(kind);
    let entries = std::fs::read_dir(folder).expect("the fixtures are there");
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.expect("readable").path()).collect();
    paths.sort();
    paths
}

/// The name of a fixture.
pub fn name(fixture: &Path) -> String {
    fixture.file_name().expect("a folder").to_string_lossy().into_owned()
}

/// A project with the files of a fixture and what they speak of.
pub fn project(fixture: &Path) -> TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder");
    for part in ["web", "api", "tools", "data"] {
        std::fs::create_dir(folder.path().join(part)).expect("created");
    }
    write(folder.path(), &[("data/test.sql", "select 1;\n"), ("defaults.env", "LOG_LEVEL=info\n")]);
    for file in ["launchway.yaml", "compose.yaml"] {
        std::fs::copy(fixture.join(file), folder.path().join(file)).expect("copied");
    }
    folder
}

/// Writes files and the folders they lie in.
pub fn write(folder: &Path, files: &[(&str, &str)]) {
    for (path, text) in files {
        let path = folder.join(path);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("created");
        std::fs::write(path, text).expect("written");
    }
}

/// Runs `launchway` in `folder`.
pub fn launchway(folder: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_launchway"));
    command.current_dir(folder).args(arguments).env_remove("LAUNCHWAY_STATE");
    command.output().expect("launchway runs")
}

/// Output as text.
pub fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("UTF-8")
}
