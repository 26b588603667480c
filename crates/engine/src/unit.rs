//! A unit: one supervised command, as it lies on disk. What the engine asks and what the shim answers.
//!
//! ```text
//! units/blue.web.0/
//!   spec.json     what is asked (0600: its environment may hold secrets); absent = must not run
//!   lock          held by the shim for its whole life
//!   status.json   what the shim says, replaced as a whole
//!   port          the port it had last, so that it keeps it
//!   log, log.1... its output; that of what ran here before is gone
//!   shim.log      what the shim itself complains about
//! ```

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use domain::Timestamp;
use domain::slot::{Ends, Exit};
use serde::{Deserialize, Serialize};

use crate::lock::FileLock;
use crate::proc::ProcessRef;

/// What a shim is asked to run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnitSpec {
    /// Names what was asked for; two specs with the same digest need no restart.
    pub digest: String,
    pub command: Vec<String>,
    pub folder: PathBuf,
    /// The whole environment; `PORT` and the marker are added by the shim.
    pub env: BTreeMap<String, String>,
    /// Given as `$PORT`.
    pub port: Option<u16>,
    pub user: Option<UserIds>,
    pub mode: Mode,
    /// The number of the signal that asks it to stop.
    pub stop_signal: i32,
    /// Between that signal and SIGKILL.
    pub grace: Duration,
    pub log: LogPlan,
}

/// Whom the command runs as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserIds {
    pub uid: u32,
    pub gid: u32,
}

/// Kept running, or run to its end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Started again after each end, with a growing pause.
    Keep(Backoff),
    /// Run once, holding `lock`, stopped at its limit.
    Once {
        time_limit: Duration,
        lock: Option<PathBuf>,
        /// It has the shim's own standard streams, and is stopped once nobody reads its output any more.
        #[serde(default)]
        streams: bool,
    },
}

/// The pauses between restarts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backoff {
    pub first: Duration,
    pub most: Duration,
    /// After running this long, the next pause is the first again.
    pub stable: Duration,
    /// With exit code 0 the command has done all it had to, and is not started again.
    #[serde(default)]
    pub until_success: bool,
}

impl Default for Backoff {
    fn default() -> Self {
        Self {
            first: Duration::from_millis(200),
            most: Duration::from_secs(30),
            stable: Duration::from_secs(30),
            until_success: false,
        }
    }
}

/// Where output goes and how much of it is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogPlan {
    /// By default `log` in the unit's folder.
    pub path: Option<PathBuf>,
    /// Of one file, in bytes.
    pub size: u64,
    pub full: WhenFull,
}

/// What happens to output that does not fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WhenFull {
    /// The oldest goes: so many files in all, the current one included.
    Rotate(u32),
    /// The newest goes, and a line says so.
    Drop,
}

impl LogPlan {
    /// For what runs for ever.
    pub fn rotating() -> Self {
        Self { path: None, size: 4 << 20, full: WhenFull::Rotate(4) }
    }

    /// For what runs once: how it began matters as much as how it ended.
    pub fn once(path: Option<PathBuf>) -> Self {
        Self { path, size: 16 << 20, full: WhenFull::Drop }
    }
}

/// What a shim says about its unit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnitStatus {
    pub digest: String,
    /// The boot of the machine that the processes belong to.
    pub boot: String,
    pub shim: ProcessRef,
    /// Leads a session of its own, so its pid is also its group.
    pub child: Option<ProcessRef>,
    pub phase: Phase,
    pub restarts: u32,
    pub last_exit: Option<Exit>,
    pub last_exit_at: Option<Timestamp>,
    /// When the command ended by itself, the newest last: those within [`Ends::WHILE`] of one another.
    #[serde(default)]
    pub ends: Vec<Timestamp>,
    /// The last line it wrote before the last of them.
    #[serde(default)]
    pub last_words: Option<String>,
    /// When the first child was started.
    pub started: Option<Timestamp>,
}

impl UnitStatus {
    /// Notes an end that nobody asked for.
    pub fn note_crash(&mut self, at: Timestamp, last_words: Option<String>) {
        self.ends.retain(|end| at.since(*end) < Ends::WHILE);
        let excess = (self.ends.len() + 1).saturating_sub(MOST_ENDS);
        self.ends.drain(..excess);
        self.ends.push(at);
        self.last_words = last_words;
    }

    /// How it ended, as seen at `now`.
    pub fn ends(&self, now: Timestamp) -> Option<Ends> {
        let at = *self.ends.last()?;
        let recent = self.ends.iter().filter(|end| now.since(**end) < Ends::WHILE).count();
        Some(Ends {
            recent: u32::try_from(recent).unwrap_or(u32::MAX),
            exit: self.last_exit,
            at,
            said: self.last_words.clone(),
        })
    }
}

/// More ends than these say no more. With growing pauses, fewer fit into [`Ends::WHILE`].
const MOST_ENDS: usize = 32;

/// Where a unit is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// The shim is there, the command not yet.
    Starting,
    Running,
    /// The command ended and is started again after a pause.
    Waiting,
    /// Asked to stop, within its grace.
    Stopping,
    /// Over; nothing of it runs any more.
    Ended,
}

/// The folder of one unit.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Unit {
    folder: PathBuf,
}

impl Unit {
    /// The unit in `folder`, which may not exist yet.
    pub fn at(folder: impl Into<PathBuf>) -> Self {
        Self { folder: folder.into() }
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// What the processes of this unit carry in `LAUNCHWAY_UNIT`.
    pub fn marker(&self) -> String {
        self.folder.to_string_lossy().into_owned()
    }

    pub fn spec_path(&self) -> PathBuf {
        self.folder.join("spec.json")
    }

    pub fn lock_path(&self) -> PathBuf {
        self.folder.join("lock")
    }

    pub fn log_path(&self) -> PathBuf {
        self.folder.join("log")
    }

    /// Where its output really is.
    pub fn output_path(&self) -> PathBuf {
        self.spec().and_then(|spec| spec.log.path).unwrap_or_else(|| self.log_path())
    }

    /// Whether a shim attends to it.
    pub fn attended(&self) -> bool {
        FileLock::is_held(&self.lock_path())
    }

    pub fn status(&self) -> Option<UnitStatus> {
        read_json(&self.folder.join("status.json"))
    }

    pub fn spec(&self) -> Option<UnitSpec> {
        read_json(&self.spec_path())
    }

    /// Whether it was asked to run once only.
    pub fn once(&self) -> bool {
        self.spec().is_some_and(|spec| matches!(spec.mode, Mode::Once { .. }))
    }

    /// `durable` waits for the disk: a job must never be taken for one that has not run.
    pub fn write_status(&self, status: &UnitStatus, durable: bool) -> io::Result<()> {
        write_json(&self.folder.join("status.json"), status, durable)
    }

    /// Records what is asked, durably.
    pub fn write_spec(&self, spec: &UnitSpec) -> io::Result<()> {
        fs::create_dir_all(&self.folder)?;
        write_json(&self.spec_path(), spec, true)
    }

    /// The port it had last.
    pub fn port(&self) -> Option<u16> {
        fs::read_to_string(self.folder.join("port")).ok()?.trim().parse().ok()
    }

    pub fn write_port(&self, port: u16) -> io::Result<()> {
        fs::write(self.folder.join("port"), port.to_string())
    }
}

/// A JSON file, if it is there and whole.
pub fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> Option<T> {
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}

/// Replaces a file as a whole, readable by its owner only.
pub fn write_json<T: Serialize>(path: &Path, value: &T, durable: bool) -> io::Result<()> {
    let temporary = path.with_extension(format!("new-{}", std::process::id()));
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&temporary)?;
    file.write_all(&serde_json::to_vec(value)?)?;
    if durable {
        file.sync_all()?;
    }
    fs::rename(&temporary, path)?;
    if durable && let Some(folder) = path.parent() {
        fs::File::open(folder)?.sync_all()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_of_long_ago_say_nothing_about_a_command_that_runs_well_now() {
        let process = ProcessRef::of(std::process::id()).unwrap();
        let mut status = UnitStatus {
            digest: String::new(),
            boot: String::new(),
            shim: process,
            child: None,
            phase: Phase::Running,
            restarts: 0,
            last_exit: Some(Exit::Code(1)),
            last_exit_at: None,
            ends: Vec::new(),
            last_words: None,
            started: None,
        };
        let at = |seconds: i64| Timestamp::from_millis(seconds * 1000);
        assert_eq!(status.ends(at(0)), None);
        for second in [0, 400, 401, 402] {
            status.note_crash(at(second), Some("boom".into()));
        }
        assert_eq!(status.ends(at(403)).map(|ends| ends.recent), Some(3));
        assert!(status.ends(at(403)).unwrap().crashing());
        assert!(!status.ends(at(701)).unwrap().crashing(), "the first of them is forgotten");
        for second in 1000..2000 {
            status.note_crash(at(second), None);
        }
        assert!(status.ends.len() <= MOST_ENDS);
    }
}
