//! The output of containers, and the last lines of those that are gone.

use std::collections::VecDeque;
use std::fs;
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use bollard::models::ContainerSummary;
use bollard::query_parameters::{LogsOptions, LogsOptionsBuilder};
use domain::EnvironmentName;
use futures_util::StreamExt;

use super::DockerEngine;
use super::connect::{Trouble, is_missing};
use super::labels;
use crate::process::tail;
use crate::{EngineError, LogSource};

/// Lines that outlive their container.
const LAST_WORDS: usize = 2_000;
/// More than this is not read of one container, however many lines are asked for.
const MOST: usize = 16 << 20;

impl DockerEngine {
    pub(super) async fn read_logs(
        &self,
        environment: &EnvironmentName,
        source: &LogSource,
        lines: usize,
    ) -> Result<Vec<String>, EngineError> {
        let failed = |why: String| {
            EngineError::new(format!("reading the log of {source:?} in {environment}"), why)
        };
        let nothing = || failed("nothing of this name has run here".into());
        let (index, slot);
        let (of, wanted) = match source {
            LogSource::Job { id } => {
                let begun = self.records.begun(environment, id).ok_or_else(nothing)?;
                return Ok(tail::of_file(begun.log, lines));
            }
            LogSource::Replica { slot: color, service, index: number } => {
                (index, slot) = (number.to_string(), color.to_string());
                let labels = vec![
                    (labels::SLOT, slot.as_str()),
                    (labels::SERVICE, service.as_str()),
                    (labels::INDEX, index.as_str()),
                ];
                (format!("{color}.{service}.{number}"), labels)
            }
            LogSource::Backing { service } => {
                let labels = vec![(labels::SERVICE, service.as_str()), (labels::SLOT, BACKING)];
                (format!("backing.{service}"), labels)
            }
        };
        if !self.records.knows(environment) {
            return Err(nothing());
        }
        let mut all = wanted;
        all.push((labels::ENVIRONMENT, environment.as_str()));
        let found = self.containers(&all).await.map_err(|trouble| failed(trouble.to_string()))?;
        let running = found.iter().find(|found| labels::get(&found.labels, labels::JOB).is_empty());
        if let Some(id) = running.and_then(|found| found.id.as_deref()) {
            return self.tail(id, lines).await.map_err(|trouble| failed(trouble.to_string()));
        }
        let kept = self.records.last_words(environment, &of);
        if !kept.exists() {
            return Err(nothing());
        }
        Ok(tail::of_file(kept, lines))
    }

    /// The last lines of a container; none if it is gone.
    pub(super) async fn tail(&self, id: &str, lines: usize) -> Result<Vec<String>, Trouble> {
        if lines == 0 {
            return Ok(Vec::new());
        }
        let docker = self.docker().await?;
        let mut output = Box::pin(docker.logs(id, Some(options(false, Some(lines)))));
        let (mut kept, mut size) = (VecDeque::new(), 0);
        while let Some(piece) = output.next().await {
            match piece {
                Ok(piece) => {
                    let piece = piece.into_bytes();
                    size += piece.len();
                    kept.push_back(piece);
                }
                Err(error) if is_missing(&error) => return Ok(Vec::new()),
                Err(error) => return Err(self.trouble(error)),
            }
            while size > MOST {
                size -= kept.pop_front().map_or(size, |piece| piece.len());
            }
        }
        let bytes: Vec<u8> = kept.into_iter().flatten().collect();
        let text = String::from_utf8_lossy(&bytes);
        let all: Vec<&str> = text.lines().collect();
        Ok(all[all.len().saturating_sub(lines)..].iter().map(|line| (*line).to_owned()).collect())
    }

    /// Of a container that is about to be removed.
    pub(super) async fn keep_last_words(
        &self,
        environment: &EnvironmentName,
        found: &ContainerSummary,
    ) -> Result<(), Trouble> {
        let part = |name| labels::get(&found.labels, name);
        let of = match part(labels::SLOT) {
            _ if !part(labels::JOB).is_empty() => return Ok(()),
            BACKING => format!("backing.{}", part(labels::SERVICE)),
            slot => format!("{slot}.{}.{}", part(labels::SERVICE), part(labels::INDEX)),
        };
        let lines = self.tail(found.id.as_deref().unwrap_or_default(), LAST_WORDS).await?;
        let path = self.records.last_words(environment, &of);
        let kept = write_lines(&path, &lines);
        kept.map_err(|error| Trouble::refused(format!("writing {}: {error}", path.display())))
    }
}

/// The slot label of backing services, which belong to none.
pub(super) const BACKING: &str = "none";

pub(super) fn options(follow: bool, lines: Option<usize>) -> LogsOptions {
    let tail = lines.map_or("all".to_owned(), |lines| lines.to_string());
    LogsOptionsBuilder::new().follow(follow).stdout(true).stderr(true).tail(&tail).build()
}

fn write_lines(path: &Path, lines: &[String]) -> std::io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("/"));
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    let temporary = path.with_extension("new");
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&temporary)?;
    for line in lines {
        writeln!(file, "{line}")?;
    }
    fs::rename(&temporary, path)
}
