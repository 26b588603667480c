//! Vulnerability scanners: what they have in common.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use domain::Timestamp;
use domain::scan::{Database, Finding, Tool};
use domain::slot::Exit;

use super::super::environment::Variables;
use super::super::error::PipelineError;
use super::bench::{Bench, Call, Halt};
use super::program::Program;
use super::subject::Subject;
use super::{grype, osv_scanner, trivy};

/// One scanner: the differences.
pub(super) trait Adapter: Sync {
    /// The day of the database in the user's own folder, where its files say so. An error says what is missing.
    fn database(&self, folder: &Path) -> Result<Option<SystemTime>, String>;

    /// Makes the user's own database usable from `scratch`, which belongs to the scanner.
    fn lay_out(&self, folder: &Path, scratch: &Path) -> std::io::Result<()>;

    /// The command, without the program's name, and its variables. With `scratch` it uses the database there and
    /// no network; without, its own.
    fn command(
        &self,
        subject: &Subject,
        scratch: Option<&Path>,
        report: &str,
    ) -> (String, Variables);

    /// What its end and its report mean.
    fn answer(&self, exit: Exit, report: &str) -> Result<Answer, String>;
}

/// What a scanner says.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub findings: Vec<Finding>,
    /// When its database was made, if the report says so.
    pub database: Option<SystemTime>,
}

/// A scanner that has a database.
pub(super) struct Scanner {
    program: Program,
    adapter: &'static dyn Adapter,
    /// The user's own database as the scanner uses it.
    scratch: Option<PathBuf>,
    max_age: Duration,
    /// The age is known already.
    dated: bool,
}

impl Scanner {
    /// Looks at the database first: without a fresh one there is nothing to ask.
    pub fn ready(program: Program, database: &Database, bench: &Bench<'_>) -> Result<Self, Halt> {
        let adapter = adapter(program.tool);
        let name = program.tool.program();
        let mut scanner =
            Self { program, adapter, scratch: None, max_age: database.max_age, dated: false };
        let Some(folder) = database.path.as_ref().map(Path::new) else { return Ok(scanner) };
        let made = adapter.database(folder).map_err(|why| {
            Halt::unavailable(format!(
                "{name} has no database in {}: {why}; put one there (`build.scan.database.path`), or take the key \
                 away and let {name} fetch its own",
                folder.display()
            ))
        })?;
        if let Some(made) = made {
            fresh(made, scanner.max_age).map_err(Halt::unavailable)?;
            bench.say(&format!("{name}: its database in {} is of {}", folder.display(), day(made)));
            scanner.dated = true;
        }
        let scratch = bench.out().join(format!("{name}-database"));
        adapter.lay_out(folder, &scratch).map_err(|e| {
            PipelineError::new(format!("giving {name} the database in {}", folder.display()), e)
        })?;
        bench.hand_over(&scratch)?;
        scanner.scratch = Some(scratch);
        Ok(scanner)
    }

    /// Everything it finds in `subject`.
    pub async fn scan(
        &self,
        bench: &Bench<'_>,
        service: &str,
        subject: &Subject,
    ) -> Result<Vec<Finding>, Halt> {
        let name = self.program.tool.program();
        let report = format!("{service}.{name}.json");
        let (command, env) = self.adapter.command(subject, self.scratch.as_deref(), &report);
        let command = format!("exec {} {command}", super::bench::quoted(&self.program.path));
        let call = Call { name: format!("{name}.{service}"), command, env, report };
        let called = bench.call(&self.program, &call).await?;
        let answer = match &called.report {
            Ok(text) => self.adapter.answer(called.outcome.exit, text),
            Err(why) => Err(format!("its report {why}")),
        };
        let answer = match answer.and_then(|answer| self.dated_enough(answer)) {
            Ok(answer) => answer,
            Err(why) => return Err(called.no_answer(&self.program, &format!("{service}: {why}"))),
        };
        bench.keep(&call.report, called.report.as_deref().unwrap_or_default())?;
        Ok(answer.findings)
    }

    fn dated_enough(&self, answer: Answer) -> Result<Answer, String> {
        match answer.database {
            Some(made) => fresh(made, self.max_age)?,
            None if self.scratch.is_some() && !self.dated => {
                return Err("nothing says how old its database is".into());
            }
            None => {}
        }
        Ok(answer)
    }
}

fn adapter(tool: Tool) -> &'static dyn Adapter {
    match tool {
        Tool::Trivy => &trivy::Trivy,
        Tool::Grype => &grype::Grype,
        _ => &osv_scanner::OsvScanner,
    }
}

fn fresh(made: SystemTime, max_age: Duration) -> Result<(), String> {
    let age = SystemTime::now().duration_since(made).unwrap_or_default();
    if age <= max_age {
        return Ok(());
    }
    let days = |span: Duration| format!("{:.1} days", span.as_secs_f64() / 86_400.0);
    Err(format!(
        "its database is of {}, {} old, and `build.scan.database.max_age` is {}; renew it",
        day(made),
        days(age),
        days(max_age)
    ))
}

fn day(time: SystemTime) -> domain::Date {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_millis(i64::try_from(since.as_millis()).unwrap_or(i64::MAX)).date()
}

/// A moment in RFC 3339.
pub(super) fn moment(text: &str) -> Option<SystemTime> {
    let time: Timestamp = serde_json::from_value(text.into()).ok()?;
    let millis = u64::try_from(time.as_millis()).ok()?;
    Some(UNIX_EPOCH + Duration::from_millis(millis))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_database_is_none_and_says_how_old_it_is() {
        let week = Duration::from_secs(7 * 86_400);
        let made = SystemTime::now() - Duration::from_secs(8 * 86_400);
        assert!(fresh(made, week).unwrap_err().contains("8.0 days old"));
        assert_eq!(fresh(made, week * 2), Ok(()));
    }

    #[test]
    fn a_moment_is_read_with_and_without_fractions() {
        assert!(moment("2026-11-20T06:17:24Z").is_some());
        assert!(
            moment("2026-11-20T06:17:24.123456789Z").is_some() && moment("yesterday").is_none()
        );
    }
}
