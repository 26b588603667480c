//! Opening a file so that no name leads out of its folder, and reading it piece by piece.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::time::SystemTime;

use bytes::{Bytes, BytesMut};
use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat, openat2};
use nix::sys::stat::Mode;

use super::compress::Identity;
use super::names::Encodings;

/// What lies under a name.
pub enum Found {
    File(Opened),
    /// A folder with an index page.
    Folder,
    Nothing,
}

/// A file, opened, perhaps in a compressed variant.
pub struct Opened {
    pub file: File,
    /// The name without the variant's ending.
    pub name: String,
    pub length: u64,
    pub modified: SystemTime,
    pub encoding: Option<&'static str>,
    pub identity: Identity,
}

/// Opens `name` in `folder`, the best variant for `encodings`.
pub fn open(folder: &Path, name: &str, encodings: Encodings) -> Found {
    let Ok(root) = File::open(folder) else {
        tracing::warn!(folder = %folder.display(), "the folder of static files cannot be opened");
        return Found::Nothing;
    };
    let Some(plain) = open_beneath(&root, name) else { return Found::Nothing };
    if plain.is_dir() {
        let index = open_beneath(&root, &format!("{name}/index.html"));
        return if index.is_some_and(|i| i.is_file()) { Found::Folder } else { Found::Nothing };
    }
    if !plain.is_file() {
        return Found::Nothing;
    }
    let variants = [(encodings.br, ".br", "br"), (encodings.gzip, ".gz", "gzip")];
    for (_, ending, encoding) in variants.into_iter().filter(|(wanted, ..)| *wanted) {
        let variant = open_beneath(&root, &format!("{name}{ending}"));
        if let Some(variant) = variant.filter(Entry::is_file) {
            return Found::File(variant.opened(name, Some(encoding)));
        }
    }
    Found::File(plain.opened(name, None))
}

struct Entry {
    file: File,
    data: std::fs::Metadata,
}

impl Entry {
    fn is_file(&self) -> bool {
        self.data.is_file()
    }

    fn is_dir(&self) -> bool {
        self.data.is_dir()
    }

    fn opened(self, name: &str, encoding: Option<&'static str>) -> Opened {
        let modified = self.data.modified().unwrap_or(SystemTime::UNIX_EPOCH);
        let length = self.data.len();
        let since = modified.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let identity = (self.data.dev(), self.data.ino(), since.as_nanos(), length);
        Opened { file: self.file, name: name.into(), length, modified, encoding, identity }
    }
}

/// The kernel itself refuses a name that leaves `root`, through `..` or through a symbolic link.
fn open_beneath(root: &File, name: &str) -> Option<Entry> {
    // Without O_NONBLOCK, opening a named pipe would wait for a writer.
    let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
    let how = OpenHow::new()
        .flags(flags)
        .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    let file = match openat2(root, name, how) {
        Ok(file) => file.into(),
        // An old kernel does not know the call, and some sandboxes refuse it.
        Err(Errno::ENOSYS | Errno::EPERM) => walk(root, name)?,
        Err(_) => return None,
    };
    let data = file.metadata().ok()?;
    Some(Entry { file, data })
}

/// The same step by step, for where the kernel cannot do it: no symbolic link is followed at all.
fn walk(root: &File, name: &str) -> Option<File> {
    let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW | OFlag::O_NOCTTY;
    let mut parts = name.split('/').peekable();
    let mut at = root.try_clone().ok()?;
    while let Some(part) = parts.next() {
        if part.is_empty() || part == "." || part == ".." {
            return None;
        }
        let last = parts.peek().is_none();
        let more = if last { OFlag::O_NONBLOCK } else { OFlag::O_DIRECTORY };
        at = openat(&at, part, flags | more, Mode::empty()).ok()?.into();
    }
    Some(at)
}

const PIECE: u64 = 32 * 1024;

/// The rest of a file, or of a range of it.
pub struct FileBody {
    file: File,
    at: u64,
    until: u64,
}

impl FileBody {
    pub fn new(file: File, from: u64, until: u64) -> Self {
        Self { file, at: from, until }
    }

    pub fn left(&self) -> u64 {
        self.until - self.at
    }

    /// The next piece. A file that became shorter breaks the answer off rather than ending it early.
    pub fn next(&mut self) -> Option<io::Result<Bytes>> {
        let size = self.left().min(PIECE);
        if size == 0 {
            return None;
        }
        let mut piece = BytesMut::zeroed(size as usize);
        if let Err(error) = self.file.read_exact_at(&mut piece, self.at) {
            return Some(Err(error));
        }
        self.at += size;
        Some(Ok(piece.freeze()))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn without_the_kernels_help_no_name_leads_out_of_the_folder_either() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        std::fs::create_dir_all(path("site/assets")).unwrap();
        std::fs::write(path("secret"), "secret").unwrap();
        std::fs::write(path("site/assets/app.js"), "script").unwrap();
        symlink("../secret", path("site/leak")).unwrap();
        symlink("..", path("site/up")).unwrap();
        let root = File::open(path("site")).unwrap();
        let mut text = String::new();
        walk(&root, "assets/app.js").unwrap().read_to_string(&mut text).unwrap();
        assert_eq!(text, "script");
        let etc = "/etc/passwd";
        for name in ["leak", "up/secret", "../secret", "assets/../../secret", etc, "", "a//b", "."]
        {
            assert!(walk(&root, name).is_none(), "{name}");
        }
    }
}
