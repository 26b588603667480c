//! How a verb ends: its exit code, and what is said when it failed.

use std::io::{IsTerminal, Write};
use std::process::ExitCode;

use domain::config::Mistake;
use miette::{GraphicalReportHandler, LabeledSpan, MietteDiagnostic, NamedSource};

/// Exit codes, the same for every verb.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(dead_code, reason = "each verb uses those it can end with")]
pub enum Exit {
    Ok = 0,
    Failed = 1,
    /// Usage or configuration.
    Usage = 2,
    /// A gate refused.
    Refused = 3,
    RolledBack = 4,
    WaitingForApproval = 5,
    TimedOut = 6,
    /// Nobody reads our output any more: as by SIGPIPE.
    Unheard = 141,
    /// By SIGINT.
    Interrupted = 130,
    /// By SIGTERM.
    Terminated = 143,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// What every verb returns.
pub type Outcome = Result<Exit, Failure>;

/// Why a verb could not do it.
#[derive(Debug)]
pub enum Failure {
    /// Mistakes in the project's files; nothing was changed.
    Mistakes(Vec<Misread>),
    /// Anything else.
    Other { exit: Exit, message: String, help: Option<String> },
}

/// A mistake and the text of the file it is in.
#[derive(Debug)]
pub struct Misread {
    pub mistake: Mistake,
    pub text: String,
}

impl Failure {
    /// `message` says what was being done, to what, and why it failed; `help` what to do next.
    pub fn new(exit: Exit, message: impl Into<String>, help: impl Into<String>) -> Self {
        Self::Other { exit, message: message.into(), help: Some(help.into()) }
    }

    /// Its exit code.
    pub fn exit(&self) -> Exit {
        match self {
            Self::Mistakes(_) => Exit::Usage,
            Self::Other { exit, .. } => *exit,
        }
    }

    /// Says it on standard error: with the source for people at a terminal, else one line each for tools.
    pub fn report(&self) {
        let fancy = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        let text = if fancy { self.graphical() } else { self.plain() };
        // With standard error closed there is nobody left to tell.
        let _ = std::io::stderr().write_all(text.as_bytes());
    }

    fn plain(&self) -> String {
        match self {
            Self::Mistakes(all) => {
                let lines = all.iter().map(|Misread { mistake, .. }| {
                    format!("{mistake}\n  help: {}\n", mistake.help)
                });
                lines.chain([count(all.len())]).collect()
            }
            Self::Other { message, help, .. } => {
                let help = help.as_ref().map_or(String::new(), |help| format!("  help: {help}\n"));
                format!("error: {message}\n{help}")
            }
        }
    }

    fn graphical(&self) -> String {
        match self {
            Self::Mistakes(all) => all.iter().map(snippet).chain([count(all.len())]).collect(),
            Self::Other { message, help, .. } => {
                let mut diagnostic = MietteDiagnostic::new(message);
                diagnostic.help.clone_from(help);
                rendered(&diagnostic)
            }
        }
    }
}

impl<E: std::error::Error> From<E> for Failure {
    /// An error with its causes, in one line.
    fn from(error: E) -> Self {
        let mut message = error.to_string();
        let mut cause = error.source();
        while let Some(inner) = cause {
            let said = inner.to_string();
            if !message.contains(&said) {
                message = format!("{message}: {said}");
            }
            cause = inner.source();
        }
        Self::Other { exit: Exit::Failed, message, help: None }
    }
}

fn count(mistakes: usize) -> String {
    let plural = if mistakes == 1 { "" } else { "s" };
    format!("{mistakes} mistake{plural}, nothing was changed\n")
}

/// The mistake under its line of the file.
fn snippet(Misread { mistake, text }: &Misread) -> String {
    let label = LabeledSpan::at(mistake.offset..mistake.offset + mistake.length, "here");
    let diagnostic =
        MietteDiagnostic::new(&mistake.message).with_help(&mistake.help).with_label(label);
    let source = NamedSource::new(&mistake.path, text.clone());
    let report = miette::Report::new(diagnostic).with_source_code(source);
    rendered(report.as_ref())
}

fn rendered(diagnostic: &dyn miette::Diagnostic) -> String {
    let mut text = String::new();
    match GraphicalReportHandler::new().render_report(&mut text, diagnostic) {
        Ok(()) => text + "\n",
        Err(_) => format!("error: {diagnostic}\n"),
    }
}
