//! SARIF 2.1.0, the format of analysers and scanners
//! (<https://docs.oasis-open.org/sarif/sarif/v2.1.0/sarif-v2.1.0.html>, sections named below).
//!
//! A finding weighs what its rule's `security-severity` says (a CVSS score, as GitHub reads it), and where there is
//! none, its level: `error` is high, `warning` medium, `note` low. A log from which the tool's results are
//! missing is not clean: section 3.14.23 says that results are empty if nothing was found, and absent if it is not known.

use std::collections::HashMap;

use serde::Deserialize;

use super::findings::{Findings, by_score};
use super::{Format, ReportError, headline, without_mark};
use crate::config::Severity;
use crate::pipeline::FindingSummary;
use crate::scan::{self, Fix};

const VERSION: &str = "2.1.0";

/// Counts the findings of all runs in the log that nobody has suppressed.
pub fn read(text: &str) -> Result<FindingSummary, ReportError> {
    let mut findings = Findings::default();
    each(text, &mut |finding| findings.add(finding))?;
    Ok(findings.summary())
}

/// Gives every finding of all runs that nobody has suppressed.
pub fn each(text: &str, give: &mut dyn FnMut(scan::Finding)) -> Result<(), ReportError> {
    let log: Log = serde_json::from_str(without_mark(text))
        .map_err(|error| ReportError::json(Format::Sarif, &error))?;
    if log.version != VERSION {
        let why = format!(
            "it is version `{}`; let the tool write version {VERSION}",
            headline(&log.version)
        );
        return Err(ReportError::Unsupported { format: Format::Sarif, why });
    }
    let runs = log.runs.unwrap_or_default();
    if runs.is_empty() {
        let why = "there is no run in it, so nothing was scanned".into();
        return Err(ReportError::Unsupported { format: Format::Sarif, why });
    }
    runs.iter().try_for_each(|run| run.collect(give))
}

/// The log without the stretches of files that tools quote: what a scanner for secrets quotes is a secret.
pub fn without_quotes(text: &str) -> Result<String, ReportError> {
    let mut log: serde_json::Value = serde_json::from_str(without_mark(text))
        .map_err(|error| ReportError::json(Format::Sarif, &error))?;
    drop_quotes(&mut log);
    Ok(log.to_string())
}

fn drop_quotes(value: &mut serde_json::Value) {
    match value {
        serde_json::Value::Object(keys) => {
            // Sections 3.30.13 (snippet) and 3.24.8 (contents), and the text of fixes, section 3.57.4.
            keys.retain(|key, _| {
                !matches!(key.as_str(), "snippet" | "contents" | "insertedContent")
            });
            keys.values_mut().for_each(drop_quotes);
        }
        serde_json::Value::Array(items) => items.iter_mut().for_each(drop_quotes),
        _ => {}
    }
}

#[derive(Deserialize)]
struct Log {
    version: String,
    runs: Option<Vec<Run>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Run {
    tool: Tool,
    #[serde(default)]
    invocations: Option<Vec<Invocation>>,
    #[serde(default)]
    results: Option<Vec<Finding>>,
    #[serde(default)]
    external_property_file_references: Option<External>,
}

#[derive(Deserialize)]
struct External {
    #[serde(default)]
    results: Option<Vec<serde_json::Value>>,
}

#[derive(Deserialize)]
struct Tool {
    driver: Component,
    #[serde(default)]
    extensions: Option<Vec<Component>>,
}

#[derive(Deserialize)]
struct Component {
    name: String,
    #[serde(default)]
    rules: Option<Vec<Rule>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Rule {
    id: String,
    #[serde(default)]
    default_configuration: Option<Configuration>,
    #[serde(default)]
    properties: Option<Properties>,
    #[serde(default)]
    message_strings: Option<HashMap<String, Message>>,
}

#[derive(Deserialize)]
struct Configuration {
    #[serde(default)]
    level: Option<String>,
}

#[derive(Deserialize)]
struct Properties {
    /// A score from 0.0 to 10.0, as text by GitHub's rules and as a number by some tools.
    #[serde(default, rename = "security-severity")]
    security_severity: Option<serde_json::Value>,
}

impl Properties {
    fn severity(&self) -> Option<Severity> {
        let score = match self.security_severity.as_ref()? {
            serde_json::Value::String(text) => text.trim().parse().ok()?,
            other => other.as_f64()?,
        };
        by_score(score)
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Invocation {
    #[serde(default)]
    execution_successful: Option<bool>,
    #[serde(default)]
    exit_code: Option<i64>,
    #[serde(default)]
    exit_code_description: Option<String>,
    #[serde(default)]
    tool_execution_notifications: Option<Vec<Notification>>,
    #[serde(default)]
    tool_configuration_notifications: Option<Vec<Notification>>,
}

#[derive(Deserialize)]
struct Notification {
    #[serde(default)]
    message: Message,
}

#[derive(Deserialize, Default)]
struct Message {
    #[serde(default)]
    text: Option<String>,
    #[serde(default)]
    id: Option<String>,
    #[serde(default)]
    arguments: Option<Vec<String>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Finding {
    #[serde(default)]
    rule_id: Option<String>,
    #[serde(default)]
    rule_index: Option<i64>,
    #[serde(default)]
    rule: Option<RuleReference>,
    #[serde(default)]
    kind: Option<String>,
    #[serde(default)]
    level: Option<String>,
    #[serde(default)]
    message: Message,
    #[serde(default)]
    locations: Option<Vec<Location>>,
    #[serde(default)]
    suppressions: Option<Vec<Suppression>>,
    #[serde(default)]
    baseline_state: Option<String>,
    #[serde(default)]
    properties: Option<Properties>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RuleReference {
    #[serde(default)]
    id: Option<String>,
    #[serde(default)]
    index: Option<i64>,
    #[serde(default)]
    tool_component: Option<ComponentReference>,
}

#[derive(Deserialize)]
struct ComponentReference {
    #[serde(default)]
    index: Option<i64>,
}

#[derive(Deserialize)]
struct Suppression {
    #[serde(default)]
    status: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Location {
    #[serde(default)]
    physical_location: Option<PhysicalLocation>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PhysicalLocation {
    #[serde(default)]
    artifact_location: Option<ArtifactLocation>,
    #[serde(default)]
    region: Option<Region>,
}

#[derive(Deserialize)]
struct ArtifactLocation {
    #[serde(default)]
    uri: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Region {
    #[serde(default)]
    start_line: Option<u64>,
}

impl Run {
    fn collect(&self, give: &mut dyn FnMut(scan::Finding)) -> Result<(), ReportError> {
        let failed =
            |why: String| ReportError::ToolFailed { tool: headline(&self.tool.driver.name), why };
        let invocations = self.invocations.as_deref().unwrap_or_default();
        if let Some(bad) = invocations.iter().find(|i| i.execution_successful == Some(false)) {
            return Err(failed(bad.why()));
        }
        if self.external_property_file_references.as_ref().is_some_and(External::holds_results) {
            let why = "its results are in other files; let the tool write one file".into();
            return Err(ReportError::Unsupported { format: Format::Sarif, why });
        }
        let Some(results) = &self.results else {
            // Some tools leave the key out when they found nothing; they must at least say that they succeeded.
            let succeeded = invocations.iter().any(|i| i.execution_successful == Some(true));
            return if succeeded {
                Ok(())
            } else {
                Err(failed("the report has no results".into()))
            };
        };
        let rules = self.tool.by_id();
        for finding in results {
            let rule = finding.rule(&self.tool, &rules);
            if let Some(severity) = finding.severity(rule) {
                give(finding.plain(rule, severity));
            }
        }
        Ok(())
    }
}

impl External {
    fn holds_results(&self) -> bool {
        self.results.as_ref().is_some_and(|files| !files.is_empty())
    }
}

impl Invocation {
    /// The tool's own words about its failure.
    fn why(&self) -> String {
        let lists = [&self.tool_execution_notifications, &self.tool_configuration_notifications];
        let said = lists.into_iter().flatten().flatten().filter_map(|n| n.message.text.as_deref());
        let mut said = said.chain(self.exit_code_description.as_deref()).map(headline);
        said.find(|words| !words.is_empty()).unwrap_or_else(|| match self.exit_code {
            Some(code) => format!("it ended with exit code {code}"),
            None => "it gives no reason".into(),
        })
    }
}

impl Tool {
    fn components(&self) -> impl Iterator<Item = &Component> {
        std::iter::once(&self.driver).chain(self.extensions.iter().flatten())
    }

    fn by_id(&self) -> HashMap<&str, &Rule> {
        // The driver's own rules come last, so that they win.
        let all: Vec<&Rule> = self.components().flat_map(|c| c.rules.iter().flatten()).collect();
        all.into_iter().rev().map(|rule| (rule.id.as_str(), rule)).collect()
    }
}

impl Finding {
    fn id(&self) -> Option<&str> {
        self.rule_id.as_deref().or_else(|| self.rule.as_ref()?.id.as_deref())
    }

    /// By index (section 3.52.5), else by id; `CA1000/1` belongs to rule `CA1000` (section 3.5.4).
    fn rule<'t>(&self, tool: &'t Tool, by_id: &HashMap<&str, &'t Rule>) -> Option<&'t Rule> {
        let reference = self.rule.as_ref();
        let index = self.rule_index.or_else(|| reference?.index);
        let component = match reference.and_then(|r| r.tool_component.as_ref()?.index) {
            Some(extension) => {
                usize::try_from(extension).ok().and_then(|i| tool.extensions.as_ref()?.get(i))
            }
            None => Some(&tool.driver),
        };
        let indexed = index
            .and_then(|index| component?.rules.as_ref()?.get(usize::try_from(index).ok()?))
            .filter(|rule| self.id().is_none_or(|id| id.starts_with(rule.id.as_str())));
        indexed.or_else(|| {
            let parents =
                std::iter::successors(self.id(), |id| id.rsplit_once('/').map(|(p, _)| p));
            parents.into_iter().find_map(|id| by_id.get(id).copied())
        })
    }

    /// `None` if it is no finding: passed, suppressed, gone since the baseline.
    fn severity(&self, rule: Option<&Rule>) -> Option<Severity> {
        if self.is_suppressed() || self.baseline_state.as_deref() == Some("absent") {
            return None;
        }
        let kind = self.kind.as_deref().unwrap_or("fail");
        if matches!(kind, "pass" | "notApplicable" | "informational") {
            return None;
        }
        let own = self.properties.as_ref().and_then(Properties::severity);
        let scored = own.or_else(|| rule?.properties.as_ref()?.severity());
        scored.or_else(|| match self.level(rule) {
            "error" => Some(Severity::High),
            // The tool could not decide (`open`) or wants a person to (`review`): not clean.
            "none" if kind != "fail" => Some(Severity::Low),
            "none" => None,
            "note" => Some(Severity::Low),
            _ => Some(Severity::Medium),
        })
    }

    fn level<'a>(&'a self, rule: Option<&'a Rule>) -> &'a str {
        let default = || rule?.default_configuration.as_ref()?.level.as_deref();
        self.level.as_deref().or_else(default).unwrap_or("warning")
    }

    /// Suppressed only when everybody agrees: one that is under review or rejected keeps the finding alive.
    fn is_suppressed(&self) -> bool {
        let accepted =
            |s: &Suppression| s.status.as_deref().is_none_or(|status| status == "accepted");
        self.suppressions.as_ref().is_some_and(|all| !all.is_empty() && all.iter().all(accepted))
    }

    fn plain(&self, rule: Option<&Rule>, severity: Severity) -> scan::Finding {
        let place = self.locations.iter().flatten().find_map(|l| l.physical_location.as_ref());
        let file = place.and_then(|p| p.artifact_location.as_ref()?.uri.as_deref());
        let line = place.and_then(|p| p.region.as_ref()?.start_line);
        let place = match (file, line) {
            (Some(file), Some(line)) => format!("{}:{line}", headline(file)),
            (Some(file), None) => headline(file),
            (None, _) => "(no file)".into(),
        };
        let id = self.id().or(rule.map(|rule| rule.id.as_str())).unwrap_or("(no rule)");
        scan::Finding {
            id: headline(id),
            aliases: Vec::new(),
            severity: Some(severity),
            place,
            package: None,
            path: file.map(headline),
            fix: Fix::NotSaid,
            title: headline(&self.message.words(rule)),
        }
    }
}

impl Message {
    /// Its text, or the rule's text that it names, with `{0}` filled in (section 3.11).
    fn words(&self, rule: Option<&Rule>) -> String {
        let named = || rule?.message_strings.as_ref()?.get(self.id.as_deref()?)?.text.clone();
        let template = headline(&self.text.clone().or_else(named).unwrap_or_default());
        let arguments = self.arguments.as_deref().unwrap_or_default();
        // One pass, so that an argument that looks like a placeholder cannot grow the text without end.
        let mut words = String::new();
        let mut rest = template.as_str();
        while let Some((before, after)) = rest.split_once('{') {
            words.push_str(before);
            match placeholder(after, arguments) {
                Some((value, after)) => {
                    words.push_str(&headline(value));
                    rest = after;
                }
                None => {
                    words.push('{');
                    rest = after;
                }
            }
        }
        words + rest
    }
}

/// The argument that `0}...` stands for, and what follows.
fn placeholder<'a>(text: &'a str, arguments: &'a [String]) -> Option<(&'a str, &'a str)> {
    let (index, rest) = text.split_once('}')?;
    Some((arguments.get(index.parse::<usize>().ok()?)?, rest))
}

#[cfg(test)]
mod tests;
