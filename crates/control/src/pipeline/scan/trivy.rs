//! Trivy (<https://trivy.dev>): by its documentation; no test here runs it.
//!
//! The user's own database is a cache folder of it (`db/trivy.db`, `db/metadata.json`), or that `db`. It ends with 0
//! whether it found something or not.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use domain::report::trivy;
use domain::slot::Exit;
use serde_json::Value;

use super::super::environment::Variables;
use super::bench::{link, word};
use super::scanner::{Adapter, Answer, moment};
use super::subject::Subject;

pub(super) struct Trivy;

impl Adapter for Trivy {
    fn database(&self, folder: &Path) -> Result<Option<SystemTime>, String> {
        let home = home(folder);
        if !home.join("trivy.db").is_file() {
            return Err("there is no `db/trivy.db` in it".into());
        }
        let metadata = fs::read_to_string(home.join("metadata.json"))
            .map_err(|e| format!("its metadata.json: {e}"))?;
        let metadata: Value =
            serde_json::from_str(&metadata).map_err(|e| format!("its metadata.json: {e}"))?;
        let updated = metadata.get("UpdatedAt").and_then(Value::as_str).and_then(moment);
        updated.map(Some).ok_or_else(|| "its metadata.json has no `UpdatedAt`".into())
    }

    /// Trivy writes beside its database, so it gets a cache of its own with a link to it.
    fn lay_out(&self, folder: &Path, scratch: &Path) -> io::Result<()> {
        link(&home(folder), &scratch.join("db"))?;
        let java = folder.join("java-db");
        if java.is_dir() { link(&java, &scratch.join("java-db")) } else { Ok(()) }
    }

    fn command(
        &self,
        subject: &Subject,
        scratch: Option<&Path>,
        report: &str,
    ) -> (String, Variables) {
        let what = match subject {
            Subject::Bill(path) => format!("sbom {}", word(&path.display().to_string())),
            Subject::Archive(path) => {
                format!("image --input {}", word(&path.display().to_string()))
            }
            Subject::Folder(path) => format!("rootfs {}", word(&path.display().to_string())),
        };
        let command =
            format!("{what} --scanners vuln --exit-code 0 --format json --output {}", word(report));
        // Variables, because an older version does not mind those that it does not know.
        let mut env: Variables =
            ["TRIVY_NO_PROGRESS", "TRIVY_SKIP_VERSION_CHECK", "TRIVY_DISABLE_TELEMETRY"]
                .map(|name| (name.to_owned(), "true".to_owned()))
                .into();
        if let Some(scratch) = scratch {
            env.insert("TRIVY_CACHE_DIR".into(), scratch.display().to_string());
            for name in ["TRIVY_SKIP_DB_UPDATE", "TRIVY_SKIP_JAVA_DB_UPDATE", "TRIVY_OFFLINE_SCAN"]
            {
                env.insert(name.into(), "true".into());
            }
        }
        (command, env)
    }

    fn answer(&self, exit: Exit, report: &str) -> Result<Answer, String> {
        if !exit.success() {
            return Err("it failed".into());
        }
        let findings = trivy::read(report).map_err(|e| e.to_string())?;
        Ok(Answer { findings, database: None })
    }
}

fn home(folder: &Path) -> PathBuf {
    let below = folder.join("db");
    if below.is_dir() { below } else { folder.to_path_buf() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_success_with_a_whole_report_is_an_answer() {
        let clean = r#"{"SchemaVersion":2,"Results":[{"Target":"debian 12"}]}"#;
        assert!(Trivy.answer(Exit::Code(0), clean).unwrap().findings.is_empty());
        assert!(Trivy.answer(Exit::Code(1), clean).is_err());
        assert!(Trivy.answer(Exit::Signal(9), clean).is_err());
        for report in ["", "FATAL failed to download vulnerability DB", r#"{"SchemaVersion":2}"#] {
            assert!(Trivy.answer(Exit::Code(0), report).is_err(), "{report}");
        }
    }

    #[test]
    fn the_database_says_its_day_in_its_metadata() {
        let folder = tempfile::tempdir().unwrap();
        let database = || Trivy.database(folder.path());
        assert!(database().is_err());
        fs::create_dir(folder.path().join("db")).unwrap();
        fs::write(folder.path().join("db/trivy.db"), "x").unwrap();
        assert!(database().unwrap_err().contains("metadata.json"));
        let metadata = r#"{"Version":2,"NextUpdate":"2026-11-21T00:00:00Z","UpdatedAt":"2026-11-20T00:00:00.5Z"}"#;
        fs::write(folder.path().join("db/metadata.json"), metadata).unwrap();
        assert_eq!(database().unwrap(), moment("2026-11-20T00:00:00.5Z"));
    }
}
