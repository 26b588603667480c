//! Where the tools of one step work: their folder, their jobs, their log.
//!
//! ```text
//! runs/RUN/scan/STEP/in      what they are given: ours, and theirs to read
//! runs/RUN/scan/STEP/tree    files of the commit
//! runs/RUN/scan/STEP/out     where they run and what they write
//! ```

use std::fs;
use std::os::unix::fs::lchown;
use std::path::{Path, PathBuf};
use std::time::Duration;

use domain::EnvironmentName;
use domain::pipeline::cause::telling_line;
use domain::scan::Choice;
use domain::slot::{JobOutcome, Place};
use tokio_util::sync::CancellationToken;

use super::super::command::{environment_of, go_id};
use super::super::environment::Variables;
use super::super::error::PipelineError;
use super::super::files::{self, RunAs, folder_of};
use super::super::job::{self, Ended, Job};
use super::super::verdict::plain_text;
use super::super::{Inner, StepRequest, layout};
use super::program::{Program, Wanted};

/// A tool that has not ended by then has no answer.
const TIME_LIMIT: Duration = Duration::from_secs(600);
/// A job whose supervisor died has no verdict; it gets this many goes in all.
const GOES: u32 = 3;

/// Why there is no verdict on what was found.
#[derive(Debug)]
pub(super) enum Halt {
    /// It is not known what would have been found.
    Unavailable {
        why: String,
        tail: Vec<String>,
    },
    Canceled,
    Ours(PipelineError),
}

impl Halt {
    pub fn unavailable(why: impl Into<String>) -> Self {
        Self::Unavailable { why: why.into(), tail: Vec::new() }
    }
}

impl From<PipelineError> for Halt {
    fn from(error: PipelineError) -> Self {
        Self::Ours(error)
    }
}

/// The workplace of one step.
pub(super) struct Bench<'a> {
    pub inner: &'a Inner,
    /// The step's own folder of logs and reports.
    pub folder: &'a Path,
    root: PathBuf,
    env: Variables,
    environment: EnvironmentName,
    id: String,
    cancel: &'a CancellationToken,
}

/// One call of a tool.
pub(super) struct Call {
    /// Names it within the step.
    pub name: String,
    /// For `sh -c`, in the folder `out`.
    pub command: String,
    pub env: Variables,
    /// The file that it writes, in the folder `out`.
    pub report: String,
}

/// How a call ended.
pub(super) struct Called {
    pub outcome: JobOutcome,
    /// Or what is wrong with the file.
    pub report: Result<String, String>,
}

impl Inner {
    /// The workplace for the step of `request`, made if it is not there.
    pub(super) async fn bench<'a>(
        &'a self,
        request: &StepRequest<'_>,
        folder: &'a Path,
        cancel: &'a CancellationToken,
    ) -> Result<Bench<'a>, PipelineError> {
        let scope = request.run.as_str();
        let env = self.environment_in(scope)?;
        let name = layout::file_name(request.step.name.as_str());
        let root = self.layout.run(scope).join("scan").join(name);
        folder_of(&root.join("in"), None)?;
        folder_of(&root.join("out"), self.config.run_as)?;
        job::open_log(&layout::log(folder), self.config.run_as)?;
        Ok(Bench {
            inner: self,
            folder,
            root,
            env,
            environment: environment_of(scope)?,
            id: self.job_id(scope, &request.step.name),
            cancel,
        })
    }
}

impl Bench<'_> {
    /// Files of the commit.
    pub fn tree(&self) -> PathBuf {
        self.root.join("tree")
    }

    /// What tools write.
    pub fn out(&self) -> PathBuf {
        self.root.join("out")
    }

    /// Where a file for the tools is to lie; [`Bench::hand_over`] makes it theirs to read.
    pub fn input(&self, name: &str) -> PathBuf {
        self.root.join("in").join(name)
    }

    /// Lets the tools read a file that was written for them.
    pub fn hand_over(&self, path: &Path) -> Result<(), PipelineError> {
        let Some(RunAs { uid, gid }) = self.inner.config.run_as else { return Ok(()) };
        lchown(path, Some(uid), Some(gid))
            .map_err(|e| PipelineError::new(format!("handing {} over", path.display()), e))
    }

    pub fn program(&self, wanted: &Wanted, choice: Choice) -> Result<Option<Program>, Halt> {
        wanted.find(choice, self.env.get("PATH").map_or("", String::as_str))
    }

    /// Adds a line to the step's log.
    pub fn say(&self, line: &str) {
        job::note(&layout::log(self.folder), line);
    }

    pub fn say_all(&self, lines: &[String]) {
        lines.iter().for_each(|line| self.say(line));
    }

    /// Runs `call` to its end, or answers from its record.
    pub async fn call(&self, program: &Program, call: &Call) -> Result<Called, Halt> {
        let report = self.out().join(&call.report);
        for go in 1..=GOES {
            let job = self.job(program, call, &go_id(&format!("{}.{}", self.id, call.name), 1, go));
            self.prepare(&job, &report)?;
            let ended = job::run(&*self.inner.config.engine, &job, self.cancel).await?;
            if ended.unseen() && go < GOES {
                self.say("its supervisor was killed, so it is run again");
                continue;
            }
            let Ended::Outcome(outcome) = ended else { return Err(Halt::Canceled) };
            let root = self.out();
            let report = files::blocking(move || plain_text(&root, &report)).await;
            return self.timely(program, Called { outcome, report });
        }
        unreachable!("the last go returns")
    }

    fn timely(&self, program: &Program, called: Called) -> Result<Called, Halt> {
        if called.outcome.exit == domain::slot::Exit::TimedOut {
            let name = program.tool.program();
            let why = format!("{name} had not ended after {TIME_LIMIT:?} and was stopped");
            return Err(Halt::Unavailable { why, tail: called.outcome.tail });
        }
        Ok(called)
    }

    fn job(&self, program: &Program, call: &Call, id: &str) -> Job {
        let mut env = self.env.clone();
        env.extend(call.env.clone());
        let version = format!("{} --version 2>&1 || true", quoted(&program.path));
        Job {
            id: id.to_owned(),
            environment: self.environment.clone(),
            command: format!("{version}; {}", call.command),
            place: Place::Folder(self.out()),
            env,
            time_limit: TIME_LIMIT,
            log: layout::log(self.folder),
        }
    }

    /// Before a job is first asked for, never after: then its report may be there already.
    fn prepare(&self, job: &Job, report: &Path) -> Result<(), PipelineError> {
        let begun = self.root.join("begun").join(layout::file_name(&job.id));
        if begun.exists() {
            return Ok(());
        }
        files::remove_tree(report)
            .map_err(|e| PipelineError::new(format!("removing {}", report.display()), e))?;
        files::write_json(&begun, &job.id)
    }

    /// Keeps a file with the run's evidence.
    pub fn keep(&self, name: &str, text: &str) -> Result<(), PipelineError> {
        let path = self.folder.join("reports").join(name);
        files::write(&path, text.as_bytes(), files::PRIVATE)
            .map_err(|e| PipelineError::new(format!("keeping {}", path.display()), e))
    }
}

impl Called {
    /// The tool gave no answer; `what` it had to say, and how it ended.
    pub fn no_answer(self, program: &Program, what: &str) -> Halt {
        let name = program.tool.program();
        // The program is there, so a status of 127 is its own and not that of the shell.
        let said = match (self.outcome.exit, telling_line(&self.outcome.tail)) {
            (exit, _) if exit.success() => String::new(),
            (exit, Some(line)) => format!("; {line} ({exit})"),
            (exit, None) => format!("; {exit}"),
        };
        Halt::Unavailable { why: format!("{name}: {what}{said}"), tail: self.outcome.tail }
    }
}

/// A path as one word of a shell.
pub(super) fn quoted(path: &Path) -> String {
    word(&path.display().to_string())
}

/// A text as one word of a shell.
pub(super) fn word(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// Removes what a crash may have left of a link or file, and makes a link.
pub(super) fn link(to: &Path, at: &Path) -> std::io::Result<()> {
    if let Some(folder) = at.parent() {
        fs::create_dir_all(folder)?;
    }
    files::remove_tree(at)?;
    std::os::unix::fs::symlink(to, at)
}

#[cfg(test)]
mod tests {
    use super::word;

    #[test]
    fn no_name_of_a_file_gets_out_of_its_quotes() {
        assert_eq!(word("a b; $(rm)"), "'a b; $(rm)'");
        assert_eq!(word("it's"), r"'it'\''s'");
    }
}
