//! What gitleaks and detect-secrets report: where a secret lies and which rule says so, and never the secret.
//!
//! Every secret is critical: whoever can read the repository can use it, so no policy for vulnerabilities lets one pass.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::{Format, ReportError, headline, without_mark};
use crate::config::Severity;
use crate::scan::{Finding, Fix};

/// A report of gitleaks 8, `--report-format json` (<https://github.com/gitleaks/gitleaks>).
pub fn gitleaks(text: &str) -> Result<Vec<Finding>, ReportError> {
    let leaks: Vec<Leak> = serde_json::from_str(without_mark(text))
        .map_err(|error| ReportError::json(Format::Gitleaks, &error))?;
    Ok(leaks
        .into_iter()
        .map(|leak| finding(&leak.rule, leak.file, leak.line, &leak.description))
        .collect())
}

/// What detect-secrets 1 prints for `scan` (<https://github.com/Yelp/detect-secrets>).
pub fn detect_secrets(text: &str) -> Result<Vec<Finding>, ReportError> {
    let baseline: Baseline = serde_json::from_str(without_mark(text))
        .map_err(|error| ReportError::json(Format::DetectSecrets, &error))?;
    if baseline.plugins_used.is_empty() {
        let why = "it looked with no plugin at all".into();
        return Err(ReportError::Unsupported { format: Format::DetectSecrets, why });
    }
    let all = baseline.results.into_iter().flat_map(|(file, found)| {
        found.into_iter().map(move |secret| {
            finding(&secret.kind, file.clone(), secret.line_number, "it looks like a secret")
        })
    });
    Ok(all.collect())
}

/// Its other keys hold parts of the secret, or all of it: they are not read.
#[derive(Deserialize)]
struct Leak {
    #[serde(rename = "RuleID")]
    rule: String,
    #[serde(rename = "Description")]
    description: String,
    #[serde(rename = "File")]
    file: String,
    #[serde(rename = "StartLine")]
    line: u64,
}

#[derive(Deserialize)]
struct Baseline {
    plugins_used: Vec<serde_json::Value>,
    results: BTreeMap<String, Vec<Potential>>,
}

#[derive(Deserialize)]
struct Potential {
    #[serde(rename = "type")]
    kind: String,
    line_number: u64,
}

fn finding(rule: &str, file: String, line: u64, title: &str) -> Finding {
    Finding {
        id: headline(rule),
        aliases: Vec::new(),
        severity: Some(Severity::Critical),
        place: headline(&format!("{file}:{line}")),
        package: None,
        path: Some(file),
        fix: Fix::NotSaid,
        title: headline(title),
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture;
    use super::*;

    #[test]
    fn a_real_report_of_gitleaks_gives_file_line_and_rule_and_no_secret() {
        let found = gitleaks(fixture!("gitleaks-8.30.1.json")).unwrap();
        let [leak] = found.as_slice() else { panic!("{found:?}") };
        assert_eq!(
            (leak.place.as_str(), leak.id.as_str()),
            ("backend/conf.ini:1", "aws-access-token")
        );
        assert_eq!(leak.severity, Some(Severity::Critical));
        assert!(!format!("{found:?}").contains("AKIA"));
    }

    #[test]
    fn a_real_report_of_detect_secrets_gives_file_line_and_rule() {
        let found = detect_secrets(fixture!("detect-secrets-1.5.0.json")).unwrap();
        let [leak] = found.as_slice() else { panic!("{found:?}") };
        assert_eq!(
            (leak.place.as_str(), leak.id.as_str()),
            ("backend/conf.ini:1", "AWS Access Key")
        );
    }

    #[test]
    fn a_report_that_is_cut_off_or_empty_is_refused() {
        for text in ["", "{}", "null", "FTL stat nosuch", "[{\"RuleID\":"] {
            assert!(gitleaks(text).is_err() && detect_secrets(text).is_err(), "{text} was read");
        }
        assert!(gitleaks("[]").unwrap().is_empty());
        assert!(detect_secrets(r#"{"plugins_used":[],"results":{}}"#).is_err());
        assert!(
            detect_secrets(r#"{"plugins_used":[{"name":"AWSKeyDetector"}],"results":{}}"#)
                .unwrap()
                .is_empty()
        );
    }
}
