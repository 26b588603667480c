//! The scan gate as it is written, and what it means: what is looked for, with what, and what is lived with.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

use super::file::Step as FileStep;
use super::findings::Findings;
use super::mistake::{Extent, Mistakes};
use super::paths::checked;
use super::project::{Scan as CheckedScan, Severity, Step};
use super::reader::{At, FromNode, mapping, words};
use super::steps::positive;
use super::yaml::{Node, Value};
use crate::Date;
use crate::scan::{Choice, Database, Ignore, Inspection, Rules, Tool};
use crate::units::Span;

mapping! {
    /// The policy of the scan gate.
    ScanRules, "`scan`" {
        /// Findings of this severity or worse refuse the release, by default high. Unrated ones count as high.
        "fail_on" fail_on: Option<Severity>,
        /// Vulnerabilities without a fixed version are shown and do not refuse; by default false.
        "fixable_only" fixable_only: Option<bool>,
        /// Who lists what each artifact is made of (CycloneDX); by default auto where images are built, else off.
        "sbom" sbom: Option<SbomTool>,
        /// Who looks up known vulnerabilities; by default auto where images are built, else off.
        "vulnerabilities" vulnerabilities: Option<VulnerabilityTool>,
        /// The scanner's database.
        "database" database: Option<DatabaseRules>,
        /// Who lints Dockerfiles; by default auto where images are built, else off.
        "dockerfiles" dockerfiles: Option<DockerfileTool>,
        /// Who looks for secrets in the tree; by default auto where images are built, else off.
        "secrets" secrets: Option<SecretTool>,
        /// Findings to live with for a while.
        "ignore" ignore: Option<Vec<At<IgnoreRule>>>,
        /// Further scanners: each writes a SARIF or CycloneDX report.
        "steps" steps: Option<Vec<FileStep>>,
    }
}

mapping! {
    /// The database of known vulnerabilities.
    DatabaseRules, "`database`" {
        /// An absolute folder of the machine with the scanner's own files; nothing is fetched then.
        "path" path: Option<At<String>>,
        /// One that is older does not count, by default 7d.
        "max_age" max_age: Option<At<Span>>,
    }
}

mapping! {
    /// A finding to live with until a day.
    IgnoreRule, "an `ignore`" {
        /// Of the vulnerability (`CVE-2024-1234`) or of the rule.
        "id" id: At<String>,
        /// Why it does no harm here.
        "reason" reason: At<String>,
        /// The last day on which it is ignored; after that it refuses.
        "expires" expires: At<Date>,
        /// Only in this package.
        "package" package: Option<At<String>>,
        /// Only in this file or folder, from the project's root.
        "path" path: Option<At<String>>,
    }
}

/// The words for who does something: `auto`, `off`, or a tool.
macro_rules! tools {
    ($($(#[doc = $doc:literal])* $name:ident: $($word:literal => $tool:ident),*;)*) => {
        $(
            $(#[doc = $doc])*
            #[derive(Debug, Clone, Copy, PartialEq)]
            pub(super) struct $name(Choice);

            words! {
                $name: "auto" => $name(Choice::Auto), "off" => $name(Choice::Off),
                    $($word => $name(Choice::Only(Tool::$tool))),*;;
            }

            impl JsonSchema for $name {
                fn schema_name() -> Cow<'static, str> {
                    stringify!($name).into()
                }
                fn json_schema(_: &mut SchemaGenerator) -> Schema {
                    let words = ["auto", "off", $($word),*];
                    let about = [$($doc),*].concat();
                    json_schema!({ "enum": words, "description": about.trim() })
                }
            }
        )*
    };
}

tools! {
    /// `auto` is the first that the machine has; `off` is nobody, in writing.
    SbomTool: "syft" => Syft;
    /// `auto` is the first that the machine has; `off` is nobody, in writing.
    VulnerabilityTool: "trivy" => Trivy, "grype" => Grype, "osv-scanner" => OsvScanner;
    /// `auto` is the first that the machine has; `off` is nobody, in writing.
    DockerfileTool: "hadolint" => Hadolint;
    /// `auto` is the first that the machine has; `off` is nobody, in writing.
    SecretTool: "gitleaks" => Gitleaks, "detect-secrets" => DetectSecrets;
}

words! {
    Severity: "low" => Severity::Low, "medium" => Severity::Medium,
        "high" => Severity::High, "critical" => Severity::Critical;;
}

/// `scan: off`, or its rules.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Scan {
    Off,
    On(ScanRules),
}

impl FromNode for Scan {
    fn read(node: &Node, mistakes: &mut Mistakes<'_>) -> Option<Self> {
        match &node.value {
            Value::Scalar { text, .. } if text == "off" => Some(Self::Off),
            Value::Scalar { text, .. } => {
                let message = format!("`scan` cannot be `{text}`");
                mistakes.add(
                    node.extent,
                    message,
                    "write `scan: off`, or `scan: { fail_on: high, steps: [...] }`",
                );
                None
            }
            _ => ScanRules::read(node, mistakes).map(Self::On),
        }
    }
}

impl JsonSchema for Scan {
    fn schema_name() -> Cow<'static, str> {
        "Scan".into()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let rules = generator.subschema_for::<ScanRules>();
        json_schema!({ "anyOf": [{ "const": "off" }, rules] })
    }
}

/// The gate with its defaults: where `images` are built, everything is looked for unless the file says otherwise.
pub(super) fn scan(
    file: Option<&Scan>,
    images: bool,
    found: &mut Findings<'_>,
    read_steps: impl FnOnce(&[FileStep], &mut Findings<'_>) -> Vec<Step>,
) -> CheckedScan {
    let file = match file {
        Some(Scan::Off) => return CheckedScan::Off,
        Some(Scan::On(rules)) => Some(rules),
        None => None,
    };
    let steps = file.and_then(|rules| rules.steps.as_deref()).unwrap_or_default();
    for step in steps {
        needs_report(step, &mut found.launchway);
        needs_own_name(step, &mut found.launchway);
    }
    let steps = read_steps(steps, found);
    CheckedScan::On {
        fail_on: file.and_then(|rules| rules.fail_on).unwrap_or(Severity::High),
        steps,
        rules: Box::new(rules(file, images, &mut found.launchway)),
    }
}

fn rules(file: Option<&ScanRules>, images: bool, mistakes: &mut Mistakes<'_>) -> Rules {
    let default = if images { Choice::Auto } else { Choice::Off };
    let Some(file) = file else {
        return Rules {
            sbom: default,
            vulnerabilities: default,
            dockerfiles: default,
            secrets: default,
            ..Rules::default()
        };
    };
    Rules {
        fixable_only: file.fixable_only.unwrap_or(false),
        sbom: file.sbom.map_or(default, |tool| tool.0),
        vulnerabilities: file.vulnerabilities.map_or(default, |tool| tool.0),
        database: database(file.database.as_ref(), mistakes),
        dockerfiles: file.dockerfiles.map_or(default, |tool| tool.0),
        secrets: file.secrets.map_or(default, |tool| tool.0),
        ignore: file.ignore.iter().flatten().filter_map(|rule| ignore(rule, mistakes)).collect(),
    }
}

fn database(file: Option<&DatabaseRules>, mistakes: &mut Mistakes<'_>) -> Database {
    let mut database = Database::default();
    let Some(file) = file else { return database };
    if let Some(age) = file.max_age.as_ref().and_then(|age| positive(age, mistakes)) {
        database.max_age = age;
    }
    if let Some(path) = &file.path {
        if !path.value.starts_with('/') {
            mistakes.add(
                path.extent,
                format!("`{}` is no absolute path", path.value),
                "the database lies on the machine that scans, not in the commit: write its whole path, like \
                 `/var/lib/osv`",
            );
        }
        database.path = Some(path.value.clone());
    }
    database
}

fn ignore(rule: &At<IgnoreRule>, mistakes: &mut Mistakes<'_>) -> Option<Ignore> {
    let IgnoreRule { id, reason, expires, package, path } = &rule.value;
    let path = match path {
        Some(path) => Some(checked(path, "the project", mistakes)?),
        None => None,
    };
    Some(Ignore {
        id: id.value.clone(),
        package: package.as_ref().map(|package| package.value.clone()),
        path,
        reason: reason.value.clone(),
        expires: expires.value,
        line: line(id.extent, mistakes),
    })
}

fn line(extent: Extent, mistakes: &Mistakes<'_>) -> usize {
    mistakes.at(extent, String::new(), String::new()).line
}

fn needs_report(step: &FileStep, mistakes: &mut Mistakes<'_>) {
    if step.sarif.is_none() && step.cyclonedx.is_none() {
        mistakes.add(
            step.name.extent,
            format!("the scanner `{}` writes no report that could be read", step.name.value),
            "add `sarif: <file>` or `cyclonedx: <file>`",
        );
    }
}

fn needs_own_name(step: &FileStep, mistakes: &mut Mistakes<'_>) {
    let name = &step.name;
    if Inspection::ALL.iter().any(|inspection| inspection.step() == name.value.as_str()) {
        let message = format!("`{}` is the name of a step of Launchway's own", name.value);
        mistakes.add(name.extent, message, "give it another name");
    }
}
