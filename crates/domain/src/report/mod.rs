//! Reads what tools report: JUnit XML, SARIF 2.1.0, CycloneDX, and the own forms of scanners. Pure: text in, numbers
//! or findings out.
//!
//! Reports come from other people's tools, so they are read with suspicion: a report that is broken, that
//! holds nothing or whose tool says that it failed is an error, and an error is never "clean".

pub mod cyclonedx;
mod findings;
pub mod grype;
pub mod hadolint;
pub mod junit;
pub mod osv;
pub mod sarif;
pub mod secrets;
pub mod trivy;

/// What kind of report was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    Junit,
    Sarif,
    CycloneDx,
    Osv,
    Trivy,
    Grype,
    Hadolint,
    Gitleaks,
    DetectSecrets,
}

impl std::fmt::Display for Format {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Junit => "JUnit",
            Self::Sarif => "SARIF",
            Self::CycloneDx => "CycloneDX",
            Self::Osv => "osv-scanner",
            Self::Trivy => "Trivy",
            Self::Grype => "Grype",
            Self::Hadolint => "hadolint",
            Self::Gitleaks => "gitleaks",
            Self::DetectSecrets => "detect-secrets",
        })
    }
}

/// Why a report says nothing. None of these may be taken for "no failures" or "no findings".
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReportError {
    /// The text is not what its format demands: cut off, not XML, not JSON.
    #[error(
        "cannot read the {format} report, line {line}, column {column}: {why}; \
         look whether the tool was stopped while it wrote"
    )]
    Malformed { format: Format, line: u64, column: u64, why: String },
    /// Well-formed, but not something that is read here.
    #[error("cannot use the {format} report: {why}")]
    Unsupported { format: Format, why: String },
    /// The tool wrote a report that says that the tool failed or has no results.
    #[error("{tool} says that it failed: {why}; its findings are not known")]
    ToolFailed { tool: String, why: String },
}

impl ReportError {
    fn json(format: Format, error: &serde_json::Error) -> Self {
        let text = error.to_string();
        let why = text.rsplit_once(" at line ").map_or(text.as_str(), |(why, _)| why);
        let (line, column) = (error.line() as u64, error.column() as u64);
        Self::Malformed { format, line, column, why: why.into() }
    }
}

/// The longest line of a message that is kept.
const LONGEST_MESSAGE: usize = 300;

/// The first line of `text` that says something, without terminal colours, cut to a bearable length.
fn headline(text: &str) -> String {
    let plain = without_colours(text);
    let line = plain.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or("");
    match line.char_indices().nth(LONGEST_MESSAGE) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line.to_owned(),
    }
}

/// Test runners write escape sequences (`ESC [ 31 m`) into reports when they believe in a terminal.
fn without_colours(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        if c == '\u{1b}' && chars.next_if_eq(&'[').is_some() {
            chars.by_ref().find(|c| ('@'..='~').contains(c));
            continue;
        }
        if !c.is_control() || c == '\n' || c == '\t' {
            plain.push(c);
        }
    }
    plain
}

/// Some tools begin their files with a byte order mark, which is not part of XML or JSON text.
fn without_mark(text: &str) -> &str {
    text.strip_prefix('\u{feff}').unwrap_or(text)
}

/// A report in `tests/reports`, as the tool in its name wrote it.
#[cfg(test)]
macro_rules! fixture {
    ($name:literal) => {
        include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/reports/", $name))
    };
}
#[cfg(test)]
use fixture;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    type Reader = fn(&str) -> bool;

    /// Each reader of a scanner's own form, with a report that it reads.
    fn scanners() -> [(Format, &'static str, Reader); 6] {
        [
            (Format::Osv, fixture!("osv-scanner-2.5.0.json"), |text| osv::read(text).is_ok()),
            (Format::Trivy, fixture!("trivy-by-its-documents.json"), |text| {
                trivy::read(text).is_ok()
            }),
            (Format::Grype, fixture!("grype-by-its-documents.json"), |text| {
                grype::read(text).is_ok()
            }),
            (Format::Hadolint, fixture!("hadolint-2.15.1.json"), |text| {
                hadolint::read(text).is_ok()
            }),
            (Format::Gitleaks, fixture!("gitleaks-8.30.1.json"), |text| {
                secrets::gitleaks(text).is_ok()
            }),
            (Format::DetectSecrets, fixture!("detect-secrets-1.5.0.json"), |text| {
                secrets::detect_secrets(text).is_ok()
            }),
        ]
    }

    #[test]
    fn a_report_of_one_scanner_is_not_taken_for_one_of_another() {
        for (format, text, _) in scanners() {
            let taken: Vec<Format> =
                scanners().iter().filter(|(.., read)| read(text)).map(|(own, ..)| *own).collect();
            assert_eq!(taken, [format]);
        }
    }

    proptest! {
        #[test]
        fn no_part_of_a_report_is_read_as_all_of_it(at in any::<prop::sample::Index>()) {
            for (format, whole, read) in scanners() {
                let text = whole.trim_end();
                let mut end = at.index(text.len());
                while !text.is_char_boundary(end) {
                    end -= 1;
                }
                prop_assert!(!read(&text[..end]), "{format} up to {end}");
            }
        }

        #[test]
        fn no_mutated_report_makes_a_reader_panic(
            at in any::<prop::sample::Index>(),
            length in 0..12_usize,
            new in "[{}\\[\\]:,\"a-z0-9é-]{0,6}",
        ) {
            for (_, whole, read) in scanners() {
                let mut chars: Vec<char> = whole.chars().collect();
                let start = at.index(chars.len());
                let end = (start + length).min(chars.len());
                chars.splice(start..end, new.chars());
                read(&chars.into_iter().collect::<String>());
            }
        }
    }

    #[test]
    fn a_headline_is_the_first_line_that_says_something_without_colours() {
        assert_eq!(headline("\n \u{1b}[31mexpected\u{1b}[0m 1\n  got 2"), "expected 1");
        assert_eq!(headline("\u{1b}[never ended"), "ever ended");
        assert_eq!(headline(&"é".repeat(400)).chars().count(), LONGEST_MESSAGE + 1);
    }
}
