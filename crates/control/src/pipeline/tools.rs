//! Which programs a command uses, and in which version, as far as one can tell without running them.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Interpreters of interpreters end here.
const DEEPEST: usize = 3;

/// The programs named in `command` that `path` (as in `$PATH`) finds, with their interpreters: name to identity.
/// A changed identity means another version; words that are no program cost a look and nothing else.
pub(crate) fn tools(command: &str, path: &str) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let words = command.split(|c: char| c.is_whitespace() || "\"'`;|&()<>{}$=".contains(c));
    for word in words.filter(|word| !word.is_empty()) {
        add(word, path, DEEPEST, &mut found);
    }
    found
}

fn add(word: &str, path: &str, depth: usize, found: &mut BTreeMap<String, String>) {
    if depth == 0 || found.contains_key(word) {
        return;
    }
    let Some(program) = resolve(word, path) else { return };
    let Some(identity) = identity(&program) else { return };
    found.insert(word.to_owned(), identity);
    if let Some(interpreter) = interpreter(&program) {
        add(&interpreter, path, depth - 1, found);
    }
}

/// The program that `path` (as in `$PATH`) has for `word`.
pub(crate) fn resolve(word: &str, path: &str) -> Option<PathBuf> {
    if word.contains('/') {
        // A relative path is a file of the project: git knows it.
        return word.starts_with('/').then(|| PathBuf::from(word)).filter(|p| executable(p));
    }
    path.split(':').map(|folder| Path::new(folder).join(word)).find(|p| executable(p))
}

fn executable(path: &Path) -> bool {
    path.metadata().is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
}

/// Changes with its version.
pub(crate) fn identity(program: &Path) -> Option<String> {
    let real = program.canonicalize().ok()?;
    let metadata = real.metadata().ok()?;
    let (size, seconds, nanos) = (metadata.size(), metadata.mtime(), metadata.mtime_nsec());
    Some(format!("{} of {size} bytes from {seconds}.{nanos:09}", real.display()))
}

/// What `#!` in the first line asks for.
fn interpreter(program: &Path) -> Option<String> {
    let mut head = [0; 256];
    let count = File::open(program).ok()?.read(&mut head).ok()?;
    let line = head[..count].strip_prefix(b"#!")?.split(|b| *b == b'\n').next()?;
    let line = std::str::from_utf8(line).ok()?;
    let mut words = line.split_whitespace();
    let first = words.next()?;
    if !first.ends_with("/env") {
        return Some(first.to_owned());
    }
    words.find(|word| !word.starts_with('-')).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn program(folder: &Path, name: &str, text: &str) {
        let path = folder.join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    #[test]
    fn a_script_is_known_with_its_interpreter_and_changes_with_it() {
        let folder = tempfile::tempdir().unwrap();
        program(folder.path(), "lint", "#!/usr/bin/env myruby\nx");
        program(folder.path(), "myruby", "one");
        let path = folder.path().to_str().unwrap();
        let before = tools("cd src && lint --all ./lint", path);
        assert_eq!(before.keys().collect::<Vec<_>>(), ["lint", "myruby"]);
        program(folder.path(), "myruby", "another");
        assert_ne!(tools("lint", path)["myruby"], before["myruby"]);
    }
}
