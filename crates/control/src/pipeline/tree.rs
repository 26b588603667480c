//! Content-addressed trees: made read-only, and named by what is in them.

use std::fs;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, lchown};
use std::path::{Path, PathBuf};

use domain::Digest;
use sha2::{Digest as _, Sha256};

use super::files::walk;

/// More readers than this do not make a disk quicker.
const READERS: usize = 4;

/// Takes every right to write from the tree; ours alone if we are root.
pub(crate) fn make_read_only(root: &Path) -> io::Result<()> {
    let ours = nix::unistd::geteuid().is_root();
    walk(root, &mut |path, metadata| {
        if ours {
            lchown(path, Some(0), Some(0))?;
        }
        if metadata.is_symlink() {
            return Ok(());
        }
        let executable = metadata.is_dir() || metadata.permissions().mode() & 0o111 != 0;
        let mode = if executable { 0o555 } else { 0o444 };
        fs::set_permissions(path, fs::Permissions::from_mode(mode))
    })
}

/// Keeps only `part` of the tree and the folders on the way to it. A part behind a symlink needs the rest too.
pub(crate) fn keep_only(root: &Path, part: &Path) -> io::Result<()> {
    if root.join(part).canonicalize()? != root.canonicalize()?.join(part) {
        return Ok(());
    }
    let mut folder = root.to_path_buf();
    for name in part.components().filter(|c| matches!(c, std::path::Component::Normal(_))) {
        for entry in fs::read_dir(&folder)? {
            let entry = entry?;
            if entry.file_name() == name.as_os_str() {
                continue;
            }
            if entry.file_type()?.is_dir() {
                super::files::remove_tree(&entry.path())?;
            } else {
                fs::remove_file(entry.path())?;
            }
        }
        folder.push(name);
    }
    Ok(())
}

/// SHA-256 over the sorted list of all that is in the tree: kind, right to execute, content, path.
pub(crate) fn digest(root: &Path) -> io::Result<Digest> {
    let mut entries = Vec::new();
    let mut files = Vec::new();
    walk(root, &mut |path, metadata| {
        let name = path.strip_prefix(root).unwrap_or(path).as_os_str().as_bytes().to_vec();
        if metadata.is_file() {
            let executable = metadata.permissions().mode() & 0o111 != 0;
            files.push((path.to_path_buf(), name, if executable { "x" } else { "f" }));
        } else if metadata.is_symlink() {
            let target = fs::read_link(path)?;
            entries.push((name, "l", Digest::of(target.as_os_str().as_bytes()).to_string()));
        } else {
            entries.push((name, if metadata.is_dir() { "d" } else { "o" }, String::new()));
        }
        Ok(())
    })?;
    let contents = hash_all(&files.iter().map(|(path, ..)| path.clone()).collect::<Vec<_>>())?;
    entries.extend(
        files.into_iter().zip(contents).map(|((_, name, kind), content)| (name, kind, content)),
    );
    entries.sort();
    let mut list = Sha256::new();
    for (name, kind, content) in entries {
        for part in [kind.as_bytes(), content.as_bytes(), &name] {
            list.update(part);
            list.update([0]);
        }
    }
    Digest::new(hex::encode(list.finalize())).map_err(io::Error::other)
}

fn hash_all(paths: &[PathBuf]) -> io::Result<Vec<String>> {
    let readers = std::thread::available_parallelism().map_or(1, |n| n.get().min(READERS));
    let share = paths.len().div_ceil(readers).max(1);
    std::thread::scope(|scope| {
        let hash_share = |share: &'_ [PathBuf]| share.iter().map(|path| hash(path)).collect();
        let threads: Vec<_> = paths
            .chunks(share)
            .map(|share| scope.spawn(move || -> io::Result<Vec<String>> { hash_share(share) }))
            .collect();
        let mut all = Vec::with_capacity(paths.len());
        for thread in threads {
            let part = thread.join().map_err(|_| io::Error::other("a hashing thread failed"))?;
            all.extend(part?);
        }
        Ok(all)
    })
}

fn hash(path: &Path) -> io::Result<String> {
    let mut file = fs::File::open(path)?;
    let mut sum = Sha256::new();
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let count = file.read(&mut buffer)?;
        if count == 0 {
            return Ok(hex::encode(sum.finalize()));
        }
        sum.update(&buffer[..count]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_digest_follows_content_name_right_to_execute_and_link() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        let mut seen = vec![digest(root).unwrap()];
        let mut changed = || {
            let now = digest(root).unwrap();
            assert!(!seen.contains(&now));
            assert_eq!(digest(root).unwrap(), now);
            seen.push(now);
        };
        fs::write(root.join("a"), "one").unwrap();
        changed();
        fs::write(root.join("a"), "two").unwrap();
        changed();
        fs::set_permissions(root.join("a"), fs::Permissions::from_mode(0o755)).unwrap();
        changed();
        fs::rename(root.join("a"), root.join("b")).unwrap();
        changed();
        std::os::unix::fs::symlink("b", root.join("c")).unwrap();
        changed();
        fs::create_dir(root.join("d")).unwrap();
        changed();
    }

    #[test]
    fn only_the_served_folder_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        for path in ["node_modules/x", "out/dist", "out/cache"] {
            fs::create_dir_all(folder.path().join(path)).unwrap();
        }
        fs::write(folder.path().join("package.json"), "{}").unwrap();
        fs::write(folder.path().join("out/dist/index.html"), "tea").unwrap();
        keep_only(folder.path(), Path::new("out/dist")).unwrap();
        let mut left = Vec::new();
        walk(folder.path(), &mut |path, _| {
            left.push(path.strip_prefix(folder.path()).unwrap().display().to_string());
            Ok(())
        })
        .unwrap();
        assert_eq!(left, ["", "out", "out/dist", "out/dist/index.html"]);
    }
}
