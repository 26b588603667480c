//! A log of bounded size: `log`, `log.1`, `log.2`, ... as the command wrote it, cut between lines;
//! or one file whose end is dropped.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::unit::WhenFull;

/// The writer of one unit's log. A full disk loses output but never stops the command.
pub(super) struct Log {
    path: PathBuf,
    limit: u64,
    full: WhenFull,
    file: File,
    size: u64,
    /// Nothing more is written, and the log says so.
    closed: bool,
}

impl Log {
    pub(super) fn open(path: PathBuf, limit: u64, full: WhenFull) -> io::Result<Self> {
        let file = append_to(&path)?;
        let size = file.metadata()?.len();
        Ok(Self { path, limit, full, file, size, closed: false })
    }

    /// Writes output; at the limit a new file begins with a new line.
    pub(super) fn write(&mut self, bytes: &[u8]) {
        let full = self.size + bytes.len() as u64 > self.limit;
        if full && self.full == WhenFull::Drop {
            return self.close(bytes);
        }
        let overfull = self.size > self.limit * 2;
        let cut = if overfull { Some(0) } else { memrchr(bytes).map(|newline| newline + 1) };
        let Some(cut) = cut.filter(|_| full) else { return self.append(bytes) };
        self.append(&bytes[..cut]);
        self.rotate();
        self.append(&bytes[cut..]);
    }

    /// A line of the supervisor's own, where the command could not say it itself.
    pub(super) fn note(&mut self, text: &str) {
        self.append(format!("launchway: {text}\n").as_bytes());
    }

    /// Fills the file up to its limit and ends it.
    fn close(&mut self, bytes: &[u8]) {
        if std::mem::replace(&mut self.closed, true) {
            return;
        }
        let room = usize::try_from(self.limit.saturating_sub(self.size)).unwrap_or(0);
        self.append(&bytes[..room.min(bytes.len())]);
        self.append(b"\nlaunchway: the log is full; the rest of the output was dropped\n");
    }

    fn append(&mut self, bytes: &[u8]) {
        if self.file.write_all(bytes).is_ok() {
            self.size += bytes.len() as u64;
        }
    }

    fn rotate(&mut self) {
        let WhenFull::Rotate(files) = self.full else { return };
        for number in (1..files.saturating_sub(1)).rev() {
            let _ = fs::rename(numbered(&self.path, number), numbered(&self.path, number + 1));
        }
        let moved = match files {
            0 | 1 => fs::remove_file(&self.path),
            _ => fs::rename(&self.path, numbered(&self.path, 1)),
        };
        if let (Ok(()), Ok(file)) = (moved, append_to(&self.path)) {
            self.file = file;
            self.size = 0;
        }
    }
}

fn append_to(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o640).open(path)
}

fn memrchr(bytes: &[u8]) -> Option<usize> {
    bytes.iter().rposition(|byte| *byte == b'\n')
}

/// `log.1` is younger than `log.2`.
pub(crate) fn numbered(path: &Path, number: u32) -> PathBuf {
    path.with_extension(number.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_keeps_whole_lines_in_a_bounded_number_of_files() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let mut log = Log::open(path.clone(), 100, WhenFull::Rotate(3)).unwrap();
        for line in 0..100 {
            log.write(format!("line {line:04}\n").as_bytes());
        }
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 3);
        for file in [path.clone(), numbered(&path, 1), numbered(&path, 2)] {
            let text = fs::read_to_string(file).unwrap();
            assert!(text.len() <= 110 && text.lines().all(|line| line.len() == 9), "{text}");
        }
    }

    #[test]
    fn an_endless_line_is_bounded_too() {
        let folder = tempfile::tempdir().unwrap();
        let mut log = Log::open(folder.path().join("log"), 100, WhenFull::Rotate(2)).unwrap();
        for _ in 0..100 {
            log.write(&[b'x'; 50]);
        }
        let total: u64 = fs::read_dir(folder.path())
            .unwrap()
            .map(|f| f.unwrap().metadata().unwrap().len())
            .sum();
        assert!(total <= 600, "{total} bytes");
    }

    #[test]
    fn a_full_log_that_is_not_rotated_says_that_the_rest_was_dropped() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let mut log = Log::open(path.clone(), 100, WhenFull::Drop).unwrap();
        for _ in 0..50 {
            log.write(b"0123456789\n");
        }
        let text = fs::read_to_string(path).unwrap();
        assert_eq!(text.matches("was dropped").count(), 1);
        assert!(text.starts_with("0123456789\n") && text.len() < 200, "{text}");
    }
}
