//! Files of a commit that containers need: mounts, laid out under the name of their content, and files of variables.
//!
//! The same content lies at the same place, whatever commit it comes from: a container that mounts it is not another
//! one because of a commit that changed something else.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::PoisonError;

use domain::config::{EnvFile, Project};
use domain::container::{Container, Source};
use domain::{CommitId, Digest};

use super::checkout::{clear, export_fresh};
use super::error::PipelineError;
use super::files::{OPEN, blocking, folder_of, write};
use super::layout::file_name;
use super::repository::Files;
use super::{Inner, Pipeline, tree};

/// The text of each file of variables that a project's services name, by its path.
pub type EnvFiles = BTreeMap<String, String>;

/// Files of variables that were read a short while ago.
pub(super) type Texts = VecDeque<(CommitId, String, Option<String>)>;
const REMEMBERED: usize = 64;

/// In the folder of a mount: which commits had it.
const COMMITS: &str = "commits";

impl Pipeline {
    /// Lays out what the container mounts of the project, as it is in the commit, and mounts that.
    pub async fn ground(
        &self,
        commit: &CommitId,
        container: &mut Container,
    ) -> Result<(), PipelineError> {
        self.inner.ground(commit, container).await
    }

    /// What the files of variables say at the commit.
    pub async fn env_files(
        &self,
        commit: &CommitId,
        project: &Project,
    ) -> Result<EnvFiles, PipelineError> {
        self.inner.env_files(commit, project).await
    }

    /// Removes what no commit of these mounts any more.
    pub async fn keep_mounts(&self, commits: &BTreeSet<CommitId>) -> Result<(), PipelineError> {
        let _held = self.inner.locks.take("mounts").await;
        let root = self.inner.layout.mounts();
        let Ok(entries) = fs::read_dir(&root) else { return Ok(()) };
        for mount in entries.flatten().map(|entry| entry.path()) {
            let known = fs::read_dir(mount.join(COMMITS)).into_iter().flatten().flatten();
            let wanted = known.filter(|commit| {
                let name = commit.file_name().to_string_lossy().into_owned();
                CommitId::new(name).is_ok_and(|commit| commits.contains(&commit))
            });
            if wanted.count() == 0 {
                clear(&mount).await?;
            }
        }
        Ok(())
    }
}

impl Inner {
    pub(super) async fn ground(
        &self,
        commit: &CommitId,
        container: &mut Container,
    ) -> Result<(), PipelineError> {
        for mount in &mut container.mounts {
            if let Source::Project(path) = &mount.source {
                mount.source = Source::Host(self.mount(commit, path).await?);
                // What a commit has is nobody's to change.
                mount.read_only = true;
            }
        }
        Ok(())
    }

    pub(super) async fn env_files(
        &self,
        commit: &CommitId,
        project: &Project,
    ) -> Result<EnvFiles, PipelineError> {
        let mut texts = EnvFiles::new();
        let all = project.services.values().flat_map(|service| &service.env_files);
        for EnvFile { path, required, .. } in all {
            match self.variables_in(commit, path).await? {
                Some(text) => {
                    texts.insert(path.clone(), text);
                }
                None if *required => {
                    let doing = format!("reading the variables in {path} of {}", commit.short());
                    let why = "the commit has no such file; commit it, or say `required: false`";
                    return Err(PipelineError::new(doing, why));
                }
                None => {}
            }
        }
        Ok(texts)
    }

    /// A file of the commit, remembered: environments are looked after every second.
    async fn variables_in(
        &self,
        commit: &CommitId,
        path: &str,
    ) -> Result<Option<String>, PipelineError> {
        let known = |texts: &Texts| {
            texts
                .iter()
                .find(|(of, at, _)| of == commit && at == path)
                .map(|(.., text)| text.clone())
        };
        if let Some(text) = known(&self.texts.lock().unwrap_or_else(PoisonError::into_inner)) {
            return Ok(text);
        }
        let text = self.repository.file(commit, path).await?;
        let mut texts = self.texts.lock().unwrap_or_else(PoisonError::into_inner);
        texts.push_back((commit.clone(), path.to_owned(), text.clone()));
        if texts.len() > REMEMBERED {
            texts.pop_front();
        }
        Ok(text)
    }

    async fn mount(&self, commit: &CommitId, path: &Path) -> Result<PathBuf, PipelineError> {
        let text = path.to_string_lossy();
        let text = text.trim_start_matches("./").trim_matches('/');
        let text = if text == "." { "" } else { text };
        let doing = || format!("laying out `{text}` of {} for a mount", commit.short());
        let files = self.repository.files(commit).await?;
        let (digest, is_file) = match files.get(text) {
            Some(object) => (Digest::of(format!("file {object}")), true),
            None => (
                of_folder(&files, text).ok_or_else(|| {
                    let why =
                        "the commit has no such file or folder; a deploy mounts what is committed";
                    PipelineError::new(doing(), why)
                })?,
                false,
            ),
        };
        let _held = self.locks.take("mounts").await;
        let folder = self.layout.mounts().join(digest.as_str());
        let name =
            file_name(text.rsplit('/').next().filter(|n| !n.is_empty()).unwrap_or("project"));
        let placed = folder.join(name);
        if !placed.exists() {
            folder_of(&folder, None)?;
            match is_file {
                true => self.place_file(commit, text, &placed).await?,
                false => self.place_folder(commit, text, &placed).await?,
            }
        }
        let mark = folder.join(COMMITS).join(commit.as_str());
        if !mark.exists() {
            write(&mark, b"", OPEN).map_err(|e| PipelineError::new(doing(), e))?;
        }
        Ok(placed)
    }

    async fn place_file(
        &self,
        commit: &CommitId,
        path: &str,
        placed: &Path,
    ) -> Result<(), PipelineError> {
        let doing = || format!("laying out {path}");
        let content = self.repository.bytes(commit, path).await?.unwrap_or_default();
        let files = self.repository.files(commit).await?;
        let executable = files.get(path).is_some_and(|object| object.starts_with("100755"));
        let mode = if executable { 0o555 } else { 0o444 };
        write(placed, &content, mode).map_err(|e| PipelineError::new(doing(), e))
    }

    async fn place_folder(
        &self,
        commit: &CommitId,
        path: &str,
        placed: &Path,
    ) -> Result<(), PipelineError> {
        let fresh = placed.with_extension("new");
        export_fresh(&self.repository, commit, path, &fresh, None).await?;
        let (from, to) = (fresh.clone(), placed.to_owned());
        let place = blocking(move || {
            tree::make_read_only(&from)?;
            match fs::rename(&from, &to) {
                Err(error) if error.kind() != ErrorKind::NotFound && to.is_dir() => Ok(()),
                placed => placed,
            }
        });
        place.await.map_err(|e| PipelineError::new(format!("laying out {path}"), e))
    }
}

/// What is in the folder and below; `None` if the commit has nothing there.
fn of_folder(files: &Files, path: &str) -> Option<Digest> {
    let below = if path.is_empty() { String::new() } else { format!("{path}/") };
    let inside: Vec<(&str, &String)> = files
        .iter()
        .filter_map(|(file, object)| Some((file.strip_prefix(&below)?, object)))
        .collect();
    let text = serde_json::to_vec(&inside).ok()?;
    (!inside.is_empty()).then(|| Digest::of(text))
}
