//! What the scan gate looks for, with which tools, and what somebody has decided to live with.
//!
//! `config` reads [`Rules`]; adapters make [`Finding`]s of what tools report; [`crate::judge::scan`] judges them.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::config::Severity;
use crate::time::Date;

/// What is looked for beside the steps that the file names. By default nothing, as in releases of before there
/// was any of it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Rules {
    /// Vulnerabilities without a fixed version are shown and do not refuse.
    pub fixable_only: bool,
    /// A bill of materials of each artifact.
    pub sbom: Choice,
    /// Known vulnerabilities in what artifacts are made of.
    pub vulnerabilities: Choice,
    pub database: Database,
    /// Mistakes in Dockerfiles.
    pub dockerfiles: Choice,
    /// Secrets in the commit's tree.
    pub secrets: Choice,
    pub ignore: Vec<Ignore>,
}

impl Rules {
    /// What is to be done, in the order in which it is shown.
    pub fn inspections(&self) -> impl Iterator<Item = Inspection> {
        let wanted = |inspection: &Inspection| match inspection {
            Inspection::Artifacts => {
                self.sbom != Choice::Off || self.vulnerabilities != Choice::Off
            }
            Inspection::Dockerfiles => self.dockerfiles != Choice::Off,
            Inspection::Secrets => self.secrets != Choice::Off,
        };
        [Inspection::Artifacts, Inspection::Dockerfiles, Inspection::Secrets]
            .into_iter()
            .filter(wanted)
    }
}

/// One step of the scan stage that Launchway does itself, with a tool of the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Inspection {
    /// What each artifact is made of, and what is known to be vulnerable in it.
    Artifacts,
    Dockerfiles,
    Secrets,
}

impl Inspection {
    pub const ALL: [Self; 3] = [Self::Artifacts, Self::Dockerfiles, Self::Secrets];

    /// The name of its step.
    pub fn step(self) -> &'static str {
        match self {
            Self::Artifacts => "scan artifacts",
            Self::Dockerfiles => "scan dockerfiles",
            Self::Secrets => "scan secrets",
        }
    }
}

/// Who does it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Choice {
    /// Nobody, in writing or by default.
    #[default]
    Off,
    /// The first tool for it that the machine has.
    Auto,
    Only(Tool),
}

/// A program that Launchway knows how to ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Tool {
    Trivy,
    Grype,
    OsvScanner,
    Syft,
    Hadolint,
    Gitleaks,
    DetectSecrets,
}

impl Tool {
    /// Those that look vulnerabilities up, in the order in which `auto` looks for them.
    pub const VULNERABILITIES: [Self; 3] = [Self::Trivy, Self::Grype, Self::OsvScanner];
    pub const SBOM: [Self; 1] = [Self::Syft];
    pub const DOCKERFILES: [Self; 1] = [Self::Hadolint];
    pub const SECRETS: [Self; 2] = [Self::Gitleaks, Self::DetectSecrets];

    /// The name of its program, which is its name in `launchway.yaml`.
    pub fn program(self) -> &'static str {
        match self {
            Self::Trivy => "trivy",
            Self::Grype => "grype",
            Self::OsvScanner => "osv-scanner",
            Self::Syft => "syft",
            Self::Hadolint => "hadolint",
            Self::Gitleaks => "gitleaks",
            Self::DetectSecrets => "detect-secrets",
        }
    }
}

/// The database of known vulnerabilities.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Database {
    /// An absolute folder of the machine with the scanner's own files: it is used as it is, and no network.
    /// `None`: the scanner gets and renews its database by itself.
    pub path: Option<String>,
    /// One that is older does not count.
    pub max_age: Duration,
}

impl Default for Database {
    fn default() -> Self {
        Self { path: None, max_age: Duration::from_secs(7 * 86_400) }
    }
}

/// A finding that somebody has decided to live with until a day.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ignore {
    /// Of the vulnerability, or of the rule that found it.
    pub id: String,
    /// Only in this package.
    pub package: Option<String>,
    /// Only in this file or folder.
    pub path: Option<String>,
    pub reason: String,
    /// The last day on which it counts, UTC.
    pub expires: Date,
    /// In `launchway.yaml`.
    pub line: usize,
}

impl Ignore {
    /// Whether it is about this finding.
    pub fn covers(&self, finding: &Finding) -> bool {
        let same = |a: &str, b: &str| a.eq_ignore_ascii_case(b);
        let named =
            same(&self.id, &finding.id) || finding.aliases.iter().any(|a| same(&self.id, a));
        let in_package = self
            .package
            .as_ref()
            .is_none_or(|wanted| finding.package.as_ref().is_some_and(|own| same(wanted, own)));
        let in_path = self.path.as_ref().is_none_or(|wanted| {
            let below = |rest: &str| rest.is_empty() || rest.starts_with('/');
            finding
                .path
                .as_ref()
                .and_then(|own| own.strip_prefix(wanted.as_str()))
                .is_some_and(below)
        });
        named && in_package && in_path
    }

    pub fn expired(&self, today: Date) -> bool {
        today > self.expires
    }

    /// Which inspection would have such a finding, by the look of its id.
    pub fn belongs_to(&self) -> Inspection {
        let lint = |rest: &str| !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_digit());
        if ["DL", "SC"].iter().any(|prefix| self.id.strip_prefix(prefix).is_some_and(lint)) {
            return Inspection::Dockerfiles;
        }
        let shouts = self.id.split('-').next().is_some_and(|first| {
            first.len() > 1 && first.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit())
        });
        match shouts && self.id.contains('-') {
            true => Inspection::Artifacts,
            false => Inspection::Secrets,
        }
    }
}

/// Something that a tool found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// `CVE-2024-1234`, `DL3006`.
    pub id: String,
    /// Other names of the same vulnerability.
    pub aliases: Vec<String>,
    /// `None`: nobody says.
    pub severity: Option<Severity>,
    /// For people: `jinja2@2.4.1 in backend`, `Dockerfile:3`.
    pub place: String,
    pub package: Option<String>,
    /// From the project's root.
    pub path: Option<String>,
    pub fix: Fix,
    pub title: String,
}

impl Finding {
    /// All of it in one line, for people.
    pub fn line(&self) -> String {
        let Self { id, place, title, .. } = self;
        let also = match self.aliases.as_slice() {
            [] => String::new(),
            names => format!(" ({})", names.join(", ")),
        };
        let unrated = if self.severity.is_none() { "; nobody says how bad it is" } else { "" };
        let fix = match &self.fix {
            Fix::In(versions) => format!("; fixed in {versions}"),
            Fix::None => "; no fixed version yet".into(),
            Fix::NotSaid => String::new(),
        };
        format!("{place}: {id}{also}: {title}{unrated}{fix}")
    }
}

/// Whether there is a version without it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fix {
    /// In these versions.
    In(String),
    /// Its makers have none yet.
    None,
    /// The report does not say, or it is no vulnerability of a package.
    NotSaid,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ignore(id: &str, package: Option<&str>, path: Option<&str>) -> Ignore {
        Ignore {
            id: id.into(),
            package: package.map(Into::into),
            path: path.map(Into::into),
            reason: "not reachable".into(),
            expires: "2026-12-31".parse().unwrap(),
            line: 7,
        }
    }

    fn finding() -> Finding {
        Finding {
            id: "GHSA-8r7q-cvjq-x353".into(),
            aliases: vec!["CVE-2014-1402".into()],
            severity: Some(Severity::High),
            place: "jinja2@2.4.1".into(),
            package: Some("jinja2".into()),
            path: Some("backend/requirements.txt".into()),
            fix: Fix::None,
            title: String::new(),
        }
    }

    #[test]
    fn an_ignore_covers_what_has_its_id_in_its_package_and_path() {
        let covers = |id, package, path| ignore(id, package, path).covers(&finding());
        assert!(covers("GHSA-8r7q-cvjq-x353", None, None) && covers("cve-2014-1402", None, None));
        assert!(covers("CVE-2014-1402", Some("Jinja2"), Some("backend")));
        assert!(
            !covers("CVE-2014-1402", Some("flask"), None) && !covers("CVE-2014-140", None, None)
        );
        assert!(
            !covers("CVE-2014-1402", None, Some("back"))
                && !covers("CVE-2014-1402", None, Some("web"))
        );
    }

    #[test]
    fn an_ignore_counts_on_its_last_day_and_not_after_it() {
        let ignore = ignore("CVE-1", None, None);
        assert!(!ignore.expired("2026-12-31".parse().unwrap()));
        assert!(ignore.expired("2027-01-01".parse().unwrap()));
    }

    #[test]
    fn an_id_tells_who_would_find_it() {
        let belongs = |id| ignore(id, None, None).belongs_to();
        for id in
            ["CVE-2024-1", "GHSA-8r7q-cvjq-x353", "PYSEC-2019-217", "GO-2022-0969", "DSA-5000-1"]
        {
            assert_eq!(belongs(id), Inspection::Artifacts, "{id}");
        }
        assert_eq!(
            (belongs("DL3008"), belongs("SC2046")),
            (Inspection::Dockerfiles, Inspection::Dockerfiles)
        );
        assert_eq!(
            (belongs("generic-api-key"), belongs("Secret Keyword")),
            (Inspection::Secrets, Inspection::Secrets)
        );
    }
}
