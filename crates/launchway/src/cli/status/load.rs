//! What is used and what was served, in a few words.

use domain::Timestamp;
use domain::route::Reason;

use crate::cli::paint::{Paint, ago};
use crate::view::{TrafficView, UsageView};

/// `14 MiB memory, 2.5% CPU, 48 KiB disk`; without the CPU until two readings tell it.
pub fn usage(usage: &UsageView) -> String {
    let cpu = usage.cpu_share.map_or(String::new(), |share| format!(", {} CPU", percent(share)));
    format!("{} memory{cpu}, {} disk", bytes(usage.memory_bytes), bytes(usage.disk_bytes))
}

/// Lines with their names; none of what never happened.
pub fn traffic(traffic: &TrafficView, now: Timestamp, paint: Paint) -> Vec<(&'static str, String)> {
    let mut lines = Vec::new();
    let total: u64 = traffic.classes.values().sum();
    if total > 0 {
        let seen = traffic.classes.iter().filter(|(_, count)| **count > 0);
        let class = |(class, count): (&String, &u64)| match class.as_str() {
            "5xx" => paint.bad(&format!("{count} {class}")),
            _ => format!("{count} {class}"),
        };
        let classes: Vec<String> = seen.map(class).collect();
        let requests = if total == 1 { "request" } else { "requests" };
        lines.push(("served", format!("{total} {requests}: {}", classes.join(", "))));
    }
    if let Some(text) = failed(traffic, now) {
        lines.push(("failed", paint.bad(&text)));
    }
    let marks = [("p50", traffic.p50_ms), ("p95", traffic.p95_ms), ("p99", traffic.p99_ms)];
    let took: Vec<String> =
        marks.iter().filter_map(|(mark, ms)| Some(format!("{mark} {}", millis((*ms)?)))).collect();
    if !took.is_empty() {
        lines.push(("took", took.join(", ")));
    }
    let open = [(traffic.in_flight, "in flight"), (traffic.upgraded, "on WebSockets")];
    let open: Vec<String> = open
        .iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, what)| format!("{count} {what}"))
        .collect();
    if !open.is_empty() {
        lines.push(("now", open.join(", ")));
    }
    lines
}

/// How many, why, and when last.
fn failed(traffic: &TrafficView, now: Timestamp) -> Option<String> {
    let each: Vec<String> =
        traffic.failed.iter().map(|(reason, n)| format!("{n} {}", why(*reason))).collect();
    let last = match traffic.failed_last {
        Some(at) => format!("; last {}", ago(now, at)),
        None => "; none since the server began".into(),
    };
    (!each.is_empty()).then(|| each.join(", ") + &last)
}

/// What the replica did, or none of them.
fn why(reason: Reason) -> &'static str {
    match reason {
        Reason::NoReplica => "as there was no replica",
        Reason::Connect => "as no replica took a connection",
        Reason::Timeout => "as the answer did not begin in time",
        Reason::Closed => "as the replica closed the connection before it answered",
        Reason::Garbled => "as the replica answered something that is not HTTP",
        Reason::BrokenOff => "as the replica broke its answer off",
        other => other.as_str(),
    }
}

fn percent(share: f64) -> String {
    short(share * 100.0) + "%"
}

fn millis(ms: f64) -> String {
    match ms {
        1000.0.. => format!("{} s", short(ms / 1000.0)),
        _ => format!("{} ms", short(ms)),
    }
}

fn bytes(bytes: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let (mut value, mut unit) = (bytes as f64, 0);
    while value >= 1000.0 && unit + 1 < units.len() {
        (value, unit) = (value / 1024.0, unit + 1);
    }
    format!("{} {}", short(value), units[unit])
}

/// As many digits as tell something: `0.4`, `9.9`, `42`.
fn short(value: f64) -> String {
    let text = format!("{value:.1}");
    match text.strip_suffix(".0") {
        Some(whole) => whole.into(),
        None if value >= 9.95 => format!("{value:.0}"),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn sizes_times_and_shares_have_the_digits_that_tell_something() {
        assert_eq!(
            [0, 999, 1000, 14_700_000, 3 << 30].map(bytes),
            ["0 B", "999 B", "1 KiB", "14 MiB", "3 GiB"]
        );
        assert_eq!([0.25, 3.2, 14.4, 1234.0].map(millis), ["0.2 ms", "3.2 ms", "14 ms", "1.2 s"]);
        assert_eq!([0.0, 0.025, 1.5].map(percent), ["0%", "2.5%", "150%"]);
    }

    #[test]
    fn what_never_happened_takes_no_line() {
        let classes = ["1xx", "2xx", "3xx", "4xx", "5xx"].map(|class| (class.to_owned(), 0));
        let mut seen = TrafficView {
            classes: BTreeMap::from(classes),
            unreachable: 0,
            failed: BTreeMap::new(),
            failed_last: None,
            in_flight: 0,
            upgraded: 0,
            p50_ms: None,
            p95_ms: None,
            p99_ms: None,
        };
        let now = Timestamp::from_millis(600_000);
        assert_eq!(traffic(&seen, now, Paint::plain()), []);
        seen.classes.extend([("2xx".into(), 40), ("5xx".into(), 2)]);
        seen.p50_ms = Some(3.2);
        seen.in_flight = 1;
        let lines = traffic(&seen, now, Paint::plain());
        assert_eq!(
            lines,
            [
                ("served", "42 requests: 40 2xx, 2 5xx".into()),
                ("took", "p50 3.2 ms".into()),
                ("now", "1 in flight".into())
            ]
        );
    }
    #[test]
    fn failures_are_called_what_they_were_and_have_a_time() {
        let mut facts = domain::route::Facts::default();
        facts.reasons.extend([(Reason::Waited, 7), (Reason::ClientLeft, 3)]);
        let now = Timestamp::from_millis(600_000);
        let said = |facts: &_, last: Option<i64>| {
            let last = last.map(|seconds| Timestamp::from_millis(seconds * 1000));
            failed(&TrafficView::of(facts, last), now)
        };
        assert_eq!(said(&facts, None), None, "no replica is to blame");
        facts.reasons.extend([(Reason::Closed, 4), (Reason::BrokenOff, 1)]);
        assert_eq!(
            said(&facts, Some(420)).unwrap(),
            "4 as the replica closed the connection before it answered, \
             1 as the replica broke its answer off; last 3 min ago"
        );
        assert!(said(&facts, None).unwrap().ends_with("; none since the server began"));
    }
}
