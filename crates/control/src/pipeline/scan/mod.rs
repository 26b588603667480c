//! The scan gate's own steps: looks for something in what was built, with a tool of the machine.
//!
//! ```text
//! artifact ─▶ image archive, or its folder ─▶ syft ─▶ bill of materials, kept ─┐
//!                                                                              ├─▶ findings ─▶ domain::judge::scan
//! commit ─▶ clean tree ─▶ hadolint, gitleaks, ... ────────── osv-scanner, ... ◀┘
//! ```
//!
//! A tool is a file of its own here, and a word in `domain::scan::Tool`: how it is called, and what its exit status and
//! its report mean. All of them run as jobs of the process engine, like the user's own steps: without privileges, with a
//! time limit, their output in the step's log. A tool that is missing, that crashed, whose database is missing or old,
//! whose report cannot be read, has no answer: the step is `unavailable`, which refuses.

mod bench;
mod bill;
mod detect_secrets;
mod gitleaks;
mod grype;
mod hadolint;
mod osv_scanner;
mod program;
mod scanner;
mod subject;
mod syft;
mod trivy;

use std::path::Path;

use domain::ServiceName;
use domain::config::{Project, Scan};
use domain::judge::scan::{Judgement, Policy, judge};
use domain::pipeline::{Outcome, StepResult};
use domain::scan::{Finding, Ignore, Inspection, Rules, Tool};
use domain::slot::{ArtifactRef, Location};
use tokio_util::sync::CancellationToken;

use super::error::PipelineError;
use super::files::{OPEN, inside, write, write_json};
use super::verdict::{MOST, Reports, Verdict};
use super::{Inner, StepRequest, checkout, result, reuse};
use bench::{Bench, Halt};
use program::Wanted;
use scanner::Scanner;

/// What was looked at, and what was found.
#[derive(Default)]
struct Seen {
    findings: Vec<Finding>,
    /// What people should know beside.
    notes: Vec<String>,
}

impl Inner {
    /// Performs an inspection to its verdict.
    pub(super) async fn inspect(
        &self,
        request: &StepRequest<'_>,
        inspection: Inspection,
        folder: &Path,
        cancel: &CancellationToken,
    ) -> Result<StepResult, PipelineError> {
        let Scan::On { fail_on, rules, .. } = &request.project.build.scan else {
            return Ok(result::no_scanner());
        };
        let bench = self.bench(request, folder, cancel).await?;
        let seen = match inspection {
            Inspection::Artifacts => self.look_at_artifacts(&bench, request, rules).await,
            Inspection::Dockerfiles => self.look_at_dockerfiles(&bench, request, rules).await,
            Inspection::Secrets => self.look_at_tree(&bench, request, rules).await,
        };
        let seen = match seen {
            Ok(seen) if seen.findings.len() > MOST => Err(Halt::unavailable(format!(
                "more than {MOST} findings; give it less to look at"
            ))),
            other => other,
        };
        let verdict = match seen {
            Ok(seen) => {
                let kept = folder.join("reports").join("findings.json");
                write_json(&kept, &seen.findings)?;
                let policy = Policy {
                    fail_on: *fail_on,
                    fixable_only: rules.fixable_only,
                    ignore: &rules.ignore,
                };
                let today = reuse::now().date();
                let mut judged = judge(&seen.findings, &policy, Some(inspection), today);
                judged.summary.notes.splice(0..0, seen.notes);
                bench.say_all(&judged.summary.worst);
                bench.say_all(&judged.summary.notes);
                of_judgement(judged)
            }
            Err(Halt::Canceled) => Verdict::canceled(),
            Err(Halt::Unavailable { why, tail }) => {
                bench.say(&why);
                Verdict::without_reports(Outcome::Unavailable, why, tail)
            }
            Err(Halt::Ours(error)) => return Err(error),
        };
        Ok(result::of_verdict(verdict, 1))
    }

    /// What each artifact is made of, and what is known to be vulnerable in it.
    async fn look_at_artifacts(
        &self,
        bench: &Bench<'_>,
        request: &StepRequest<'_>,
        rules: &Rules,
    ) -> Result<Seen, Halt> {
        if request.built().next().is_none() {
            return Err(Halt::unavailable("nothing was built that could be looked at"));
        }
        let bills = bench.program(&Wanted::SBOM, rules.sbom)?;
        let scanner = match bench.program(&Wanted::VULNERABILITIES, rules.vulnerabilities)? {
            Some(program) => Some(Scanner::ready(program, &rules.database, bench)?),
            None => None,
        };
        let mut seen = Seen::default();
        for (service, artifact) in request.built() {
            let name = &part_name(service, artifact, request);
            let bill = match &bills {
                Some(syft) => Some(self.bill(bench, syft, name, artifact).await?),
                None => None,
            };
            let Some(scanner) = &scanner else { continue };
            if bill.as_ref().is_some_and(|bill| bill.components == 0) {
                seen.notes.push(format!(
                    "{name}: no package was found in it, so there was nothing to look up"
                ));
                continue;
            }
            let subject = match bill {
                Some(bill) => bill.subject,
                None => bench.subject(name, artifact).await?,
            };
            for mut finding in scanner.scan(bench, name, &subject).await? {
                finding.place = format!("{name}: {}", finding.place);
                seen.findings.push(finding);
            }
        }
        if scanner.is_none() {
            seen.notes.push(not_looked(Wanted::VULNERABILITIES.key));
        }
        if bills.is_none() {
            seen.notes.push(not_looked(Wanted::SBOM.key));
        }
        Ok(seen)
    }

    async fn look_at_dockerfiles(
        &self,
        bench: &Bench<'_>,
        request: &StepRequest<'_>,
        rules: &Rules,
    ) -> Result<Seen, Halt> {
        let Some(program) = bench.program(&Wanted::DOCKERFILES, rules.dockerfiles)? else {
            return Ok(Seen::default());
        };
        let mut names = Vec::new();
        for (service, _, built) in request.project.built() {
            let (name, text) = match &built.options.inline {
                Some(text) => (format!("{service}.Dockerfile"), Some(text.clone().into_bytes())),
                None => {
                    let path = Path::new(&built.context).join(&built.dockerfile);
                    let name = path.display().to_string();
                    let text = self.repository.bytes(request.commit, &name).await?;
                    (name, text)
                }
            };
            if let Some(text) = text
                && !names.contains(&name)
            {
                let path = inside(&bench.tree(), &name)?;
                write(&path, &text, OPEN)
                    .map_err(|e| PipelineError::new(format!("laying out {name}"), e))?;
                names.push(name);
            }
        }
        if names.is_empty() {
            return Err(Halt::unavailable(format!(
                "the commit has no Dockerfile that could be looked at; write `build.scan.{}: off`",
                Wanted::DOCKERFILES.key
            )));
        }
        Ok(Seen { findings: hadolint::lint(bench, &program, &names).await?, notes: Vec::new() })
    }

    async fn look_at_tree(
        &self,
        bench: &Bench<'_>,
        request: &StepRequest<'_>,
        rules: &Rules,
    ) -> Result<Seen, Halt> {
        let Some(program) = bench.program(&Wanted::SECRETS, rules.secrets)? else {
            return Ok(Seen::default());
        };
        let tree = bench.tree();
        if !tree.exists() {
            let fresh = tree.with_extension("new");
            checkout::export_fresh(
                &self.repository,
                request.commit,
                "",
                &fresh,
                self.config.run_as,
            )
            .await?;
            std::fs::rename(&fresh, &tree)
                .map_err(|e| PipelineError::new("placing the tree to look at", e))?;
        }
        let findings = match program.tool {
            Tool::DetectSecrets => detect_secrets::search(bench, &program).await?,
            _ => gitleaks::search(bench, &program).await?,
        };
        Ok(Seen { findings, notes: Vec::new() })
    }
}

/// The service; of one that runs as processes and in containers, its tree has a longer name than its image.
fn part_name(service: &ServiceName, artifact: &ArtifactRef, request: &StepRequest<'_>) -> String {
    let both = request.built().filter(|(name, _)| *name == service).count() > 1;
    match (&artifact.location, both) {
        (Location::Folder(_), true) => format!("{service}.tree"),
        _ => service.to_string(),
    }
}

fn of_judgement(judged: Judgement) -> Verdict {
    let outcome = if judged.refused.is_some() { Outcome::Failed } else { Outcome::Passed };
    let reports = Reports { findings: Some(judged.summary), ..Reports::default() };
    Verdict { outcome, reports, cause: judged.refused, tail: Vec::new() }
}

fn not_looked(key: &str) -> String {
    format!("nobody looked for {key}: `build.scan.{key}` is off")
}

/// What the project lives with for a while.
pub(super) fn ignored(project: &Project) -> &[Ignore] {
    match &project.build.scan {
        Scan::On { rules, .. } => &rules.ignore,
        Scan::Off => &[],
    }
}
