//! What Grype writes with `-o json` (<https://github.com/anchore/grype/tree/main/schema/grype/json>).
//!
//! The report says of which day its database is.

use serde::Deserialize;
use serde_json::Value;

use super::{Format, ReportError, headline, without_mark};
use crate::config::Severity;
use crate::scan::{Finding, Fix};

/// What Grype found, and by what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    pub findings: Vec<Finding>,
    /// When its database was made, in RFC 3339.
    pub database: Option<String>,
}

/// All matches of the report.
pub fn read(text: &str) -> Result<Report, ReportError> {
    let document: Document = serde_json::from_str(without_mark(text))
        .map_err(|error| ReportError::json(Format::Grype, &error))?;
    let database = document.descriptor.as_ref().and_then(|descriptor| {
        let db = descriptor.get("db")?;
        // Of databases of version 6 it is one level further down.
        let built = db.get("built").or_else(|| db.get("status")?.get("built"))?;
        built.as_str().map(str::to_owned)
    });
    let findings = document.matches.into_iter().map(Match::finding).collect();
    Ok(Report { findings, database })
}

#[derive(Deserialize)]
struct Document {
    matches: Vec<Match>,
    #[serde(default)]
    descriptor: Option<Value>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Match {
    vulnerability: Vulnerability,
    #[serde(default)]
    related_vulnerabilities: Option<Vec<Related>>,
    artifact: Artifact,
}

#[derive(Deserialize)]
struct Vulnerability {
    id: String,
    #[serde(default)]
    severity: String,
    #[serde(default)]
    description: String,
    #[serde(default)]
    fix: Option<Fixed>,
}

#[derive(Deserialize)]
struct Fixed {
    #[serde(default)]
    versions: Option<Vec<String>>,
    #[serde(default)]
    state: String,
}

#[derive(Deserialize)]
struct Related {
    id: String,
    #[serde(default)]
    description: String,
}

#[derive(Deserialize)]
struct Artifact {
    name: String,
    #[serde(default)]
    version: String,
}

impl Match {
    fn finding(self) -> Finding {
        let related = self.related_vulnerabilities.unwrap_or_default();
        let own = std::iter::once(&self.vulnerability.description);
        let said = own.chain(related.iter().map(|r| &r.description)).map(|text| headline(text));
        let others = related.iter().map(|r| r.id.clone()).filter(|id| *id != self.vulnerability.id);
        Finding {
            aliases: others.collect(),
            title: said.into_iter().find(|text| !text.is_empty()).unwrap_or_default(),
            severity: match self.vulnerability.severity.as_str() {
                "Critical" => Some(Severity::Critical),
                "High" => Some(Severity::High),
                "Medium" => Some(Severity::Medium),
                "Low" | "Negligible" => Some(Severity::Low),
                _ => None,
            },
            id: headline(&self.vulnerability.id),
            place: headline(&format!("{}@{}", self.artifact.name, self.artifact.version)),
            package: Some(self.artifact.name),
            path: None,
            fix: self.vulnerability.fix.map_or(Fix::NotSaid, Fixed::fix),
        }
    }
}

impl Fixed {
    fn fix(self) -> Fix {
        let versions = self.versions.unwrap_or_default();
        match self.state.as_str() {
            _ if !versions.is_empty() => Fix::In(headline(&versions.join(", "))),
            "not-fixed" | "wont-fix" => Fix::None,
            _ => Fix::NotSaid,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture;
    use super::*;

    #[test]
    fn a_report_names_package_vulnerability_weight_fix_and_the_day_of_its_database() {
        let report = read(fixture!("grype-by-its-documents.json")).unwrap();
        assert_eq!(report.database.as_deref(), Some("2026-11-20T06:17:24Z"));
        let seen: Vec<_> = report
            .findings
            .iter()
            .map(|f| (f.id.as_str(), f.place.as_str(), f.severity, &f.fix))
            .collect();
        let fixed = Fix::In("2.7.2".into());
        assert_eq!(
            seen,
            [
                ("GHSA-8r7q-cvjq-x353", "jinja2@2.4.1", Some(Severity::High), &fixed),
                ("CVE-2011-3389", "libgnutls30@3.7.9-2", Some(Severity::Low), &Fix::None),
                ("CVE-2099-0001", "zlib1g@1.2.13", None, &Fix::NotSaid),
            ]
        );
        assert_eq!(report.findings[0].aliases, ["CVE-2014-1402"]);
    }

    #[test]
    fn a_database_of_version_6_says_its_day_one_level_further_down() {
        let text =
            r#"{"matches":[],"descriptor":{"db":{"status":{"built":"2026-11-20T06:17:24Z"}}}}"#;
        assert_eq!(read(text).unwrap().database.as_deref(), Some("2026-11-20T06:17:24Z"));
    }

    #[test]
    fn a_report_that_is_cut_off_or_says_nothing_is_refused() {
        let whole = fixture!("grype-by-its-documents.json");
        for text in
            ["", "{}", "[0000] ERROR no database", r#"{"matches":null}"#, &whole[..whole.len() / 2]]
        {
            assert!(read(text).is_err(), "{text} was read");
        }
    }
}
