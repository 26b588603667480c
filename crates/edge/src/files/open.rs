//! Opening a file so that no name leads out of its folder, and reading it piece by piece.

use std::fs::File;
use std::io::{self, ErrorKind, IoSliceMut};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::atomic::{AtomicI64, Ordering::Relaxed};
use std::task::{Context, Poll, ready};
use std::time::SystemTime;

use bytes::{Bytes, BytesMut};
use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat, openat2};
use nix::sys::stat::Mode;
use rustix::io::{ReadWriteFlags, preadv2};

use super::compress::Identity;
use super::disk::{Pieces, Source};
use super::names::Encodings;
use crate::facts::now_ms;

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
    let root = match File::open(folder) {
        Ok(root) => root,
        Err(error) => {
            complain(folder, &error);
            return Found::Nothing;
        }
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

/// At most once a second: clients choose how often they ask.
fn complain(folder: &Path, error: &io::Error) {
    static LAST: AtomicI64 = AtomicI64::new(0);
    let now = now_ms();
    let last = LAST.load(Relaxed);
    if now - last >= 1000 && LAST.compare_exchange(last, now, Relaxed, Relaxed).is_ok() {
        let folder = folder.display();
        tracing::warn!(%folder, %error, "a folder of static files cannot be opened: its requests get 404");
    }
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

/// Read at once, as long as the page cache has it: many clients share a worker.
const PIECE: u64 = 32 * 1024;
/// Read where waiting holds nobody up: each time costs a change of threads.
const FAR_PIECE: u64 = 128 * 1024;

/// The rest of a file, or of a range of it.
pub struct Reader {
    file: File,
    at: u64,
    until: u64,
}

impl Reader {
    pub fn new(file: File, from: u64, until: u64) -> Self {
        Self { file, at: from, until }
    }

    fn next(&mut self, most: u64, flags: ReadWriteFlags) -> Option<io::Result<Bytes>> {
        let size = (self.until - self.at).min(most);
        if size == 0 {
            return None;
        }
        let mut piece = BytesMut::zeroed(size as usize);
        let read = loop {
            match preadv2(&self.file, &mut [IoSliceMut::new(&mut piece)], self.at, flags) {
                Err(rustix::io::Errno::INTR) => {}
                read => break read,
            }
        };
        Some(match read {
            Ok(0) => Err(io::Error::new(ErrorKind::UnexpectedEof, "the file became shorter")),
            Ok(read) => {
                self.at += read as u64;
                piece.truncate(read);
                Ok(piece.freeze())
            }
            Err(error) => Err(error.into()),
        })
    }
}

impl Source for Reader {
    fn at_once(&mut self) -> Poll<Option<io::Result<Bytes>>> {
        match self.next(PIECE, ReadWriteFlags::NOWAIT) {
            // What fails here may only fail because it must not wait: some file systems cannot tell
            // (EOPNOTSUPP). A true failure comes again.
            Some(Err(error)) if error.kind() != ErrorKind::UnexpectedEof => Poll::Pending,
            read => Poll::Ready(read),
        }
    }

    fn wait(&mut self) -> Option<io::Result<Bytes>> {
        self.next(FAR_PIECE, ReadWriteFlags::empty())
    }
}

/// A file, or a range of it, on its way. One that became shorter breaks the answer off rather than ending it
/// early.
pub struct FileBody {
    pieces: Pieces<Reader>,
    left: u64,
}

impl FileBody {
    pub fn new(file: File, from: u64, until: u64) -> Self {
        Self { pieces: Pieces::new(Reader::new(file, from, until)), left: until - from }
    }

    pub fn left(&self) -> u64 {
        self.left
    }

    /// The next piece; never an empty one.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<io::Result<Bytes>>> {
        let piece = ready!(self.pieces.poll_next(cx));
        if let Some(Ok(piece)) = &piece {
            self.left -= piece.len() as u64;
        }
        Poll::Ready(piece)
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

    /// The kernel's own files know no reading without waiting; a disk's do.
    #[test]
    fn what_cannot_be_read_at_once_is_read_by_waiting_and_a_shorter_file_fails() {
        let whole = |file: File, length: u64| {
            let mut reader = Reader::new(file, 0, length);
            let mut text = Vec::new();
            loop {
                let piece = match reader.at_once() {
                    Poll::Ready(piece) => piece,
                    Poll::Pending => reader.wait(),
                };
                let Some(piece) = piece else { return Ok(text) };
                text.extend_from_slice(&piece.map_err(|error| error.kind())?);
            }
        };
        let path = "/proc/version";
        let version = std::fs::read(path).unwrap();
        assert_eq!(whole(File::open(path).unwrap(), version.len() as u64), Ok(version));
        let content = vec![7; 300_000];
        let mut file = tempfile::NamedTempFile::new().unwrap();
        std::io::Write::write_all(&mut file, &content).unwrap();
        assert_eq!(whole(file.reopen().unwrap(), 300_000), Ok(content));
        assert_eq!(whole(file.reopen().unwrap(), 300_001), Err(ErrorKind::UnexpectedEof));
    }
}
