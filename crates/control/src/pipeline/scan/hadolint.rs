//! hadolint (<https://github.com/hadolint/hadolint>): mistakes in Dockerfiles.
//!
//! `# hadolint ignore=` in a Dockerfile has neither reason nor day: what is to be ignored is said in `launchway.yaml`.

use domain::report;
use domain::scan::Finding;

use super::bench::{Bench, Call, Halt, quoted, word};
use super::program::Program;

/// Lints the files called `names` in the bench's tree. With `--no-fail` hadolint ends with 0 unless it could not read a
/// file; its report is empty then, which is no JSON.
pub(super) async fn lint(
    bench: &Bench<'_>,
    program: &Program,
    names: &[String],
) -> Result<Vec<Finding>, Halt> {
    let files: Vec<String> = names.iter().map(|name| word(name)).collect();
    let call = Call {
        name: "hadolint".into(),
        command: format!(
            "cd {} && exec {} --no-fail --disable-ignore-pragma -f json -- {} > {}",
            quoted(&bench.tree()),
            quoted(&program.path),
            files.join(" "),
            quoted(&bench.out().join("hadolint.json"))
        ),
        env: Default::default(),
        report: "hadolint.json".into(),
    };
    let called = bench.call(program, &call).await?;
    if !called.outcome.exit.success() {
        return Err(called.no_answer(program, "it could not look at the Dockerfiles"));
    }
    let findings = called
        .report
        .as_deref()
        .map_err(|why| format!("its report {why}"))
        .and_then(|text| report::hadolint::read(text).map_err(|e| e.to_string()));
    match findings {
        Ok(findings) => {
            bench.keep("hadolint.json", called.report.as_deref().unwrap_or_default())?;
            Ok(findings)
        }
        Err(why) => Err(called.no_answer(program, &why)),
    }
}
