//! Finds and reads the project in a folder: `launchway.yaml` and the Compose file beside it.

use std::io::Read;
use std::path::{Path, PathBuf};

use domain::config::{
    COMPOSE_FILES, COMPOSE_OVERRIDES, Mistake, Note, Reading, Source, Unless, inspect,
};

use super::{Exit, Failure, Misread};

/// The file of this name in the project's folder.
pub const LAUNCHWAY: &str = "launchway.yaml";

/// A file and the path that messages show.
pub struct Text {
    pub path: String,
    pub text: String,
}

impl Text {
    /// As the reader of configuration wants it.
    pub fn source(&self) -> Source<'_> {
        Source { path: &self.path, text: &self.text }
    }
}

/// The checked project in `folder`, or every mistake at once.
pub fn load(folder: &Path) -> Result<Reading, Failure> {
    let launchway =
        read(&folder.join(LAUNCHWAY), "write it, or let `launchway init` write a first one")?;
    let compose = compose(folder)?;
    let mut reading = inspect(launchway.source(), compose.source())
        .map_err(|mistakes| misread(mistakes, &[&launchway, &compose]))?;
    reading.notes.retain(|note| !note.unless.as_ref().is_some_and(|unless| holds(folder, unless)));
    reading.notes.extend(overrides(folder));
    let missing: Vec<Mistake> = reading
        .files
        .iter()
        .filter(|file| {
            let path = folder.join(&file.path);
            if file.folder { !path.is_dir() } else { !path.is_file() }
        })
        .map(|file| file.otherwise.clone())
        .collect();
    if missing.is_empty() { Ok(reading) } else { Err(misread(missing, &[&launchway, &compose])) }
}

/// More of a program is not read.
const READ: u64 = 1 << 20;

fn holds(folder: &Path, unless: &Unless) -> bool {
    unless.files.iter().any(|file| {
        let mut text = Vec::new();
        let path = folder.join(file);
        let opened = std::fs::File::open(path).and_then(|f| f.take(READ).read_to_end(&mut text));
        opened.is_ok() && String::from_utf8_lossy(&text).contains(unless.word)
    })
}

/// Files that `docker compose up` would merge over the Compose file: environments do not.
fn overrides(folder: &Path) -> impl Iterator<Item = Note> {
    COMPOSE_OVERRIDES.into_iter().filter(|name| folder.join(name).is_file()).map(|name| Note {
        path: name.into(),
        line: 1,
        column: 1,
        message: "no environment has what is in this file: the Compose file alone counts".into(),
        unless: None,
    })
}

/// The Compose file in `folder`.
pub fn compose(folder: &Path) -> Result<Text, Failure> {
    let found = COMPOSE_FILES.iter().map(|name| folder.join(name)).find(|path| path.is_file());
    let path = found.unwrap_or_else(|| folder.join(COMPOSE_FILES[0]));
    read(&path, "write a Compose file that says what the app is, or give its folder with `-C`")
}

/// Mistakes with the texts they are in.
pub fn misread(mistakes: Vec<Mistake>, texts: &[&Text]) -> Failure {
    let text = |mistake: &Mistake| {
        let text = texts.iter().find(|text| text.path == mistake.path);
        text.map_or(String::new(), |text| text.text.clone())
    };
    Failure::Mistakes(
        mistakes.into_iter().map(|mistake| Misread { text: text(&mistake), mistake }).collect(),
    )
}

fn read(path: &Path, missing: &str) -> Result<Text, Failure> {
    let shown = shown(path);
    match std::fs::read(path) {
        Ok(bytes) => match String::from_utf8(bytes) {
            Ok(text) => Ok(Text { path: shown, text }),
            Err(error) => Err(not_utf8(shown, &error)),
        },
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            Err(Failure::new(Exit::Usage, format!("there is no {shown}"), missing))
        }
        Err(error) => {
            let help = match error.kind() {
                std::io::ErrorKind::IsADirectory => "put a file in the place of this folder",
                _ => "let the user who runs launchway read it",
            };
            Err(Failure::new(Exit::Usage, format!("reading {shown}: {error}"), help))
        }
    }
}

fn not_utf8(path: String, error: &std::string::FromUtf8Error) -> Failure {
    let valid = error.utf8_error().valid_up_to();
    let line = error.as_bytes()[..valid].iter().filter(|byte| **byte == b'\n').count() + 1;
    let message = format!("reading {path}: line {line} is not UTF-8 text");
    Failure::new(Exit::Usage, message, "save the file as UTF-8")
}

/// The path without a leading `./`.
fn shown(path: &Path) -> String {
    let plain: PathBuf = path.components().filter(|part| part.as_os_str() != ".").collect();
    plain.display().to_string()
}
