//! detect-secrets (<https://github.com/Yelp/detect-secrets>): secrets in a tree.
//!
//! It verifies nothing, because it would send what it found to those whose it may be. `pragma: allowlist secret` in a
//! line has neither reason nor day: what is to be ignored is said in `launchway.yaml`. Its report is not kept, only what
//! we made of it: hashes of short secrets give them away.

use domain::report::secrets;
use domain::scan::Finding;

use super::bench::{Bench, Call, Halt, quoted};
use super::program::Program;

/// Searches the bench's tree. It ends with 0 whether it found something or not.
pub(super) async fn search(bench: &Bench<'_>, program: &Program) -> Result<Vec<Finding>, Halt> {
    let report = bench.out().join("detect-secrets.json");
    let call = Call {
        name: "detect-secrets".into(),
        command: format!(
            "cd {} && exec {} scan --all-files --no-verify \
             --disable-filter detect_secrets.filters.allowlist.is_line_allowlisted . > {}",
            quoted(&bench.tree()),
            quoted(&program.path),
            quoted(&report)
        ),
        env: Default::default(),
        report: "detect-secrets.json".into(),
    };
    let called = bench.call(program, &call).await?;
    if !called.outcome.exit.success() {
        return Err(called.no_answer(program, "it could not search the tree"));
    }
    let read = match &called.report {
        Ok(text) => secrets::detect_secrets(text).map_err(|e| e.to_string()),
        Err(why) => Err(format!("its report {why}")),
    };
    read.map_err(|why| called.no_answer(program, &why))
}
