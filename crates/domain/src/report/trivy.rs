//! What Trivy writes with `--format json`, schema version 2
//! (<https://trivy.dev/latest/docs/configuration/reporting/#json>).
//!
//! It has a result for each thing that it understood, also where nothing was found; a report without any result
//! says that it understood nothing.

use serde::Deserialize;

use super::{Format, ReportError, headline, without_mark};
use crate::config::Severity;
use crate::scan::{Finding, Fix};

/// All vulnerabilities of the report.
pub fn read(text: &str) -> Result<Vec<Finding>, ReportError> {
    let report: Report = serde_json::from_str(without_mark(text))
        .map_err(|error| ReportError::json(Format::Trivy, &error))?;
    let refused = |why: String| ReportError::Unsupported { format: Format::Trivy, why };
    if report.schema_version != 2 {
        let version = report.schema_version;
        return Err(refused(format!("its SchemaVersion is {version}; use a Trivy that writes 2")));
    }
    let results = report.results.unwrap_or_default();
    if results.is_empty() {
        return Err(refused(
            "there is no result in it, so it understood nothing of what it was given".into(),
        ));
    }
    let all = results.into_iter().flat_map(|result| result.vulnerabilities.unwrap_or_default());
    Ok(all.map(Vulnerability::finding).collect())
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Report {
    schema_version: u32,
    #[serde(default)]
    results: Option<Vec<Looked>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Looked {
    #[serde(default)]
    vulnerabilities: Option<Vec<Vulnerability>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Vulnerability {
    #[serde(rename = "VulnerabilityID")]
    id: String,
    pkg_name: String,
    #[serde(default)]
    installed_version: String,
    #[serde(default)]
    fixed_version: String,
    #[serde(default)]
    severity: String,
    #[serde(default)]
    title: String,
    #[serde(default)]
    description: String,
    #[serde(default, rename = "VendorIDs")]
    vendor_ids: Option<Vec<String>>,
}

impl Vulnerability {
    fn finding(self) -> Finding {
        let title = if self.title.is_empty() { &self.description } else { &self.title };
        Finding {
            id: headline(&self.id),
            aliases: self.vendor_ids.unwrap_or_default(),
            severity: match self.severity.as_str() {
                "CRITICAL" => Some(Severity::Critical),
                "HIGH" => Some(Severity::High),
                "MEDIUM" => Some(Severity::Medium),
                "LOW" => Some(Severity::Low),
                _ => None,
            },
            place: headline(&format!("{}@{}", self.pkg_name, self.installed_version)),
            title: headline(title),
            path: None,
            fix: match self.fixed_version.trim() {
                "" => Fix::None,
                versions => Fix::In(headline(versions)),
            },
            package: Some(self.pkg_name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture;
    use super::*;

    #[test]
    fn a_report_names_package_vulnerability_weight_and_fix() {
        let found = read(fixture!("trivy-by-its-documents.json")).unwrap();
        let seen: Vec<_> =
            found.iter().map(|f| (f.id.as_str(), f.place.as_str(), f.severity, &f.fix)).collect();
        let fixed = Fix::In("3.0.11-1~deb12u2".into());
        assert_eq!(
            seen,
            [
                ("CVE-2023-5363", "libssl3@3.0.9-1", Some(Severity::High), &fixed),
                ("CVE-2011-3389", "libgnutls30@3.7.9-2", Some(Severity::Low), &Fix::None),
                ("CVE-2099-0001", "jinja2@2.4.1", None, &Fix::None),
            ]
        );
        assert_eq!(found[0].aliases, ["DSA-5532-1"]);
    }

    #[test]
    fn a_report_that_is_cut_off_or_says_nothing_is_refused() {
        let whole = fixture!("trivy-by-its-documents.json");
        for text in [
            "",
            "{}",
            "FATAL database error",
            r#"{"SchemaVersion":2}"#,
            r#"{"SchemaVersion":2,"Results":null}"#,
            r#"{"SchemaVersion":1,"Results":[{}]}"#,
            &whole[..whole.len() / 2],
        ] {
            assert!(read(text).is_err(), "{text} was read");
        }
        assert!(
            read(r#"{"SchemaVersion":2,"Results":[{"Target":"debian 12"}]}"#).unwrap().is_empty()
        );
    }
}
