//! What hadolint writes with `-f json`: a list of mistakes in Dockerfiles (<https://github.com/hadolint/hadolint>).
//!
//! An `error` is high, a `warning` medium, `info` and `style` are low, as levels of SARIF are.

use serde::Deserialize;

use super::{Format, ReportError, headline, without_mark};
use crate::config::Severity;
use crate::scan::{Finding, Fix};

/// All mistakes of the report; paths are those that hadolint was given.
pub fn read(text: &str) -> Result<Vec<Finding>, ReportError> {
    let mistakes: Vec<Mistake> = serde_json::from_str(without_mark(text))
        .map_err(|error| ReportError::json(Format::Hadolint, &error))?;
    Ok(mistakes.into_iter().map(Mistake::finding).collect())
}

#[derive(Deserialize)]
struct Mistake {
    code: String,
    file: String,
    line: u64,
    level: String,
    message: String,
}

impl Mistake {
    fn finding(self) -> Finding {
        Finding {
            aliases: Vec::new(),
            severity: match self.level.as_str() {
                "error" => Some(Severity::High),
                "warning" => Some(Severity::Medium),
                "info" | "style" => Some(Severity::Low),
                _ => None,
            },
            id: headline(&self.code),
            place: headline(&format!("{}:{}", self.file, self.line)),
            package: None,
            title: headline(&self.message),
            path: Some(self.file),
            fix: Fix::NotSaid,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture;
    use super::*;

    #[test]
    fn a_real_report_names_file_line_rule_and_weight() {
        let found = read(fixture!("hadolint-2.15.1.json")).unwrap();
        assert_eq!(found.len(), 9);
        let worst = found.iter().find(|f| f.severity == Some(Severity::High)).unwrap();
        assert_eq!((worst.place.as_str(), worst.id.as_str()), ("Dockerfile:4", "DL4000"));
        assert_eq!(worst.title, "MAINTAINER is deprecated");
        assert_eq!(found.iter().filter(|f| f.severity == Some(Severity::Medium)).count(), 6);
    }

    #[test]
    fn a_report_that_is_cut_off_or_empty_is_refused() {
        let whole = fixture!("hadolint-2.15.1.json");
        for text in
            ["", "{}", "null", "hadolint: Dockerfile: does not exist", &whole[..whole.len() / 2]]
        {
            assert!(read(text).is_err(), "{text} was read");
        }
        assert!(read("[]").unwrap().is_empty());
    }
}
