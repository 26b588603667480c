//! Judges what scanners found against what the project lives with.
//!
//! Nothing is hidden: what does not refuse is still counted and shown. A finding of which nobody says how bad it is
//! weighs like one of severity high: it refuses by default, and living with it takes a reason and a date, in writing.
//! An ignore is a promise to look again; one that has expired refuses, whatever it was about.

use crate::config::Severity;
use crate::pipeline::FindingSummary;
use crate::scan::{Finding, Fix, Ignore, Inspection};
use crate::time::Date;

/// What an unrated finding weighs.
pub const UNRATED: Severity = Severity::High;

/// More lines than this are not kept.
const KEPT: usize = 50;

/// What refuses.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Policy<'a> {
    /// Findings of this severity or worse.
    pub fail_on: Severity,
    /// Of vulnerabilities only those that a newer version does not have.
    pub fixable_only: bool,
    pub ignore: &'a [Ignore],
}

/// What follows from the findings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judgement {
    /// Counted and in words, with notes about what was ignored.
    pub summary: FindingSummary,
    /// Why it refuses; `None`: it does not.
    pub refused: Option<String>,
}

/// Judges `findings` on the day `today`. With `inspection`, ignores that would be about it and match nothing are noted.
pub fn judge(
    findings: &[Finding],
    policy: &Policy<'_>,
    inspection: Option<Inspection>,
    today: Date,
) -> Judgement {
    let mut seen = Seen { matched: vec![0; policy.ignore.len()], ..Seen::default() };
    for finding in findings {
        seen.add(finding, policy, today);
    }
    let mut notes = seen.notes(policy, today);
    if let Some(inspection) = inspection {
        notes.extend(unmatched(policy, &seen.matched, inspection, today));
    }
    let refused = seen.refused(policy);
    Judgement { summary: FindingSummary { notes, ..seen.summary() }, refused }
}

#[derive(Default)]
struct Seen<'f> {
    open: Vec<(Severity, &'f Finding)>,
    /// Of `open`, how many refuse.
    grave: usize,
    ignored: u32,
    /// How many findings each ignore is about.
    matched: Vec<u32>,
    /// Ignores whose day is over and whose findings are still there.
    expired: Vec<usize>,
}

impl<'f> Seen<'f> {
    fn add(&mut self, finding: &'f Finding, policy: &Policy<'_>, today: Date) {
        let mut covered = false;
        let mut expired = Vec::new();
        for (at, ignore) in policy.ignore.iter().enumerate() {
            if !ignore.covers(finding) {
                continue;
            }
            self.matched[at] += 1;
            match ignore.expired(today) {
                true => expired.push(at),
                false => covered = true,
            }
        }
        if covered {
            self.ignored += 1;
            return;
        }
        self.expired.extend(expired);
        self.grave += usize::from(refuses(finding, policy));
        self.open.push((weight(finding), finding));
    }

    fn summary(&mut self) -> FindingSummary {
        self.open.sort_by(|(a, x), (b, y)| b.cmp(a).then_with(|| key(x).cmp(&key(y))));
        let count = |wanted| {
            u32::try_from(self.open.iter().filter(|(s, _)| *s == wanted).count())
                .unwrap_or(u32::MAX)
        };
        FindingSummary {
            low: count(Severity::Low),
            medium: count(Severity::Medium),
            high: count(Severity::High),
            critical: count(Severity::Critical),
            ignored: self.ignored,
            worst: self.open.iter().take(KEPT).map(|(_, finding)| finding.line()).collect(),
            notes: Vec::new(),
        }
    }

    fn notes(&self, policy: &Policy<'_>, today: Date) -> Vec<String> {
        let in_force = policy
            .ignore
            .iter()
            .zip(&self.matched)
            .filter(|(ignore, matched)| **matched > 0 && !ignore.expired(today));
        let note = |(ignore, matched): (&Ignore, &u32)| {
            let times =
                if *matched == 1 { String::new() } else { format!(" ({matched} findings)") };
            format!("ignored until {}: {}{times}: {}", ignore.expires, ignore.id, ignore.reason)
        };
        in_force.map(note).take(KEPT).collect()
    }

    fn refused(&mut self, policy: &Policy<'_>) -> Option<String> {
        self.expired.sort_unstable();
        self.expired.dedup();
        if let Some(first) = self.expired.first().map(|at| &policy.ignore[*at]) {
            let more = match self.expired.len() - 1 {
                0 => String::new(),
                more => format!(" (and {more} more)"),
            };
            return Some(format!(
                "launchway.yaml:{}: the ignore of {} expired on {}{more}; get rid of what it is about, or decide \
                 anew: another date, with the reason",
                first.line, first.id, first.expires
            ));
        }
        let worst = self
            .open
            .iter()
            .filter(|(_, finding)| refuses(finding, policy))
            .min_by_key(|(severity, finding)| (std::cmp::Reverse(*severity), key(finding)));
        let (_, worst) = worst?;
        let (count, floor) = (self.grave, policy.fail_on.as_str());
        let or_worse = if policy.fail_on == Severity::Critical { "" } else { " or worse" };
        let noun = if count == 1 { "finding" } else { "findings" };
        Some(format!("{count} {noun} of severity {floor}{or_worse}; worst: {}", worst.line()))
    }
}

fn weight(finding: &Finding) -> Severity {
    finding.severity.unwrap_or(UNRATED)
}

fn refuses(finding: &Finding, policy: &Policy<'_>) -> bool {
    weight(finding) >= policy.fail_on && !(policy.fixable_only && finding.fix == Fix::None)
}

/// The order among findings of one weight: what can be fixed comes first.
fn key(finding: &Finding) -> (bool, &str, &str) {
    (finding.fix == Fix::None, &finding.place, &finding.id)
}

/// Ignores that nothing needs any more: somebody should take them out.
fn unmatched(
    policy: &Policy<'_>,
    matched: &[u32],
    inspection: Inspection,
    today: Date,
) -> Vec<String> {
    let idle = policy
        .ignore
        .iter()
        .zip(matched)
        .filter(|(ignore, matched)| **matched == 0 && ignore.belongs_to() == inspection);
    let note = |(ignore, _): (&Ignore, &u32)| {
        let over = if ignore.expired(today) { "has expired and " } else { "" };
        format!(
            "launchway.yaml:{}: the ignore of {} {over}matches nothing: take it out",
            ignore.line, ignore.id
        )
    };
    idle.map(note).take(KEPT).collect()
}

#[cfg(test)]
mod tests;
