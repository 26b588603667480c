//! What osv-scanner 2 writes with `--format json`: OSV records of the packages that it found
//! (<https://google.github.io/osv-scanner/output/#json>, <https://ossf.github.io/osv-schema/>).
//!
//! A report without results is also what it writes when it had no database: whoever reads one looks at its exit
//! status first.

use serde::Deserialize;

use super::findings::by_score;
use super::{Format, ReportError, headline, without_mark};
use crate::config::Severity;
use crate::scan::{Finding, Fix};

/// One finding for each group of records that mean the same vulnerability, in each package.
pub fn read(text: &str) -> Result<Vec<Finding>, ReportError> {
    let report: Report = serde_json::from_str(without_mark(text))
        .map_err(|error| ReportError::json(Format::Osv, &error))?;
    let packages = report.results.iter().flat_map(|source| &source.packages);
    Ok(packages.flat_map(Package::findings).collect())
}

#[derive(Deserialize)]
struct Report {
    results: Vec<Source>,
}

#[derive(Deserialize)]
struct Source {
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    package: Identity,
    #[serde(default)]
    vulnerabilities: Vec<Record>,
    #[serde(default)]
    groups: Vec<Group>,
}

#[derive(Deserialize)]
struct Identity {
    name: String,
    #[serde(default)]
    version: String,
}

#[derive(Deserialize)]
struct Group {
    ids: Vec<String>,
    #[serde(default)]
    aliases: Vec<String>,
    /// A CVSS base score as text, or empty.
    #[serde(default)]
    max_severity: String,
}

#[derive(Deserialize)]
struct Record {
    id: String,
    #[serde(default)]
    aliases: Vec<String>,
    #[serde(default)]
    summary: String,
    #[serde(default)]
    details: String,
    #[serde(default)]
    affected: Vec<Affected>,
    #[serde(default)]
    database_specific: Option<serde_json::Value>,
}

#[derive(Deserialize)]
struct Affected {
    #[serde(default)]
    package: Option<Identity>,
    #[serde(default)]
    ranges: Vec<Range>,
}

#[derive(Deserialize)]
struct Range {
    #[serde(default)]
    events: Vec<Event>,
}

#[derive(Deserialize)]
struct Event {
    #[serde(default)]
    fixed: Option<String>,
}

impl Package {
    fn findings(&self) -> Vec<Finding> {
        let grouped = |id: &String| self.groups.iter().any(|group| group.ids.contains(id));
        let lone = self.vulnerabilities.iter().filter(|record| !grouped(&record.id));
        let lone = lone.map(|record| {
            let ids = std::slice::from_ref(&record.id);
            self.finding(ids, &record.aliases, None)
        });
        let groups = self.groups.iter().filter(|group| !group.ids.is_empty());
        let groups = groups.map(|group| {
            let score = group.max_severity.trim().parse().ok();
            self.finding(&group.ids, &group.aliases, score.and_then(by_score))
        });
        groups.chain(lone).collect()
    }

    fn finding(&self, ids: &[String], aliases: &[String], scored: Option<Severity>) -> Finding {
        let records = || self.vulnerabilities.iter().filter(|record| ids.contains(&record.id));
        let Identity { name, version } = &self.package;
        let mut others: Vec<String> =
            ids[1..].iter().chain(aliases).filter(|id| **id != ids[0]).cloned().collect();
        others.sort_unstable();
        others.dedup();
        let title = records().map(|r| if r.summary.is_empty() { &r.details } else { &r.summary });
        Finding {
            id: headline(&ids[0]),
            aliases: others,
            severity: scored.or_else(|| records().filter_map(Record::word).max()),
            place: headline(&format!("{name}@{version}")),
            package: Some(name.clone()),
            path: None,
            fix: fix(records().flat_map(|record| record.fixed_in(name))),
            title: title
                .map(|text| headline(text))
                .find(|text| !text.is_empty())
                .unwrap_or_default(),
        }
    }
}

impl Record {
    /// GitHub's advisories say it in a word too.
    fn word(&self) -> Option<Severity> {
        match self
            .database_specific
            .as_ref()?
            .get("severity")?
            .as_str()?
            .to_ascii_uppercase()
            .as_str()
        {
            "CRITICAL" => Some(Severity::Critical),
            "HIGH" => Some(Severity::High),
            "MODERATE" | "MEDIUM" => Some(Severity::Medium),
            "LOW" => Some(Severity::Low),
            _ => None,
        }
    }

    fn fixed_in<'r>(&'r self, name: &'r str) -> impl Iterator<Item = &'r str> {
        let of_it = move |affected: &&Affected| {
            affected.package.as_ref().is_some_and(|package| package.name == name)
        };
        let events =
            |affected: &'r Affected| affected.ranges.iter().flat_map(|range| &range.events);
        self.affected.iter().filter(of_it).flat_map(events).filter_map(|e| e.fixed.as_deref())
    }
}

fn fix<'a>(versions: impl Iterator<Item = &'a str>) -> Fix {
    let mut known: Vec<&str> = Vec::new();
    for version in versions {
        if !known.contains(&version) && known.len() < 8 {
            known.push(version);
        }
    }
    match known.is_empty() {
        true => Fix::None,
        false => Fix::In(headline(&known.join(", "))),
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture;
    use super::*;

    #[test]
    fn a_real_report_names_package_vulnerability_weight_and_fix() {
        let found = read(fixture!("osv-scanner-2.5.0.json")).unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].id, "GHSA-8r7q-cvjq-x353");
        assert_eq!(found[0].aliases, ["CVE-2014-1402"]);
        assert_eq!(found[0].severity, Some(Severity::Critical));
        assert_eq!(
            (found[0].place.as_str(), found[0].package.as_deref()),
            ("jinja2@2.4.1", Some("jinja2"))
        );
        assert_eq!(found[0].fix, Fix::In("2.7.2".into()));
        assert_eq!(found[0].title, "Incorrect Privilege Assignment in Jinja2");
    }

    #[test]
    fn without_a_score_the_word_of_the_database_counts_and_without_both_nobody_says() {
        let report = |severity: &str| {
            format!(
                r#"{{"results":[{{"packages":[{{"package":{{"name":"p","version":"1"}},
                "groups":[{{"ids":["A-1","B-1"],"aliases":[],"max_severity":""}}],
                "vulnerabilities":[{{"id":"A-1","details":"d\nmore"{severity}}},{{"id":"B-1"}},{{"id":"C-1"}}]}}]}}]}}"#
            )
        };
        let found = read(&report(r#","database_specific":{"severity":"MODERATE"}"#)).unwrap();
        assert_eq!((found.len(), found[0].severity), (2, Some(Severity::Medium)));
        assert_eq!((found[0].aliases.join(" "), found[0].title.as_str()), ("B-1".into(), "d"));
        assert_eq!((found[1].id.as_str(), &found[1].fix), ("C-1", &Fix::None));
        assert_eq!(read(&report("")).unwrap()[0].severity, None);
    }

    #[test]
    fn a_report_that_is_cut_off_empty_or_another_thing_is_refused() {
        let whole = fixture!("osv-scanner-2.5.0.json");
        for text in [
            "",
            "{}",
            "[]",
            r#"{"results":null}"#,
            "No package sources found",
            &whole[..whole.len() / 2],
        ] {
            assert!(read(text).is_err(), "{text} was read");
        }
        assert!(read(r#"{"results":[]}"#).unwrap().is_empty());
    }
}
