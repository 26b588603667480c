//! The last lines of a unit's output, read from the end.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use crate::shim::numbered_log;
use crate::unit::Unit;

/// What a failure report keeps.
pub(crate) const REPORT: usize = 200;

/// Among so many lines, one is not empty.
const A_FEW: usize = 10;
/// Of a line that is kept as somebody's last words.
const LINE: usize = 500;

const BLOCK: u64 = 64 << 10;
/// More than this is not read, however many lines are asked for.
const MOST: usize = 16 << 20;

/// The last lines of what the unit runs now, oldest first.
pub(super) fn tail(unit: &Unit, lines: usize) -> Vec<String> {
    let log = unit.log_path();
    let older = (1..).map(|number| numbered_log(&log, number)).take_while(|path| path.exists());
    read(std::iter::once(log.clone()).chain(older), lines)
}

/// The last lines of one file, oldest first.
pub(crate) fn of_file(path: PathBuf, lines: usize) -> Vec<String> {
    read(std::iter::once(path), lines)
}

/// The last lines of the unit, wherever they are written.
pub(super) fn of_unit(unit: &Unit, lines: usize) -> Vec<String> {
    let elsewhere = unit.output_path();
    if elsewhere != unit.log_path() {
        return of_file(elsewhere, lines);
    }
    tail(unit, lines)
}

/// The last line of what the unit runs now that says something, cut where it is long.
pub(crate) fn last_words(unit: &Unit) -> Option<String> {
    said(&tail(unit, A_FEW))
}

/// The last of the lines that says something, cut where it is long.
pub(crate) fn said(lines: &[String]) -> Option<String> {
    let last = lines.iter().rev().find(|line| !line.trim().is_empty())?;
    Some(last.trim().chars().take(LINE).collect())
}

/// `files` from the youngest to the oldest.
fn read(files: impl Iterator<Item = PathBuf>, lines: usize) -> Vec<String> {
    let mut bytes = Vec::new();
    for file in files {
        if count(&bytes) > lines || bytes.len() > MOST {
            break;
        }
        let wanted = lines - count(&bytes).min(lines);
        let mut end = end_of(&file, wanted, MOST - bytes.len().min(MOST)).unwrap_or_default();
        end.append(&mut bytes);
        bytes = end;
    }
    let text = String::from_utf8_lossy(&bytes);
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].iter().map(|line| (*line).to_owned()).collect()
}

fn count(bytes: &[u8]) -> usize {
    bytes.iter().filter(|byte| **byte == b'\n').count()
}

/// Reads blocks from the end until they hold more than `lines` ends of lines.
fn end_of(path: &Path, lines: usize, most: usize) -> io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    let mut start = file.metadata()?.len();
    let mut bytes = Vec::new();
    while start > 0 && count(&bytes) <= lines && bytes.len() < most {
        let length = BLOCK.min(start);
        start -= length;
        file.seek(SeekFrom::Start(start))?;
        let mut block = vec![0; length as usize];
        file.read_exact(&mut block)?;
        block.append(&mut bytes);
        bytes = block;
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_are_found_over_rotated_files() {
        let folder = tempfile::tempdir().unwrap();
        let unit = Unit::at(folder.path());
        std::fs::write(folder.path().join("log.1"), "one\ntwo\n").unwrap();
        std::fs::write(folder.path().join("log"), "three\r\nfour").unwrap();
        assert_eq!(tail(&unit, 3), ["two", "three", "four"]);
        assert_eq!(tail(&unit, 9), ["one", "two", "three", "four"]);
        assert_eq!(tail(&unit, 0), Vec::<String>::new());
    }

    #[test]
    fn a_long_log_is_read_from_its_end_only() {
        let folder = tempfile::tempdir().unwrap();
        let text: String = (0..50_000).map(|line| format!("line {line}\n")).collect();
        std::fs::write(folder.path().join("log"), text).unwrap();
        let lines = tail(&Unit::at(folder.path()), 2);
        assert_eq!(lines, ["line 49998", "line 49999"]);
    }
}
