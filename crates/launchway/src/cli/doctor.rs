//! `launchway doctor`: whether everything that is needed is there, and what to do where it is not.

mod checks;

use std::fmt::Write;

use serde::Serialize;

use super::paint::Paint;
use super::{Exit, Globals, Outcome, print, print_json};

/// Check this machine, the project and what runs
#[derive(clap::Args)]
#[command(after_help = "Examples:
  launchway doctor                 what is there, what is missing and how to get it
  launchway doctor --json          for a program
  launchway -C shop doctor         for another project

Changes nothing. Ends with 1 when something fails that Launchway cannot do without.")]
pub struct Args {}

/// One thing that was looked at.
#[derive(Debug, Serialize)]
pub struct Check {
    pub name: &'static str,
    pub verdict: Verdict,
    /// What was found.
    pub found: String,
    /// What to do, where something is to be done.
    pub todo: Option<String>,
}

/// How it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    Ok,
    Warn,
    Fail,
}

impl Check {
    fn ok(name: &'static str, found: impl Into<String>) -> Self {
        Self { name, verdict: Verdict::Ok, found: found.into(), todo: None }
    }

    fn warn(name: &'static str, found: impl Into<String>, todo: impl Into<String>) -> Self {
        Self { name, verdict: Verdict::Warn, found: found.into(), todo: Some(todo.into()) }
    }

    fn fail(name: &'static str, found: impl Into<String>, todo: impl Into<String>) -> Self {
        Self { name, verdict: Verdict::Fail, found: found.into(), todo: Some(todo.into()) }
    }
}

/// Runs the verb.
pub async fn run(_args: Args, globals: &Globals) -> Outcome {
    let checks = checks::all(globals).await;
    let failed = checks.iter().any(|check| check.verdict == Verdict::Fail);
    match globals.json {
        true => print_json(&serde_json::json!({ "ok": !failed, "checks": checks }))?,
        false => print(&page(&checks))?,
    }
    Ok(if failed { Exit::Failed } else { Exit::Ok })
}

fn page(checks: &[Check]) -> String {
    let paint = Paint::stdout();
    let mut page = String::new();
    for check in checks {
        let verdict = match check.verdict {
            Verdict::Ok => paint.good("ok  "),
            Verdict::Warn => paint.bold("warn"),
            Verdict::Fail => paint.bad("fail"),
        };
        let _ = writeln!(page, "{verdict}  {:<12} {}", check.name, check.found);
        if let Some(todo) = &check.todo {
            let _ = writeln!(page, "{:19}{todo}", "");
        }
    }
    page
}
