//! What reading found besides the project: mistakes, notes, and files that must be there.

use serde::{Deserialize, Serialize};

use super::mistake::{Extent, Mistake, Mistakes, Source};
use super::project::Project;

/// A project and what its reader should know about it.
#[derive(Debug, Clone, PartialEq)]
pub struct Reading {
    pub project: Project,
    /// Parts of the files that have no effect, or another one than under plain Compose.
    pub notes: Vec<Note>,
    /// Files and folders that the project names. Reading does no I/O: whoever can, looks.
    pub files: Vec<ExpectedFile>,
}

/// Something to know that is no mistake.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    pub path: String,
    pub line: usize,
    pub column: usize,
    pub message: String,
    #[serde(skip)]
    pub unless: Option<Unless>,
}

/// What makes a note needless: this word in one of these files. Reading does no I/O: whoever can, looks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unless {
    pub word: &'static str,
    /// From the project's root; they need not be there.
    pub files: Vec<String>,
}

/// A file or folder that must exist.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExpectedFile {
    /// From the project's root.
    pub path: String,
    pub folder: bool,
    /// The mistake it is if it does not.
    pub otherwise: Mistake,
}

/// Collects while both files are checked.
pub(super) struct Findings<'a> {
    pub launchway: Mistakes<'a>,
    pub compose: Mistakes<'a>,
    notes: Vec<Note>,
    files: Vec<ExpectedFile>,
}

impl<'a> Findings<'a> {
    pub fn new(launchway: Source<'a>, compose: Source<'a>) -> Self {
        let (launchway, compose) = (Mistakes::new(launchway), Mistakes::new(compose));
        Self { launchway, compose, notes: Vec::new(), files: Vec::new() }
    }

    /// A note about the Compose file.
    pub fn note_compose(&mut self, extent: Extent, message: String) {
        let note = note(&self.compose, extent, message);
        self.keep(note);
    }

    /// A note about launchway.yaml.
    pub fn note_launchway(&mut self, extent: Extent, message: String, unless: Unless) {
        let note = note(&self.launchway, extent, message);
        self.keep(Note { unless: Some(unless), ..note });
    }

    fn keep(&mut self, note: Note) {
        if !self.notes.contains(&note) {
            self.notes.push(note);
        }
    }

    /// A file that launchway.yaml names.
    pub fn expect_file(&mut self, path: &str, extent: Extent) {
        let message = format!("there is no file `{path}` in the project");
        let otherwise = self.launchway.at(extent, message, "create it, or correct the path".into());
        self.files.push(ExpectedFile { path: path.into(), folder: false, otherwise });
    }

    /// A file that the Compose file names.
    pub fn expect_compose_file(&mut self, path: &str, extent: Extent) {
        let message = format!("there is no file `{path}` in the project");
        let otherwise = self.compose.at(extent, message, "create it, or correct the path".into());
        self.files.push(ExpectedFile { path: path.into(), folder: false, otherwise });
    }

    /// A folder that launchway.yaml names.
    pub fn expect_folder(&mut self, path: &str, extent: Extent) {
        let otherwise = no_folder(&self.launchway, path, extent);
        self.files.push(ExpectedFile { path: path.into(), folder: true, otherwise });
    }

    /// A folder that the Compose file names.
    pub fn expect_compose_folder(&mut self, path: &str, extent: Extent) {
        let otherwise = no_folder(&self.compose, path, extent);
        self.files.push(ExpectedFile { path: path.into(), folder: true, otherwise });
    }

    /// What was read, with the notes in order, if there was no mistake.
    pub fn finish<T>(
        mut self,
        read: Option<T>,
    ) -> Result<(T, Vec<Note>, Vec<ExpectedFile>), Vec<Mistake>> {
        let clean = self.launchway.is_empty() && self.compose.is_empty();
        match read {
            Some(read) if clean => {
                let place = |note: &Note| (note.path.clone(), note.line, note.column);
                self.notes.sort_by_key(place);
                Ok((read, self.notes, self.files))
            }
            _ => Err([self.launchway.finish(), self.compose.finish()].concat()),
        }
    }
}

fn note(place: &Mistakes<'_>, extent: Extent, message: String) -> Note {
    let at = place.at(extent, message, String::new());
    Note { path: at.path, line: at.line, column: at.column, message: at.message, unless: None }
}

fn no_folder(place: &Mistakes<'_>, path: &str, extent: Extent) -> Mistake {
    let message = format!("there is no folder `{path}` in the project");
    place.at(extent, message, "create it, or correct the path".into())
}
