//! CycloneDX 1.4 to 1.6 in JSON: what a release is made of, and what is known to be vulnerable in it
//! (<https://cyclonedx.org/docs/1.6/json/>).
//!
//! A bill of materials alone says nothing about vulnerabilities: only one that has the key `vulnerabilities`, even
//! with an empty list, was looked through.

use serde::{Deserialize, Serialize};

use super::findings::{Findings, by_score};
use super::{Format, ReportError, headline, without_mark};
use crate::config::Severity;
use crate::pipeline::FindingSummary;
use crate::scan::{Finding, Fix};

const VERSIONS: [&str; 3] = ["1.4", "1.5", "1.6"];

/// A bill of materials.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Bom {
    /// With those inside of others; without the application itself.
    pub components: Vec<Component>,
    /// `None` if nobody looked for vulnerabilities.
    pub findings: Option<Vec<Finding>>,
}

impl Bom {
    /// Its findings in numbers.
    pub fn summary(&self) -> Option<FindingSummary> {
        let mut findings = Findings::default();
        self.findings.as_ref()?.iter().for_each(|finding| findings.add(finding.clone()));
        Some(findings.summary())
    }
}

/// A part of a release.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Component {
    pub name: String,
    pub version: Option<String>,
    /// Where it comes from, as a package URL.
    pub purl: Option<String>,
}

/// Reads a bill of materials.
pub fn read(text: &str) -> Result<Bom, ReportError> {
    let document: Document = serde_json::from_str(without_mark(text))
        .map_err(|error| ReportError::json(Format::CycloneDx, &error))?;
    let refused = |why: String| ReportError::Unsupported { format: Format::CycloneDx, why };
    if document.bom_format != "CycloneDX" {
        return Err(refused(format!("its bomFormat is `{}`", headline(&document.bom_format))));
    }
    if !VERSIONS.contains(&document.spec_version.as_str()) {
        let version = headline(&document.spec_version);
        return Err(refused(format!(
            "it is version `{version}`; let the tool write 1.4, 1.5 or 1.6"
        )));
    }
    let mut named = Vec::new();
    flatten(document.components.unwrap_or_default(), &mut named);
    let findings = document.vulnerabilities.map(|all| {
        let applies = all.iter().filter_map(|v| Some((v, v.rated()?)));
        applies.map(|(vulnerability, severity)| vulnerability.plain(severity, &named)).collect()
    });
    Ok(Bom { components: named.into_iter().map(|(_, component)| component).collect(), findings })
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    bom_format: String,
    spec_version: String,
    #[serde(default)]
    components: Option<Vec<Part>>,
    #[serde(default)]
    vulnerabilities: Option<Vec<Vulnerability>>,
}

#[derive(Deserialize)]
struct Part {
    name: String,
    #[serde(default)]
    version: Option<String>,
    #[serde(default)]
    purl: Option<String>,
    #[serde(default, rename = "bom-ref")]
    reference: Option<String>,
    #[serde(default)]
    components: Option<Vec<Part>>,
}

/// The depth is bounded by the JSON reader, which refuses more than 128 levels.
fn flatten(parts: Vec<Part>, into: &mut Vec<(Option<String>, Component)>) {
    for part in parts {
        let component = Component { name: part.name, version: part.version, purl: part.purl };
        into.push((part.reference, component));
        flatten(part.components.unwrap_or_default(), into);
    }
}

#[derive(Deserialize)]
struct Vulnerability {
    #[serde(default)]
    id: Option<String>,
    #[serde(default)]
    description: Option<String>,
    #[serde(default)]
    ratings: Option<Vec<Rating>>,
    #[serde(default)]
    affects: Option<Vec<Affected>>,
    #[serde(default)]
    analysis: Option<Analysis>,
}

#[derive(Deserialize)]
struct Rating {
    #[serde(default)]
    score: Option<f64>,
    #[serde(default)]
    severity: Option<String>,
    #[serde(default)]
    method: Option<String>,
}

#[derive(Deserialize)]
struct Affected {
    #[serde(rename = "ref")]
    reference: String,
}

#[derive(Deserialize)]
struct Analysis {
    #[serde(default)]
    state: Option<String>,
}

/// What one rating says.
enum Rated {
    Harmless,
    As(Severity),
    Unknown,
}

impl Rating {
    fn read(&self) -> Rated {
        match self.severity.as_deref() {
            Some("critical") => Rated::As(Severity::Critical),
            Some("high") => Rated::As(Severity::High),
            Some("medium") => Rated::As(Severity::Medium),
            Some("low" | "info") => Rated::As(Severity::Low),
            Some("none") => Rated::Harmless,
            _ => self.by_score(),
        }
    }

    /// Only CVSS goes from 0 to 10 with these bands; OWASP and SSVC do not.
    fn by_score(&self) -> Rated {
        let cvss = self.method.as_deref().is_none_or(|method| method.starts_with("CVSS"));
        let severity = self.score.filter(|_| cvss).and_then(by_score);
        severity.map_or(Rated::Unknown, Rated::As)
    }
}

impl Vulnerability {
    /// The worst of its ratings: several databases rate the same vulnerability differently. `Some(None)` if nobody
    /// says how bad it is, which is not harmless; `None` if it does not apply.
    fn rated(&self) -> Option<Option<Severity>> {
        let state = self.analysis.as_ref().and_then(|a| a.state.as_deref()).unwrap_or_default();
        if matches!(
            state,
            "not_affected" | "false_positive" | "resolved" | "resolved_with_pedigree"
        ) {
            return None;
        }
        let ratings: Vec<Rated> = self.ratings.iter().flatten().map(Rating::read).collect();
        let known = ratings.iter().filter_map(|rated| match rated {
            Rated::As(severity) => Some(*severity),
            _ => None,
        });
        let harmless = || ratings.iter().any(|rated| matches!(rated, Rated::Harmless));
        let worst = known.max();
        (worst.is_some() || !harmless()).then_some(worst)
    }

    fn plain(
        &self,
        severity: Option<Severity>,
        components: &[(Option<String>, Component)],
    ) -> Finding {
        let reference = self.affects.iter().flatten().next().map(|affected| &affected.reference);
        let known = components.iter().find(|(own, _)| own.is_some() && own.as_ref() == reference);
        let place = match (known, reference) {
            (Some((_, Component { name, version: Some(version), .. })), _) => {
                format!("{name}@{version}")
            }
            (Some((_, component)), _) => component.name.clone(),
            (None, Some(reference)) => reference.clone(),
            (None, None) => "(no component)".into(),
        };
        Finding {
            id: headline(self.id.as_deref().unwrap_or("(no id)")),
            aliases: Vec::new(),
            severity,
            place: headline(&place),
            package: known.map(|(_, component)| component.name.clone()),
            path: None,
            fix: Fix::NotSaid,
            title: headline(self.description.as_deref().unwrap_or("no description")),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn bom(version: &str, vulnerabilities: Value) -> Value {
        json!({
            "bomFormat": "CycloneDX", "specVersion": version, "version": 1,
            "metadata": { "component": { "type": "application", "name": "shop" } },
            "components": [
                { "type": "library", "name": "openssl", "version": "1.1.1", "bom-ref": "o",
                  "purl": "pkg:deb/debian/openssl@1.1.1",
                  "components": [{ "type": "library", "name": "inner" }] },
                { "type": "library", "name": "zlib", "version": "1.3" }
            ],
            "vulnerabilities": vulnerabilities
        })
    }

    fn findings(vulnerabilities: Value) -> [u32; 4] {
        let bom = read(&bom("1.6", vulnerabilities).to_string()).unwrap();
        let found = bom.summary().unwrap();
        [found.low, found.medium, found.high, found.critical]
    }

    #[test]
    fn components_are_listed_with_those_inside_of_others() {
        let bom = read(&bom("1.4", json!([])).to_string()).unwrap();
        let names: Vec<&str> = bom.components.iter().map(|c| c.name.as_str()).collect();
        assert_eq!(names, ["openssl", "inner", "zlib"]);
        assert_eq!(bom.components[0].purl.as_deref(), Some("pkg:deb/debian/openssl@1.1.1"));
        assert_eq!(bom.components[1].version, None);
    }

    #[test]
    fn a_bill_that_nobody_looked_through_is_not_clean() {
        assert_eq!(read(&bom("1.5", Value::Null).to_string()).unwrap().findings, None);
        let bare = r#"{"bomFormat":"CycloneDX","specVersion":"1.5"}"#;
        assert_eq!(read(bare).unwrap(), Bom::default());
        let clean = read(&bom("1.5", json!([])).to_string()).unwrap();
        assert_eq!(clean.summary(), Some(FindingSummary::default()));
    }

    #[test]
    fn the_worst_rating_counts_and_an_unrated_vulnerability_weighs_like_a_high_one() {
        let rated = |ratings: Value| findings(json!([{ "id": "CVE-1", "ratings": ratings }]));
        assert_eq!(rated(json!([{ "severity": "low" }, { "severity": "critical" }])), [0, 0, 0, 1]);
        assert_eq!(rated(json!([{ "score": 7.5, "method": "CVSSv31" }])), [0, 0, 1, 0]);
        assert_eq!(rated(json!([{ "score": 9.5, "method": "OWASP" }])), [0, 0, 1, 0]);
        assert_eq!(rated(json!([{ "severity": "unknown" }])), [0, 0, 1, 0]);
        assert_eq!(rated(json!([])), [0, 0, 1, 0]);
        assert_eq!(rated(json!([{ "severity": "info" }])), [1, 0, 0, 0]);
        assert_eq!(rated(json!([{ "severity": "none" }])), [0, 0, 0, 0]);
    }

    #[test]
    fn a_vulnerability_that_does_not_apply_is_not_counted() {
        let in_state = |state: &str| {
            findings(
                json!([{ "id": "CVE-1", "ratings": [{ "severity": "high" }], "analysis": { "state": state } }]),
            )
        };
        for state in ["not_affected", "false_positive", "resolved"] {
            assert_eq!(in_state(state), [0, 0, 0, 0]);
        }
        assert_eq!(in_state("in_triage"), [0, 0, 1, 0]);
    }

    #[test]
    fn a_finding_names_the_component_that_it_is_in() {
        let bom = bom(
            "1.6",
            json!([{ "id": "CVE-1", "ratings": [{ "severity": "high" }], "affects": [{ "ref": "o" }],
                     "description": "reads too far\nand more" }]),
        );
        let found = read(&bom.to_string()).unwrap().summary().unwrap();
        assert_eq!(found.worst, ["openssl@1.1.1: CVE-1: reads too far"]);
    }

    #[test]
    fn other_documents_and_versions_are_refused() {
        let refused = |text: &str| matches!(read(text), Err(ReportError::Unsupported { .. }));
        assert!(refused(&bom("1.3", json!([])).to_string()));
        assert!(refused(&bom("2.0", json!([])).to_string()));
        assert!(refused(r#"{"bomFormat":"SPDX","specVersion":"1.5"}"#));
        assert!(matches!(read("{"), Err(ReportError::Malformed { line: 1, .. })));
        assert!(matches!(read("{\"spdxVersion\":\"2.3\"}"), Err(ReportError::Malformed { .. })));
    }

    #[test]
    fn a_bill_nested_without_end_is_refused() {
        let deep = "{\"name\":\"x\",\"components\":[".repeat(100_000);
        let text =
            format!("{{\"bomFormat\":\"CycloneDX\",\"specVersion\":\"1.6\",\"components\":[{deep}");
        assert!(matches!(read(&text), Err(ReportError::Malformed { .. })));
    }

    proptest! {
        #[test]
        fn no_mutated_bill_makes_the_reader_panic(
            at in any::<prop::sample::Index>(),
            length in 0..12_usize,
            new in "[{}\\[\\]:,\"a-z0-9é-]{0,6}",
        ) {
            let rated = json!([{ "id": "CVE-1", "ratings": [{ "score": 7.5 }], "affects": [{ "ref": "o" }] }]);
            let mut chars: Vec<char> = bom("1.6", rated).to_string().chars().collect();
            let start = at.index(chars.len());
            let end = (start + length).min(chars.len());
            chars.splice(start..end, new.chars());
            let _ = read(&chars.into_iter().collect::<String>());
        }
    }
}
