//! Syft (<https://github.com/anchore/syft>): lists what an artifact is made of, as CycloneDX.

use domain::report::cyclonedx;

use super::bench::{Bench, Call, Halt, quoted, word};
use super::program::Program;
use super::subject::Subject;

/// The bill of materials as text. Syft ends with 0 only if it wrote all of it.
pub(super) async fn list(
    bench: &Bench<'_>,
    program: &Program,
    service: &str,
    subject: &Subject,
) -> Result<String, Halt> {
    let source = match subject {
        Subject::Archive(path) => word(&format!("docker-archive:{}", path.display())),
        Subject::Folder(path) | Subject::Bill(path) => word(&format!("dir:{}", path.display())),
    };
    let report = format!("{service}.cdx.json");
    let call = Call {
        name: format!("syft.{service}"),
        command: format!(
            "exec {} scan {source} --source-name {} -o cyclonedx-json@1.5={}",
            quoted(&program.path),
            word(service),
            word(&report)
        ),
        env: [("SYFT_CHECK_FOR_APP_UPDATE".to_owned(), "false".to_owned())].into(),
        report,
    };
    let called = bench.call(program, &call).await?;
    if !called.outcome.exit.success() {
        return Err(
            called.no_answer(program, &format!("there is no bill of materials of {service}"))
        );
    }
    let read = match &called.report {
        Ok(text) => cyclonedx::read(text).map(|_| text.clone()).map_err(|e| e.to_string()),
        Err(why) => Err(format!("its bill of materials of {service} {why}")),
    };
    read.map_err(|why| called.no_answer(program, &why))
}
