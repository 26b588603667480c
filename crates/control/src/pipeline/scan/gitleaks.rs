//! gitleaks (<https://github.com/gitleaks/gitleaks>): secrets in a tree, by the rules of its `.gitleaks.toml` or its own.
//!
//! `gitleaks:allow` in a line and `.gitleaksignore` have neither reason nor day: what is to be ignored is said in
//! `launchway.yaml`. Its report is not kept, only what we made of it: that has no secret in it.

use domain::report::secrets;
use domain::scan::Finding;
use domain::slot::Exit;

use super::bench::{Bench, Call, Halt, quoted};
use super::program::Program;

/// Its status for "there are leaks", apart from 1, which is also that of its own failures.
const LEAKS: i32 = 10;

/// Searches the bench's tree.
pub(super) async fn search(bench: &Bench<'_>, program: &Program) -> Result<Vec<Finding>, Halt> {
    let report = bench.out().join("gitleaks.json");
    let call = Call {
        name: "gitleaks".into(),
        command: format!(
            "cd {} && rm -f .gitleaksignore && exec {} dir . --no-banner --no-color --redact=100 \
             --ignore-gitleaks-allow --exit-code {LEAKS} --report-format json --report-path {}",
            quoted(&bench.tree()),
            quoted(&program.path),
            quoted(&report)
        ),
        env: Default::default(),
        report: "gitleaks.json".into(),
    };
    let called = bench.call(program, &call).await?;
    let read = match (&called.report, called.outcome.exit) {
        (Err(why), _) => Err(format!("its report {why}")),
        (Ok(text), exit) => match (secrets::gitleaks(text), exit) {
            (Err(why), _) => Err(why.to_string()),
            (Ok(found), Exit::Code(LEAKS)) if !found.is_empty() => Ok(found),
            (Ok(found), Exit::Code(0)) if found.is_empty() => Ok(found),
            (Ok(found), _) => {
                Err(format!("its report of {} leaks does not fit its end", found.len()))
            }
        },
    };
    read.map_err(|why| called.no_answer(program, &why))
}
