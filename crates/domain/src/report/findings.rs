//! Collects findings, counts all of them and keeps the worst for people.

use crate::config::Severity;
use crate::judge::scan::UNRATED;
use crate::pipeline::FindingSummary;
use crate::scan::Finding;

/// How many findings are kept in words.
const KEPT: usize = 50;

/// Findings so far.
#[derive(Default)]
pub(super) struct Findings {
    summary: FindingSummary,
    /// At most [`KEPT`] of each severity, so that a report of a million lines stays small here.
    lines: [Vec<String>; 4],
}

impl Findings {
    /// Counts a finding.
    pub(super) fn add(&mut self, finding: Finding) {
        let severity = finding.severity.unwrap_or(UNRATED);
        let count = match severity {
            Severity::Low => &mut self.summary.low,
            Severity::Medium => &mut self.summary.medium,
            Severity::High => &mut self.summary.high,
            Severity::Critical => &mut self.summary.critical,
        };
        *count = count.saturating_add(1);
        let lines = &mut self.lines[severity as usize];
        if lines.len() < KEPT {
            lines.push(finding.line());
        }
    }

    /// Everything counted, the worst first.
    pub(super) fn summary(self) -> FindingSummary {
        let worst = self.lines.into_iter().rev().flatten().take(KEPT).collect();
        FindingSummary { worst, ..self.summary }
    }
}

/// The bands of CVSS version 3 (<https://www.first.org/cvss/v3.1/specification-document>, table 14).
pub(super) fn by_score(score: f64) -> Option<Severity> {
    match score {
        s if !(0.0..=10.0).contains(&s) => None,
        s if s >= 9.0 => Some(Severity::Critical),
        s if s >= 7.0 => Some(Severity::High),
        s if s >= 4.0 => Some(Severity::Medium),
        _ => Some(Severity::Low),
    }
}
