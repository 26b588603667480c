//! The user's git repository, read through the `git` program and never written.
//!
//! Git runs as the owner of the repository when we are root, so that its configuration (filters and the like)
//! never acts with more rights than its owner has.

use std::collections::{BTreeMap, VecDeque};
use std::os::unix::fs::{MetadataExt, lchown};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use domain::CommitId;
use domain::release::Commit;
use tokio::process::Command;

use super::error::PipelineError;

/// Answers about commits. One project folder of one repository.
pub(crate) struct Repository {
    git_dir: PathBuf,
    /// The project's folder inside the repository, empty for its root.
    prefix: String,
    /// Who runs git, if not we.
    owner: Option<(u32, u32)>,
    recent: Mutex<VecDeque<(CommitId, Arc<Files>)>>,
}

/// The files of a commit: path to `MODE OBJECT`. Git has hashed them already.
pub(crate) type Files = BTreeMap<String, String>;

const READ_LIMIT: Duration = Duration::from_secs(60);
const EXPORT_LIMIT: Duration = Duration::from_secs(600);
const REMEMBERED: usize = 8;

/// Files of references, and when they were written.
pub(crate) type Stamp = Vec<(PathBuf, Option<SystemTime>)>;

/// So many files of references are looked at.
const LOOKED_AT: usize = 200;

fn stamp(git_dir: &Path) -> Stamp {
    // A linked work tree has a file there, and its references with the main one (gitrepository-layout(5)).
    let named = std::fs::read_to_string(git_dir).ok();
    let named = named.as_deref().and_then(|text| text.trim_end().strip_prefix("gitdir: "));
    let git_dir = named.map_or(git_dir, Path::new);
    let common = std::fs::read_to_string(git_dir.join("commondir")).ok();
    let root = common.map_or_else(|| git_dir.to_owned(), |path| git_dir.join(path.trim_end()));
    let mut open =
        vec![root.join("packed-refs"), root.join("reftable/tables.list"), root.join("refs/heads")];
    let mut stamp = Stamp::new();
    while let Some(path) = open.pop() {
        let Ok(metadata) = std::fs::metadata(&path) else { continue };
        if metadata.is_dir() {
            let entries = std::fs::read_dir(&path).into_iter().flatten().flatten();
            open.extend(entries.map(|entry| entry.path()).take(LOOKED_AT));
        }
        stamp.push((path, metadata.modified().ok()));
        if stamp.len() > LOOKED_AT {
            break;
        }
    }
    stamp.sort();
    stamp
}

impl Repository {
    /// The repository that `project` lies in.
    pub fn open(project: &Path) -> Result<Self, PipelineError> {
        let doing = || format!("opening the git repository of {}", project.display());
        let project = project.canonicalize().map_err(|e| PipelineError::new(doing(), e))?;
        let metadata = project.metadata().map_err(|e| PipelineError::new(doing(), e))?;
        let (git_dir, prefix) = find(&project).ok_or_else(|| {
            PipelineError::new(doing(), "there is none; run `git init` there and commit the app")
        })?;
        let foreign = nix::unistd::geteuid().is_root() && metadata.uid() != 0;
        let owner = foreign.then(|| (metadata.uid(), metadata.gid()));
        Ok(Self { git_dir, prefix, owner, recent: Mutex::default() })
    }

    /// The commit that `revision` names.
    pub async fn resolve(&self, revision: &str) -> Result<CommitId, PipelineError> {
        let doing = || format!("looking for the commit `{revision}`");
        if revision.starts_with('-') {
            return Err(PipelineError::new(doing(), "a revision cannot begin with `-`"));
        }
        let name = format!("{revision}^{{commit}}");
        let found = self.text(&["rev-parse", "--verify", "--quiet", &name], &doing()).await;
        let found = found.map_err(|_| {
            let why =
                "the repository has no such commit, branch or tag; `git log` shows what it has";
            PipelineError::new(doing(), why)
        })?;
        CommitId::new(found.trim()).map_err(|e| PipelineError::new(doing(), e))
    }

    /// What lies where heads of branches are kept, and since when: another one says that a head may have moved. It
    /// costs no process; that it is the same proves nothing.
    pub async fn stamp(&self) -> Stamp {
        let git_dir = self.git_dir.clone();
        tokio::task::spawn_blocking(move || stamp(&git_dir)).await.unwrap_or_default()
    }

    /// The newest commit of every branch.
    pub async fn branches(&self) -> Result<BTreeMap<String, CommitId>, PipelineError> {
        let doing = "listing the branches";
        let format = "--format=%(objectname) %(refname:strip=2)";
        let text = self.text(&["for-each-ref", format, "refs/heads"], doing).await?;
        let branch = |line: &str| {
            let (id, name) = line.split_once(' ')?;
            Some((name.to_owned(), CommitId::new(id).ok()?))
        };
        Ok(text.lines().filter_map(branch).collect())
    }

    /// The branch that is checked out, if one is.
    pub async fn checked_out(&self) -> Option<String> {
        let arguments = ["symbolic-ref", "--quiet", "--short", "HEAD"];
        let branch = self.text(&arguments, "looking which branch is checked out").await.ok()?;
        Some(branch.trim().to_owned())
    }

    /// Author and subject of a commit.
    pub async fn commit(&self, id: &CommitId) -> Result<Commit, PipelineError> {
        let doing = format!("reading the commit {}", id.short());
        let arguments = ["log", "-1", "--no-show-signature", "--format=%an <%ae>%n%s", id.as_str()];
        let text = self.text(&arguments, &doing).await?;
        let mut lines = text.lines().map(str::to_owned);
        let author = lines.next().unwrap_or_default();
        Ok(Commit { id: id.clone(), author, subject: lines.next().unwrap_or_default() })
    }

    /// When the commit was made, in seconds since 1970.
    pub async fn time(&self, id: &CommitId) -> Result<u64, PipelineError> {
        let doing = format!("reading the time of {}", id.short());
        let arguments = ["log", "-1", "--no-show-signature", "--format=%ct", id.as_str()];
        let text = self.text(&arguments, &doing).await?;
        text.trim().parse().map_err(|e| PipelineError::new(doing, e))
    }

    /// Where the project comes from, as an address without a login; `None` if it is from nowhere else.
    pub async fn origin(&self) -> Option<String> {
        let arguments = ["config", "--get", "remote.origin.url"];
        let url = self.text(&arguments, "reading the remote").await.ok()?;
        let url = url.trim();
        match url.split_once("://") {
            Some((scheme, rest)) => {
                let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
                let host = host.rsplit('@').next().unwrap_or(host);
                Some(format!("{scheme}://{host}/{path}"))
            }
            None => Some(url.to_owned()).filter(|url| !url.is_empty() && !url.starts_with('/')),
        }
    }

    /// The text of a file at a commit; `None` if the commit does not have it.
    pub async fn file(
        &self,
        commit: &CommitId,
        path: &str,
    ) -> Result<Option<String>, PipelineError> {
        let bytes = self.bytes(commit, path).await?;
        Ok(bytes.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()))
    }

    /// The content of a file at a commit; `None` if the commit does not have it.
    pub async fn bytes(
        &self,
        commit: &CommitId,
        path: &str,
    ) -> Result<Option<Vec<u8>>, PipelineError> {
        let files = self.files(commit).await?;
        let Some((_, object)) = files.get(path).and_then(|entry| entry.split_once(' ')) else {
            return Ok(None);
        };
        let doing = format!("reading {path} of {}", commit.short());
        self.output(self.git(&["cat-file", "blob", object]), READ_LIMIT, &doing).await.map(Some)
    }

    /// Every file of the project at a commit.
    pub async fn files(&self, commit: &CommitId) -> Result<Arc<Files>, PipelineError> {
        if let Some(files) = self.remembered(commit) {
            return Ok(files);
        }
        let doing = format!("listing the files of {}", commit.short());
        let tree = self.tree(commit, "");
        let listing = self.git(&["ls-tree", "-r", "-z", "--full-tree", &tree]);
        let listing = self.output(listing, READ_LIMIT, &doing).await?;
        let files = Arc::new(parse_listing(&String::from_utf8_lossy(&listing)));
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        recent.push_back((commit.clone(), files.clone()));
        if recent.len() > REMEMBERED {
            recent.pop_front();
        }
        Ok(files)
    }

    /// Writes the files of `folder` (empty for all) at a commit into the empty folder `into`, modes and symlinks
    /// as committed. `scratch` is an empty folder beside it.
    pub async fn export(
        &self,
        commit: &CommitId,
        folder: &str,
        into: &Path,
        scratch: &Path,
    ) -> Result<(), PipelineError> {
        let shown = if folder.is_empty() { "the project" } else { folder };
        let doing = format!("checking out {shown} at {}", commit.short());
        if let Some((uid, gid)) = self.owner {
            for path in [into, scratch] {
                lchown(path, Some(uid), Some(gid))
                    .map_err(|e| PipelineError::new(doing.clone(), e))?;
            }
        }
        let index = scratch.join("index");
        let steps: [&[&str]; 2] = [
            &["read-tree", &self.tree(commit, folder)],
            &["checkout-index", "--all", "--quiet", "--force"],
        ];
        for arguments in steps {
            let mut git = self.git(&[]);
            git.arg("--work-tree").arg(into).args(arguments);
            git.current_dir(into).env("GIT_INDEX_FILE", &index);
            self.output(git, EXPORT_LIMIT, &doing).await?;
        }
        Ok(())
    }

    fn tree(&self, commit: &CommitId, folder: &str) -> String {
        let parts = [self.prefix.as_str(), folder.trim_matches('/')];
        let path: Vec<&str> = parts.into_iter().filter(|part| !part.is_empty()).collect();
        format!("{commit}:{}", path.join("/"))
    }

    fn remembered(&self, commit: &CommitId) -> Option<Arc<Files>> {
        let recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        recent.iter().find(|(id, _)| id == commit).map(|(_, files)| files.clone())
    }

    async fn text(&self, arguments: &[&str], doing: &str) -> Result<String, PipelineError> {
        let bytes = self.output(self.git(arguments), READ_LIMIT, doing).await?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    fn git(&self, arguments: &[&str]) -> Command {
        let mut git = Command::new("git");
        git.env_clear();
        git.env("PATH", std::env::var_os("PATH").unwrap_or_default());
        let home = match self.owner {
            Some((uid, _)) => home_of(uid),
            None => std::env::var_os("HOME").map(PathBuf::from),
        };
        git.env("HOME", home.unwrap_or_else(|| "/".into()));
        git.envs([("LC_ALL", "C"), ("GIT_TERMINAL_PROMPT", "0"), ("GIT_OPTIONAL_LOCKS", "0")]);
        git.arg("--git-dir").arg(&self.git_dir).args(["-c", "core.fsmonitor=false"]);
        git.args(arguments).current_dir("/");
        git.stdin(Stdio::null()).kill_on_drop(true);
        if let Some((uid, gid)) = self.owner {
            git.uid(uid).gid(gid);
        }
        git
    }

    async fn output(
        &self,
        mut git: Command,
        limit: Duration,
        doing: &str,
    ) -> Result<Vec<u8>, PipelineError> {
        let ran = tokio::time::timeout(limit, git.output()).await;
        let ran = ran.map_err(|_| {
            PipelineError::new(doing, format!("git did not answer within {} s", limit.as_secs()))
        })?;
        let ran = ran.map_err(|e| {
            PipelineError::new(doing, format!("cannot start `git`: {e}; install git"))
        })?;
        if ran.status.success() {
            return Ok(ran.stdout);
        }
        let said = String::from_utf8_lossy(&ran.stderr).trim().to_owned();
        Err(PipelineError::new(doing, format!("git said: {said} ({})", ran.status)))
    }
}

/// The git folder (or file, in a linked work tree) above `project`, and the way down from there.
fn find(project: &Path) -> Option<(PathBuf, String)> {
    for folder in project.ancestors() {
        let prefix = project.strip_prefix(folder).ok()?.to_str()?.to_owned();
        let git_dir = folder.join(".git");
        if git_dir.exists() {
            return Some((git_dir, prefix));
        }
        if folder.join("HEAD").is_file() && folder.join("objects").is_dir() {
            return Some((folder.to_path_buf(), String::new()));
        }
    }
    None
}

fn home_of(uid: u32) -> Option<PathBuf> {
    nix::unistd::User::from_uid(uid.into()).ok().flatten().map(|user| user.dir)
}

fn parse_listing(listing: &str) -> Files {
    let entry = |line: &str| {
        let (head, path) = line.split_once('\t')?;
        let mut words = head.split(' ');
        let (mode, _kind, object) = (words.next()?, words.next()?, words.next()?);
        Some((path.to_owned(), format!("{mode} {object}")))
    };
    listing.split('\0').filter_map(entry).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_that_moves_is_seen_without_asking_git() {
        let folder = tempfile::tempdir().unwrap();
        let git = |arguments: &[&str]| {
            let identity =
                ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"];
            let mut git = std::process::Command::new("git");
            let done = git.current_dir(folder.path()).args(identity).args(arguments).output();
            assert!(done.unwrap().status.success());
        };
        git(&["init", "-q", "-b", "main"]);
        let mut seen = stamp(&folder.path().join(".git"));
        let mut moved = |arguments: &[&str]| {
            git(arguments);
            let now = stamp(&folder.path().join(".git"));
            std::mem::replace(&mut seen, now.clone()) != now
        };
        assert!(moved(&["commit", "-q", "--allow-empty", "-m", "one"]));
        assert!(moved(&["commit", "-q", "--allow-empty", "-m", "two"]));
        assert!(moved(&["branch", "team/feature"]));
        assert!(!moved(&["status"]));
        git(&["worktree", "add", "-q", "linked", "team/feature"]);
        let heads = |stamp: Stamp| stamp.iter().any(|(path, _)| path.ends_with("refs/heads/main"));
        assert!(heads(stamp(&folder.path().join("linked/.git"))));
    }
}
