//! osv-scanner 2 (<https://google.github.io/osv-scanner/>): looks up in the database of osv.dev.
//!
//! Its own database is the network's; the user's own is a folder with `ECOSYSTEM/all.zip`, as osv.dev exports them and
//! `--download-offline-databases` puts them (into `osv-scalibr`, or `osv-scanner` before version 2.4). Traps: without the
//! database of one ecosystem it writes a report with no results at all, and ends with 127; from a database with nothing
//! in it, it finds nothing and ends with 0; records that it cannot read it skips without a word.

use std::fs;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use domain::report::osv;
use domain::slot::Exit;

use super::super::environment::Variables;
use super::bench::{link, word};
use super::scanner::{Adapter, Answer};
use super::subject::Subject;

/// Where versions of it look below the folder that they are told.
const HOMES: [&str; 2] = ["osv-scalibr", "osv-scanner"];

pub(super) struct OsvScanner;

impl Adapter for OsvScanner {
    /// The files do not say of which day they are; they are as old as the oldest of them was written.
    fn database(&self, folder: &Path) -> Result<Option<SystemTime>, String> {
        let home = home(folder);
        let entries = fs::read_dir(&home).map_err(|e| e.to_string())?;
        let mut oldest = None;
        for entry in entries.flatten() {
            let archive = entry.path().join("all.zip");
            let Ok(metadata) = archive.metadata() else { continue };
            let records = records(&archive).map_err(|e| format!("{}: {e}", archive.display()))?;
            if records == 0 {
                return Err(format!("{} holds no records", archive.display()));
            }
            let written = metadata.modified().map_err(|e| e.to_string())?;
            oldest = Some(oldest.map_or(written, |so_far: SystemTime| so_far.min(written)));
        }
        oldest.map(Some).ok_or_else(|| "there is no `ECOSYSTEM/all.zip` in it".into())
    }

    fn lay_out(&self, folder: &Path, scratch: &Path) -> io::Result<()> {
        HOMES.iter().try_for_each(|name| link(&home(folder), &scratch.join(name)))
    }

    fn command(
        &self,
        subject: &Subject,
        scratch: Option<&Path>,
        report: &str,
    ) -> (String, Variables) {
        let what = match subject {
            Subject::Bill(path) => {
                format!("source --lockfile {}", word(&path.display().to_string()))
            }
            Subject::Archive(path) => {
                format!("image --archive {}", word(&path.display().to_string()))
            }
            Subject::Folder(path) => {
                format!("source --recursive --no-ignore {}", word(&path.display().to_string()))
            }
        };
        let offline = if scratch.is_some() { "--offline " } else { "" };
        let command = format!("scan {what} {offline}--format json --output-file {}", word(report));
        let env = scratch.into_iter().flat_map(|scratch| {
            let folder = scratch.display().to_string();
            let names =
                ["OSV_SCALIBR_LOCAL_DB_CACHE_DIRECTORY", "OSV_SCANNER_LOCAL_DB_CACHE_DIRECTORY"];
            names.map(|name| (name.to_owned(), folder.clone()))
        });
        (command, env.collect())
    }

    fn answer(&self, exit: Exit, report: &str) -> Result<Answer, String> {
        let findings = osv::read(report).map_err(|e| e.to_string())?;
        match exit {
            Exit::Code(0) => {}
            Exit::Code(1) if !findings.is_empty() => {}
            Exit::Code(127) => return Err("it could not look everything up".into()),
            Exit::Code(128) => return Err("it found no packages".into()),
            _ => return Err("it failed".into()),
        }
        Ok(Answer { findings, database: None })
    }
}

fn home(folder: &Path) -> PathBuf {
    let below = HOMES.iter().map(|name| folder.join(name)).find(|path| path.is_dir());
    below.unwrap_or_else(|| folder.to_path_buf())
}

/// How many files a ZIP archive holds, from the record at its end (APPNOTE.TXT, section 4.3.16).
fn records(archive: &Path) -> io::Result<u16> {
    const SIGNATURE: [u8; 4] = *b"PK\x05\x06";
    const LONGEST: u64 = 22 + u16::MAX as u64;
    let mut file = fs::File::open(archive)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(LONGEST)))?;
    let mut end = Vec::new();
    file.take(LONGEST).read_to_end(&mut end)?;
    let at = end.windows(4).rposition(|window| window == SIGNATURE);
    let count = at.and_then(|at| end.get(at + 10..at + 12));
    let count = count.ok_or_else(|| io::Error::other("it is no ZIP archive"))?;
    Ok(u16::from_le_bytes([count[0], count[1]]))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOTHING: &str = r#"{"results":[]}"#;
    const FOUND: &str = r#"{"results":[{"packages":[{"package":{"name":"jinja2","version":"2.4.1"},
        "groups":[{"ids":["GHSA-1"],"max_severity":"9.8"}],"vulnerabilities":[{"id":"GHSA-1"}]}]}]}"#;

    #[test]
    fn only_an_end_that_fits_its_report_is_an_answer() {
        let answer = |code, report| OsvScanner.answer(Exit::Code(code), report);
        assert_eq!(answer(0, NOTHING).unwrap().findings, []);
        assert_eq!(answer(1, FOUND).unwrap().findings.len(), 1);
        for (code, report) in [
            (127, NOTHING),
            (127, FOUND),
            (128, NOTHING),
            (1, NOTHING),
            (2, NOTHING),
            (0, ""),
            (0, "error: no database"),
            (0, &FOUND[..40]),
        ] {
            assert!(answer(code, report).is_err(), "{code} with {report}");
        }
        assert!(OsvScanner.answer(Exit::Signal(11), NOTHING).is_err());
    }

    #[test]
    fn a_database_is_there_if_each_archive_of_it_holds_something() {
        let folder = tempfile::tempdir().unwrap();
        let database = || OsvScanner.database(folder.path());
        assert!(database().unwrap_err().contains("there is no"));
        assert!(OsvScanner.database(&folder.path().join("none")).is_err());
        let write = |ecosystem: &str, bytes: &[u8]| {
            let path = folder.path().join("osv-scalibr").join(ecosystem);
            fs::create_dir_all(&path).unwrap();
            fs::write(path.join("all.zip"), bytes).unwrap();
        };
        let archive = |records: u8| {
            let mut end = b"...PK\x05\x06\0\0\0\0".to_vec();
            end.extend([records, 0, records, 0]);
            end.extend([0; 10]);
            end
        };
        write("PyPI", &archive(3));
        assert!(database().unwrap().is_some());
        write("npm", &archive(0));
        assert!(database().unwrap_err().contains("holds no records"));
        write("npm", b"<html>");
        assert!(database().unwrap_err().contains("no ZIP archive"));
    }
}
