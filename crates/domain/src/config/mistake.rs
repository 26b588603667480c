//! A mistake in a file: where it is, what is wrong and the way out. Collected, never just the first.

use serde::{Deserialize, Serialize};

/// A file as it was read: where it lies, for messages, and its text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Source<'a> {
    pub path: &'a str,
    pub text: &'a str,
}

/// One mistake, in one place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mistake {
    pub path: String,
    /// From 1.
    pub line: usize,
    /// In characters, from 1.
    pub column: usize,
    /// In bytes, from the beginning of the file.
    pub offset: usize,
    /// In bytes; never beyond the end of the line.
    pub length: usize,
    /// The offending text.
    pub text: String,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub help: String,
}

impl std::fmt::Display for Mistake {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}:{}: {}", self.path, self.line, self.column, self.message)
    }
}

/// A stretch of a file, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Extent {
    pub start: usize,
    pub end: usize,
}

/// More than this many mistakes help nobody, and bound the work on a hostile file.
const MOST: usize = 100;

/// The mistakes found in one file so far.
pub(super) struct Mistakes<'a> {
    source: Source<'a>,
    found: Vec<Mistake>,
}

impl<'a> Mistakes<'a> {
    pub fn new(source: Source<'a>) -> Self {
        Self { source, found: Vec::new() }
    }

    /// The file.
    pub fn source(&self) -> Source<'a> {
        self.source
    }

    /// Takes the mistakes of another reading of the same file, but those within `broken`, and none twice.
    pub fn absorb(&mut self, other: Mistakes<'_>, broken: &[Extent]) {
        for mistake in other.found {
            let known = broken.iter().any(|e| (e.start..=e.end).contains(&mistake.offset));
            if !known && !self.found.contains(&mistake) && self.found.len() < MOST {
                self.found.push(mistake);
            }
        }
    }

    /// Notes a mistake at `extent`.
    pub fn add(&mut self, extent: Extent, message: impl Into<String>, help: impl Into<String>) {
        if self.found.len() < MOST {
            let mistake = self.at(extent, message.into(), help.into());
            self.found.push(mistake);
        }
    }

    /// A mistake at `extent` that is not (yet) counted.
    pub fn at(&self, extent: Extent, message: String, help: String) -> Mistake {
        let (line, column) = place(self.source.text, extent.start);
        let text = first_line(self.source.text, extent);
        Mistake {
            path: self.source.path.into(),
            line,
            column,
            offset: extent.start.min(self.source.text.len()),
            length: text.len(),
            text: text.into(),
            message,
            help,
        }
    }

    /// The part of `extent` that says `needle`, or all of it.
    pub fn within(&self, extent: Extent, needle: &str) -> Extent {
        let text = self.source.text.get(extent.start..extent.end).unwrap_or("");
        match text.find(needle) {
            Some(at) => {
                let start = extent.start + at;
                Extent { start, end: start + needle.len() }
            }
            None => extent,
        }
    }

    /// Whether something in `extent` is a mistake already.
    pub fn has_within(&self, extent: Extent) -> bool {
        self.found.iter().any(|mistake| (extent.start..extent.end).contains(&mistake.offset))
    }

    pub fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    /// All of them, in the order of the file.
    pub fn finish(mut self) -> Vec<Mistake> {
        let order = |mistake: &Mistake| (mistake.offset, mistake.length, mistake.message.clone());
        self.found.sort_by_key(order);
        self.found.dedup();
        self.found
    }
}

/// Line and column of a byte, both from 1.
fn place(text: &str, offset: usize) -> (usize, usize) {
    let before = &text[..boundary(text, offset)];
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
}

/// The part of an extent that lies on its first line.
fn first_line(text: &str, extent: Extent) -> &str {
    let start = boundary(text, extent.start);
    let end = boundary(text, extent.end).max(start);
    text[start..end].lines().next().unwrap_or("").trim_end()
}

/// The beginning of the character that `offset` lies in.
fn boundary(text: &str, offset: usize) -> usize {
    let mut offset = offset.min(text.len());
    while !text.is_char_boundary(offset) {
        offset -= 1;
    }
    offset
}

/// `did you mean ...`, or else `otherwise`.
pub(super) fn did_you_mean<'k>(
    text: &str,
    known: impl IntoIterator<Item = &'k str>,
    otherwise: impl FnOnce() -> String,
) -> String {
    match nearest(text, known) {
        Some(name) => format!("did you mean `{name}`?"),
        None => otherwise(),
    }
}

/// The known name that `text` was probably meant to be.
pub(super) fn nearest<'k>(text: &str, known: impl IntoIterator<Item = &'k str>) -> Option<&'k str> {
    let text = text.to_lowercase();
    let near = |name: &'k str| {
        let distance = strsim::damerau_levenshtein(&text, &name.to_lowercase());
        let begins = name.len() >= 3 && text.starts_with(name);
        (distance <= 1 + name.len() / 4 || begins).then_some((distance, name))
    };
    known.into_iter().filter_map(near).min().map(|(_, name)| name)
}

/// `` `a`, `b` and `c` ``, for messages.
pub(super) fn listed<'k>(names: impl IntoIterator<Item = &'k str>) -> String {
    let quoted: Vec<String> = names.into_iter().map(|name| format!("`{name}`")).collect();
    match quoted.split_last() {
        None => "none".into(),
        Some((last, [])) => last.clone(),
        Some((last, before)) => format!("{} and {last}", before.join(", ")),
    }
}
