//! What is used and what was served, in a few words.

use crate::cli::paint::Paint;
use crate::view::{TrafficView, UsageView};

/// `14 MiB memory, 2.5% CPU, 48 KiB disk`; without the CPU until two readings tell it.
pub fn usage(usage: &UsageView) -> String {
    let cpu = usage.cpu_share.map_or(String::new(), |share| format!(", {} CPU", percent(share)));
    format!("{} memory{cpu}, {} disk", bytes(usage.memory_bytes), bytes(usage.disk_bytes))
}

/// Lines with their names; none of what never happened.
pub fn traffic(traffic: &TrafficView, paint: Paint) -> Vec<(&'static str, String)> {
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
    if traffic.unreachable > 0 {
        let text = format!("{} of them, as no replica could be reached", traffic.unreachable);
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
            in_flight: 0,
            upgraded: 0,
            p50_ms: None,
            p95_ms: None,
            p99_ms: None,
        };
        assert_eq!(traffic(&seen, Paint::plain()), []);
        seen.classes.extend([("2xx".into(), 40), ("5xx".into(), 2)]);
        seen.p50_ms = Some(3.2);
        seen.in_flight = 1;
        let lines = traffic(&seen, Paint::plain());
        assert_eq!(
            lines,
            [
                ("served", "42 requests: 40 2xx, 2 5xx".into()),
                ("took", "p50 3.2 ms".into()),
                ("now", "1 in flight".into())
            ]
        );
    }
}
