//! Small files that are whole or not there, locks between processes, and ownership of trees.

use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt, lchown};
use std::path::{Component, Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::error::PipelineError;

/// The unprivileged user that commands run as when we are root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RunAs {
    pub uid: u32,
    pub gid: u32,
}

/// Writes `value` so that a reader sees all of it or nothing, after a crash too.
pub(crate) fn write_json(path: &Path, value: &impl Serialize) -> Result<(), PipelineError> {
    let doing = || format!("writing {}", path.display());
    let text = serde_json::to_vec(value).map_err(|e| PipelineError::new(doing(), e))?;
    write(path, &text, PRIVATE).map_err(|e| PipelineError::new(doing(), e))
}

/// What a build prints and reports may hold secrets: not for every user of the machine.
pub(crate) const PRIVATE: u32 = 0o640;
/// What the app's own user must be able to read.
pub(crate) const OPEN: u32 = 0o644;

/// Writes `bytes` so that a reader sees all of them or nothing.
pub(crate) fn write(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder)?;
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    io::Write::write_all(&mut file, bytes)?;
    file.as_file().set_permissions(fs::Permissions::from_mode(mode))?;
    file.persist(path)?;
    Ok(())
}

/// The value in `path`; `None` if it is not there or of another form, for example of an older version.
pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> Option<T> {
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}

/// A folder that exists and belongs to `owner`.
pub(crate) fn folder_of(path: &Path, owner: Option<RunAs>) -> Result<(), PipelineError> {
    let make = || -> io::Result<()> {
        fs::create_dir_all(path)?;
        match owner {
            Some(user) => lchown(path, Some(user.uid), Some(user.gid)),
            None => Ok(()),
        }
    };
    make().map_err(|e| PipelineError::new(format!("making the folder {}", path.display()), e))
}

/// Gives the whole tree to `owner`, symlinks themselves and not what they point to.
pub(crate) fn give_tree(root: &Path, owner: RunAs) -> io::Result<()> {
    walk(root, &mut |path, _| lchown(path, Some(owner.uid), Some(owner.gid)))
}

/// Removes a tree even if its folders are read-only. Nothing there is fine.
pub(crate) fn remove_tree(root: &Path) -> io::Result<()> {
    let gone = |result: io::Result<()>| match result {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    };
    if gone(fs::remove_dir_all(root)).is_ok() {
        return Ok(());
    }
    gone(walk(root, &mut |path, metadata| {
        if metadata.is_dir() {
            fs::set_permissions(path, fs::Permissions::from_mode(0o755))?;
        }
        Ok(())
    }))?;
    gone(fs::remove_dir_all(root))
}

/// Calls `visit` for `root` and everything below it, folders before what is in them; follows no symlink.
pub(crate) fn walk(
    root: &Path,
    visit: &mut impl FnMut(&Path, &fs::Metadata) -> io::Result<()>,
) -> io::Result<()> {
    let metadata = fs::symlink_metadata(root)?;
    visit(root, &metadata)?;
    if metadata.is_dir() {
        for entry in fs::read_dir(root)? {
            walk(&entry?.path(), visit)?;
        }
    }
    Ok(())
}

/// A relative path of the project that stays inside it, or why not.
pub(crate) fn inside(root: &Path, relative: &str) -> Result<PathBuf, PipelineError> {
    let plain = |part: Component<'_>| matches!(part, Component::Normal(_) | Component::CurDir);
    if Path::new(relative).components().all(plain) {
        return Ok(root.join(relative));
    }
    Err(PipelineError::new(
        format!("looking for `{relative}`"),
        "it lies outside the project; use a path relative to it, without `..`",
    ))
}

/// The real place of an existing `path`, if no symlink leads out of `root`.
pub(crate) fn real_inside(root: &Path, path: &Path) -> Option<PathBuf> {
    let (root, path) = (root.canonicalize().ok()?, path.canonicalize().ok()?);
    path.starts_with(root).then_some(path)
}

/// Waits for the lock on `path` against other processes; held until dropped or dead.
pub(crate) async fn lock(path: PathBuf) -> Result<Flock<fs::File>, PipelineError> {
    let doing = format!("locking {}", path.display());
    let take = move || {
        let file = fs::File::create(&path).map_err(|e| e.to_string())?;
        Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, e)| e.to_string())
    };
    match blocking(take).await {
        Ok(lock) => Ok(lock),
        Err(why) => Err(PipelineError::new(doing, why)),
    }
}

/// Runs file work beside the async threads; a panic in it goes on in the caller.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(value) => value,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_that_leaves_the_project_is_refused() {
        let root = Path::new("/p");
        assert!(inside(root, "a/../../x").is_err() && inside(root, "/etc/passwd").is_err());
        assert_eq!(inside(root, "a/b").unwrap(), Path::new("/p/a/b"));
    }

    #[test]
    fn a_read_only_tree_can_be_removed() {
        let folder = tempfile::tempdir().unwrap();
        let tree = folder.path().join("tree");
        fs::create_dir_all(tree.join("a/b")).unwrap();
        fs::write(tree.join("a/b/file"), "x").unwrap();
        for path in ["tree/a/b", "tree/a", "tree"] {
            let mode = fs::Permissions::from_mode(0o555);
            fs::set_permissions(folder.path().join(path), mode).unwrap();
        }
        remove_tree(&tree).unwrap();
        assert!(!tree.exists());
        remove_tree(&tree).unwrap();
    }
}
