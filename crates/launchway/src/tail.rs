//! Follows a file that grows, also over a rotation.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{Read, Seek};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

/// A file and how far it was read.
#[derive(Debug)]
pub struct Tail {
    path: PathBuf,
    open: Option<File>,
    /// A line whose end was not written yet.
    partial: Vec<u8>,
}

/// Read at a time, so that a log of gigabytes does not fill the memory.
const CHUNK: u64 = 256 * 1024;

impl Tail {
    /// From the beginning of the file, which may not exist yet.
    pub fn new(path: PathBuf) -> Self {
        Self { path, open: None, partial: Vec::new() }
    }

    /// From the end of the file, and its last `lines` lines.
    pub fn last(path: PathBuf, lines: usize) -> (Self, Vec<String>) {
        let mut tail = Self::new(path);
        let mut last = VecDeque::with_capacity(lines.min(1024));
        loop {
            let more = tail.lines();
            if more.is_empty() {
                return (tail, last.into());
            }
            last.extend(more);
            let excess = last.len().saturating_sub(lines);
            last.drain(..excess);
        }
    }

    /// Whole lines that were added. Empty when there is nothing new.
    pub fn lines(&mut self) -> Vec<String> {
        if self.open.is_none() {
            self.open = File::open(&self.path).ok();
        }
        if self.read() == 0 && self.rotated() {
            self.open = File::open(&self.path).ok();
            self.read();
        }
        self.whole_lines()
    }

    /// What was written without an end of line, once nothing will follow.
    pub fn rest(&mut self) -> Option<String> {
        let rest = std::mem::take(&mut self.partial);
        (!rest.is_empty()).then(|| String::from_utf8_lossy(&rest).into_owned())
    }

    fn read(&mut self) -> usize {
        let Some(file) = &mut self.open else { return 0 };
        // A file that cannot be read now is tried again at the next call.
        file.take(CHUNK).read_to_end(&mut self.partial).unwrap_or(0)
    }

    /// Another file has the name now, or this one was emptied.
    fn rotated(&mut self) -> bool {
        let Ok(now) = std::fs::metadata(&self.path) else { return false };
        let Some(file) = &mut self.open else { return true };
        let Ok(open) = file.metadata() else { return true };
        let at = file.stream_position().unwrap_or(0);
        open.ino() != now.ino() || now.len() < at
    }

    fn whole_lines(&mut self) -> Vec<String> {
        let Some(end) = self.partial.iter().rposition(|byte| *byte == b'\n') else {
            return Vec::new();
        };
        let rest = self.partial.split_off(end + 1);
        let whole = std::mem::replace(&mut self.partial, rest);
        String::from_utf8_lossy(&whole).lines().map(str::to_owned).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn lines_are_followed_over_a_rotation() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        std::fs::write(&path, "one\ntwo\nthr").unwrap();
        let (mut tail, last) = Tail::last(path.clone(), 1);
        assert_eq!(last, ["two"]);
        File::options().append(true).open(&path).unwrap().write_all(b"ee\n").unwrap();
        std::fs::rename(&path, folder.path().join("log.1")).unwrap();
        std::fs::write(&path, "four\n").unwrap();
        assert_eq!(tail.lines(), ["three"]);
        assert_eq!(tail.lines(), ["four"]);
        assert!(tail.lines().is_empty());
        assert_eq!(tail.rest(), None);
    }
}
