//! Reads the reports of a step and judges how it ended.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use domain::Date;
use domain::config::{Severity, Step};
use domain::judge::scan::{Policy, judge};
use domain::pipeline::cause::likeliest;
use domain::pipeline::{FindingSummary, Outcome, TestSummary};
use domain::report::{ReportError, cyclonedx, junit, sarif};
use domain::scan::Finding;
use domain::slot::{Exit, JobOutcome};

use super::error::PipelineError;
use super::files::{PRIVATE, inside, real_inside, write};

/// Larger reports are no reports.
pub(crate) const LARGEST: u64 = 64 << 20;
/// Of more findings nobody can say which of them are lived with.
pub(crate) const MOST: usize = 100_000;

/// What is known of a step after its command.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Reports {
    pub tests: Option<TestSummary>,
    pub findings: Option<FindingSummary>,
    /// Each of the findings, at most [`MOST`].
    pub found: Vec<Finding>,
    /// Why a declared report says nothing.
    pub problem: Option<String>,
}

/// The judgement on one attempt.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Verdict {
    pub outcome: Outcome,
    pub reports: Reports,
    pub cause: Option<String>,
    pub tail: Vec<String>,
}

impl Verdict {
    /// Ended before its command could say anything.
    pub fn without_reports(outcome: Outcome, cause: impl Into<String>, tail: Vec<String>) -> Self {
        Self { outcome, reports: Reports::default(), cause: Some(cause.into()), tail }
    }

    /// Stopped from outside.
    pub fn canceled() -> Self {
        Self::without_reports(Outcome::Canceled, "it was stopped", Vec::new())
    }

    /// A step that answers by its exit status and its reports.
    pub fn of_command(step: &Step, outcome: JobOutcome, reports: Reports) -> Self {
        let failed = |cause: String| (Outcome::Failed, Some(cause));
        let (verdict, cause) = if outcome.exit == Exit::TimedOut {
            (Outcome::TimedOut, Some(too_long(step)))
        } else if let Some(tests) = reports.tests.as_ref().filter(|tests| tests.failed > 0) {
            failed(failed_tests(tests))
        } else if !outcome.exit.success() {
            failed(likeliest(outcome.exit, &outcome.tail))
        } else if let Some(problem) = &reports.problem {
            failed(problem.clone())
        } else {
            (Outcome::Passed, None)
        };
        Self::new(verdict, cause, outcome, reports)
    }

    /// A scanner, which answers by its report alone: many end with 1 when they find something.
    pub fn of_scanner(
        step: &Step,
        policy: &Policy<'_>,
        today: Date,
        outcome: JobOutcome,
        mut reports: Reports,
    ) -> Self {
        let unavailable = |why: String| (Outcome::Unavailable, Some(why));
        let (verdict, cause) = if outcome.exit == Exit::TimedOut {
            (Outcome::TimedOut, Some(too_long(step)))
        } else if let Some(problem) = &reports.problem {
            match outcome.exit.success() {
                true => unavailable(problem.clone()),
                false => {
                    unavailable(format!("{}; {problem}", likeliest(outcome.exit, &outcome.tail)))
                }
            }
        } else {
            match &reports.findings {
                None => unavailable(
                    "the scanner's report does not say that it looked for anything; \
                     have it write its findings (SARIF, or CycloneDX with vulnerabilities)"
                        .into(),
                ),
                Some(findings) if findings.at_least(Severity::Low) as usize > MOST => unavailable(
                    format!("the scanner found more than {MOST} things; give it less to look at"),
                ),
                Some(findings)
                    if !outcome.exit.success() && findings.at_least(Severity::Low) == 0 =>
                {
                    let why = likeliest(outcome.exit, &outcome.tail);
                    unavailable(format!("the scanner failed and found nothing: {why}"))
                }
                Some(_) => {
                    let judged = judge(&reports.found, policy, None, today);
                    reports.findings = Some(judged.summary);
                    match judged.refused {
                        Some(why) => (Outcome::Failed, Some(why)),
                        None => (Outcome::Passed, None),
                    }
                }
            }
        };
        Self::new(verdict, cause, outcome, reports)
    }

    fn new(outcome: Outcome, cause: Option<String>, job: JobOutcome, reports: Reports) -> Self {
        let tail = if outcome == Outcome::Passed { Vec::new() } else { job.tail };
        Self { outcome, reports, cause, tail }
    }
}

fn too_long(step: &Step) -> String {
    format!("it had not ended after its time limit of {:?} and was stopped", step.time_limit)
}

fn failed_tests(tests: &TestSummary) -> String {
    let all = tests.passed + tests.failed + tests.skipped;
    let first = tests.failures.first().map(|first| format!("; first: {first}")).unwrap_or_default();
    format!("{} of {all} tests failed{first}", tests.failed)
}

/// Removes reports that the commit itself, or an attempt before, has left: they are not this attempt's.
pub(crate) fn remove_stale(root: &Path, step: &Step) -> Result<(), PipelineError> {
    for (_, path) in declared(root, step)? {
        let folder = path.parent().and_then(|folder| real_inside(root, folder));
        let (Some(folder), Some(name)) = (folder, path.file_name()) else { continue };
        match fs::remove_file(folder.join(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                let doing = format!("removing the old report {}", path.display());
                return Err(PipelineError::new(doing, error));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Reads the declared reports and keeps copies of them in `keep`.
pub(crate) fn read(root: &Path, step: &Step, keep: &Path) -> Result<Reports, PipelineError> {
    let mut reports = Reports::default();
    for (kind, path) in declared(root, step)? {
        let name = path.strip_prefix(root.join(&step.folder)).unwrap_or(&path);
        let problem = match text(root, &path, kind, keep) {
            Ok(text) => reports.add(kind, &text).err().map(|e| format!("{}: {e}", name.display())),
            Err(why) => Some(format!("the report {} {why}", name.display())),
        };
        reports.problem = reports.problem.take().or(problem);
    }
    Ok(reports)
}

impl Reports {
    fn add(&mut self, kind: Kind, text: &str) -> Result<(), ReportError> {
        match kind {
            Kind::Junit => self.tests = Some(junit::read(text)?),
            Kind::Sarif => {
                self.add_findings(sarif::read(text)?);
                sarif::each(text, &mut |finding| self.keep(finding))?;
            }
            Kind::CycloneDx => {
                let bom = cyclonedx::read(text)?;
                if let Some(findings) = bom.summary() {
                    self.add_findings(findings);
                    bom.findings.into_iter().flatten().for_each(|finding| self.keep(finding));
                }
            }
        }
        Ok(())
    }

    fn keep(&mut self, finding: Finding) {
        if self.found.len() < MOST {
            self.found.push(finding);
        }
    }

    fn add_findings(&mut self, more: FindingSummary) {
        let Some(so_far) = &mut self.findings else {
            self.findings = Some(more);
            return;
        };
        so_far.low += more.low;
        so_far.medium += more.medium;
        so_far.high += more.high;
        so_far.critical += more.critical;
        so_far.worst.extend(more.worst);
    }
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Junit,
    Sarif,
    CycloneDx,
}

fn declared(root: &Path, step: &Step) -> Result<Vec<(Kind, PathBuf)>, PipelineError> {
    let folder = inside(root, &step.folder)?;
    let all = [
        (Kind::Junit, &step.junit),
        (Kind::Sarif, &step.sarif),
        (Kind::CycloneDx, &step.cyclonedx),
    ];
    all.into_iter()
        .filter_map(|(kind, path)| Some((kind, path.as_ref()?)))
        .map(|(kind, path)| inside(&folder, path).map(|path| (kind, path)))
        .collect()
}

/// The text of a report, or what is wrong with the file. What tools quote of the files that they looked at is not
/// kept: a scanner for secrets quotes secrets.
fn text(root: &Path, path: &Path, kind: Kind, keep: &Path) -> Result<String, String> {
    let text = plain_text(root, path)?;
    let plain = match kind {
        Kind::Sarif => sarif::without_quotes(&text).ok(),
        Kind::Junit | Kind::CycloneDx => Some(text.clone()),
    };
    if let Some(plain) = plain {
        let name = path.file_name().unwrap_or_default();
        let kept = write(&keep.join(name), plain.as_bytes(), PRIVATE);
        kept.map_err(|error| format!("cannot be kept: {error}"))?;
    }
    Ok(text)
}

/// The text of a file that a job wrote, or what is wrong with it; a symlink that leads out of `root` is none.
pub(crate) fn plain_text(root: &Path, path: &Path) -> Result<String, String> {
    let missing = || "was not written".to_owned();
    let real = real_inside(root, path).ok_or_else(missing)?;
    let metadata = real.metadata().map_err(|_| missing())?;
    if !metadata.is_file() {
        return Err("is not a file".into());
    }
    if metadata.len() > LARGEST {
        return Err(format!("is larger than {} MiB", LARGEST >> 20));
    }
    let bytes = fs::read(&real).map_err(|error| format!("cannot be read: {error}"))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
