//! Grype (<https://github.com/anchore/grype>): by its documentation; no test here runs it.
//!
//! The user's own database is its cache folder (`GRYPE_DB_CACHE_DIR`: `6/vulnerability.db`). The report says of which day
//! it is. Grype ends with 0 whether it found something or not.

use std::io;
use std::path::Path;
use std::time::SystemTime;

use domain::report::grype;
use domain::slot::Exit;

use super::super::environment::Variables;
use super::bench::{link, word};
use super::scanner::{Adapter, Answer, moment};
use super::subject::Subject;

pub(super) struct Grype;

impl Adapter for Grype {
    fn database(&self, folder: &Path) -> Result<Option<SystemTime>, String> {
        let mut versions = std::fs::read_dir(folder).map_err(|e| e.to_string())?.flatten();
        match versions.any(|version| version.path().join("vulnerability.db").is_file()) {
            true => Ok(None),
            false => Err("there is no `6/vulnerability.db` in it".into()),
        }
    }

    fn lay_out(&self, folder: &Path, scratch: &Path) -> io::Result<()> {
        for version in std::fs::read_dir(folder)?.flatten() {
            link(&version.path(), &scratch.join(version.file_name()))?;
        }
        Ok(())
    }

    fn command(
        &self,
        subject: &Subject,
        scratch: Option<&Path>,
        report: &str,
    ) -> (String, Variables) {
        let what = match subject {
            Subject::Bill(path) => format!("sbom:{}", path.display()),
            Subject::Archive(path) => format!("docker-archive:{}", path.display()),
            Subject::Folder(path) => format!("dir:{}", path.display()),
        };
        let mut env: Variables =
            [("GRYPE_CHECK_FOR_APP_UPDATE".to_owned(), "false".to_owned())].into();
        if let Some(scratch) = scratch {
            env.insert("GRYPE_DB_CACHE_DIR".into(), scratch.display().to_string());
            // How old it may be is for the project to say.
            for name in ["GRYPE_DB_AUTO_UPDATE", "GRYPE_DB_VALIDATE_AGE"] {
                env.insert(name.into(), "false".into());
            }
        }
        (format!("{} -o json --file {}", word(&what), word(report)), env)
    }

    fn answer(&self, exit: Exit, report: &str) -> Result<Answer, String> {
        if !exit.success() {
            return Err("it failed".into());
        }
        let report = grype::read(report).map_err(|e| e.to_string())?;
        let database = report.database.as_deref().and_then(moment);
        Ok(Answer { findings: report.findings, database })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_success_with_a_whole_report_is_an_answer() {
        let clean = r#"{"matches":[],"descriptor":{"db":{"built":"2026-11-20T06:17:24Z"}}}"#;
        let answer = Grype.answer(Exit::Code(0), clean).unwrap();
        assert!(answer.findings.is_empty() && answer.database == moment("2026-11-20T06:17:24Z"));
        assert!(Grype.answer(Exit::Code(1), clean).is_err());
        for report in
            ["", "failed to load vulnerability db: database does not exist", r#"{"matches":"#]
        {
            assert!(Grype.answer(Exit::Code(0), report).is_err(), "{report}");
        }
    }

    #[test]
    fn a_folder_without_a_database_is_none() {
        let folder = tempfile::tempdir().unwrap();
        assert!(Grype.database(folder.path()).is_err());
        std::fs::create_dir(folder.path().join("6")).unwrap();
        std::fs::write(folder.path().join("6/vulnerability.db"), "x").unwrap();
        assert_eq!(Grype.database(folder.path()), Ok(None));
    }
}
