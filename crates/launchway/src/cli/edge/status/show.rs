//! The status of the edge as text.

use std::fmt::Write;
use std::time::Duration;

use domain::route::{Facts, FactsKey, Finishing, Reason, RouteFacts, TurnedAway};
use domain::slot::Endpoint;

use super::Seen;
use crate::cli::paint::{Paint, span};

/// Routes of one slot that are shown, the busiest.
const ROUTES: usize = 20;
/// Slots and services that are shown.
const SLOTS: usize = 50;

/// All of it, at `now_ms` milliseconds since the Unix epoch.
pub fn text(seen: &Seen, paint: Paint, now_ms: i64) -> String {
    let mut out = String::new();
    head(&mut out, seen, paint, now_ms);
    slots(&mut out, seen, paint);
    turned_away(&mut out, &seen.status.turned_away);
    if !seen.status.ejected.is_empty() {
        out.push('\n');
    }
    for (key, endpoint, why) in &seen.status.ejected {
        let at = match endpoint {
            Endpoint::Http(address) => address.to_string(),
            Endpoint::Files(folder) => folder.display().to_string(),
        };
        line(&mut out, &format!("{} {} {at} {why}", paint.bad("kept out"), name(key)));
    }
    out
}

fn line(out: &mut String, text: &str) {
    out.push_str(text);
    out.push('\n');
}

fn name(key: &FactsKey) -> String {
    format!("{}/{} {}", key.environment, key.slot, key.service)
}

fn head(out: &mut String, seen: &Seen, paint: Paint, now_ms: i64) {
    let status = &seen.status;
    let up = Duration::from_millis(u64::try_from(now_ms - status.started_ms).unwrap_or(0));
    let (version, pid) = (&status.version, status.pid);
    let title = paint.bold(&format!("edge {version}"));
    line(out, &format!("{title} · pid {pid} · up {} · epoch {}", span(up), status.epoch));
    let https = status.https.map(|https| format!(" · https {https}")).unwrap_or_default();
    line(out, &format!("listens  http {}{https} · {} open", status.listen, status.connections));
    for left in &status.finishing {
        let Finishing { pid, connections, in_flight, upgraded, streams } = left;
        let requests = in_flight.saturating_sub(*streams);
        let has = format!("{requests} requests, {upgraded} WebSockets, {streams} streams");
        line(out, &format!("before   pid {pid} finishes {has} · {connections} of those open"));
    }
    for certificate in &seen.certificates {
        let (names, until) = (certificate.names.join(", "), &certificate.not_after);
        line(out, &format!("presents {names} until {until}"));
    }
    if let Some(log) = status.access_log {
        let lost = match log.dropped {
            0 => String::new(),
            n => format!(", {}", paint.bad(&format!("{n} lost: its reader is too slow"))),
        };
        line(out, &format!("logs     {} lines written{lost}", log.written));
    }
    for pause in &status.pauses {
        let (left, held) = (span(Duration::from_millis(pause.ends_in_ms)), pause.held);
        let title = paint.bad("holds");
        line(
            out,
            &format!("{title}    {held} new requests to {}, for {left} more", pause.environment),
        );
    }
}

fn slots(out: &mut String, seen: &Seen, paint: Paint) {
    let mut rest = &seen.routes[..];
    let mut shown = 0;
    while let Some(first) = rest.first() {
        let same = |route: &RouteFacts| slot(&route.key) == slot(&first.key);
        let (group, others) = rest.split_at(rest.iter().take_while(|route| same(route)).count());
        rest = others;
        shown += 1;
        if shown > SLOTS {
            line(out, "\nand more slots: --json has them all");
            return;
        }
        one_slot(out, seen, group, paint);
    }
    if shown == 0 {
        line(out, "\nno request yet");
    }
}

fn slot(key: &FactsKey) -> (&str, &str, &str) {
    (key.environment.as_str(), key.slot.as_str(), key.release.as_str())
}

fn one_slot(out: &mut String, seen: &Seen, group: &[RouteFacts], paint: Paint) {
    let key = &group[0].key;
    let title = paint.bold(&format!("{}/{} {}", key.environment, key.slot, key.release));
    line(out, &format!("\n{title} {}", state(seen, group, paint)));
    let rate = if seen.over_seconds.is_some() { "REQ/S" } else { "REQUESTS" };
    let header = [
        "ROUTE", "SERVICE", rate, "2XX", "3XX", "4XX", "5XX", "P50", "P99", "P99.9", "CONNECT",
        "NOW", "WS", "SSE", "IN", "OUT",
    ];
    let mut routes: Vec<_> = group.iter().collect();
    routes.sort_by_key(|route| std::cmp::Reverse(route.facts.total()));
    let left_out = routes.len().saturating_sub(ROUTES);
    routes.truncate(ROUTES);
    let rows = routes.iter().map(|route| row(route, seen.over_seconds));
    table(out, header.map(String::from), rows.collect(), paint);
    if left_out > 0 {
        line(out, &format!("  and {left_out} more routes: --json has them all"));
    }
    let mut sum = Facts::default();
    group.iter().for_each(|route| sum.merge(&route.facts));
    if !sum.reasons.is_empty() {
        let reasons = sum.reasons.iter().map(|(reason, count)| format!("{reason} {count}"));
        line(out, &format!("  reasons: {}", reasons.collect::<Vec<_>>().join(", ")));
    }
}

/// Whether a slot has the traffic, and what it waits for if not.
fn state(seen: &Seen, group: &[RouteFacts], paint: Paint) -> String {
    let key = &group[0].key;
    let environment = seen.table.environments.get(&key.environment);
    let release = environment.and_then(|e| Some(&e.slots.get(&key.slot)?.release));
    let live = environment.is_some_and(|e| e.live == key.slot) && release == Some(&key.release);
    if live {
        return paint.good("live");
    }
    let count = |of: fn(&Facts) -> u64| group.iter().map(|route| of(&route.facts)).sum::<u64>();
    let waits = [
        (count(|facts| facts.in_flight - facts.streams.min(facts.in_flight)), "requests"),
        (count(|facts| facts.upgraded), "WebSockets"),
        (count(|facts| facts.streams), "streams"),
    ];
    let waits: Vec<_> =
        waits.iter().filter(|(n, _)| *n > 0).map(|(n, what)| format!("{n} {what}")).collect();
    match (waits.is_empty(), release == Some(&key.release)) {
        (true, true) => paint.dim("not live, drained"),
        (true, false) => paint.dim("left the table, drained"),
        (false, _) => format!("not live, waits for {}", waits.join(", ")),
    }
}

fn row(route: &RouteFacts, over: Option<f64>) -> [String; 16] {
    let facts = &route.facts;
    let rate = match over {
        Some(seconds) => format!("{:.1}", facts.total() as f64 / seconds),
        None => facts.total().to_string(),
    };
    let took = |quantile| facts.latency_at(quantile).map_or("-".into(), short);
    [
        route.prefix.clone(),
        route.key.service.to_string(),
        rate,
        facts.classes[1].to_string(),
        facts.classes[2].to_string(),
        facts.classes[3].to_string(),
        facts.classes[4].to_string(),
        took(0.5),
        took(0.99),
        took(0.999),
        facts.connect.quantile(0.5).map_or("-".into(), short),
        facts.in_flight.to_string(),
        facts.upgraded.to_string(),
        facts.streams.to_string(),
        size(facts.bytes_in),
        size(facts.bytes_out),
    ]
}

/// `850µs`, `4.2ms`, `1.5s`.
fn short(took: Duration) -> String {
    let micros = took.as_micros();
    match micros {
        0..1_000 => format!("{micros}µs"),
        1_000..1_000_000 => format!("{:.1}ms", micros as f64 / 1e3),
        _ => format!("{:.1}s", micros as f64 / 1e6),
    }
}

/// `512B`, `1.5K`, `20.0M`.
fn size(bytes: u64) -> String {
    let mut left = bytes as f64;
    for unit in ["B", "K", "M", "G"] {
        if left < 1024.0 || unit == "G" {
            return if unit == "B" { format!("{bytes}B") } else { format!("{left:.1}{unit}") };
        }
        left /= 1024.0;
    }
    format!("{bytes}B")
}

/// Columns as wide as they need: names to the left, numbers to the right.
fn table<const N: usize>(
    out: &mut String,
    header: [String; N],
    rows: Vec<[String; N]>,
    paint: Paint,
) {
    let all = || [&header].into_iter().chain(&rows);
    let width = |at: usize| all().map(|row| row[at].chars().count()).max().unwrap_or(0);
    let widths: [usize; N] = std::array::from_fn(width);
    for (number, row) in all().enumerate() {
        let mut text = String::new();
        for (at, (cell, width)) in row.iter().zip(widths).enumerate() {
            // Writing into a string cannot fail.
            let _ = match at {
                0 | 1 => write!(text, "  {cell:<width$}"),
                _ => write!(text, "  {cell:>width$}"),
            };
        }
        line(out, &if number == 0 { paint.dim(&text) } else { text });
    }
}

fn turned_away(out: &mut String, all: &[TurnedAway]) {
    if all.is_empty() {
        return;
    }
    line(out, "\nreached no route, since the edge began");
    for away in all {
        let TurnedAway { environment, reason, status, count } = away;
        let at = environment.as_ref().map_or("-", |name| name.as_str());
        line(out, &format!("  {at:<12}  {count:>8}  {status}  {}", says(*reason)));
    }
}

fn says(reason: Reason) -> String {
    reason.as_str().replace('_', " ")
}

#[cfg(test)]
mod tests {
    use ::edge::CertificateInfo;
    use domain::route::{EdgeStatus, LogStatus, PauseStatus, Table, Verb};
    use domain::sketch::Sketch;
    use domain::{Color, EnvironmentName, Epoch, ReleaseId, ServiceName};

    use super::*;

    fn key(slot: Color, release: u64) -> FactsKey {
        FactsKey {
            environment: EnvironmentName::new("staging").unwrap(),
            slot,
            release: ReleaseId::nth(release),
            service: ServiceName::new("backend").unwrap(),
        }
    }

    #[test]
    fn the_status_says_what_is_carried_what_drains_and_what_fails() {
        let facts = Facts {
            classes: [0, 90, 0, 8, 2],
            methods: [(Verb::Get, 100)].into(),
            reasons: [(Reason::Connect, 2)].into(),
            bytes_out: 2_000_000,
            in_flight: 1,
            latency: Sketch::of([(900, 99), (1_400_000, 1)]),
            connect: Sketch::of([(150, 4)]),
            ..Facts::default()
        };
        let drains = Facts { upgraded: 3, streams: 1, in_flight: 1, ..Facts::default() };
        let route = |slot, release, facts: &Facts| RouteFacts {
            key: key(slot, release),
            prefix: "/api".into(),
            facts: facts.clone(),
        };
        let status = EdgeStatus {
            pid: 7,
            build: String::new(),
            version: "0.1.0".into(),
            started_ms: 1_000,
            epoch: Epoch(4),
            listen: "127.0.0.1:80".parse().unwrap(),
            https: None,
            connections: 12,
            facts: Vec::new(),
            turned_away: vec![TurnedAway {
                environment: None,
                reason: Reason::UnknownHost,
                status: 404,
                count: 5,
            }],
            ejected: vec![(
                key(Color::Green, 2),
                Endpoint::Http("127.0.0.1:9".parse().unwrap()),
                "refused a connection".into(),
            )],
            access_log: Some(LogStatus { written: 9, dropped: 2 }),
            pauses: vec![PauseStatus {
                environment: EnvironmentName::new("staging").unwrap(),
                held: 3,
                ends_in_ms: 8_400,
            }],
            finishing: vec![Finishing {
                pid: 6,
                connections: 5,
                in_flight: 3,
                upgraded: 3,
                streams: 1,
            }],
        };
        let certificate = CertificateInfo {
            names: vec!["tea.example".into(), "www.tea.example".into()],
            not_after: "2026-12-01T10:00:00Z".into(),
            serial: "07".into(),
            fingerprint: "ab".into(),
        };
        let table = serde_json::json!({ "epoch": 4, "environments": { "staging": {
            "app": "tea", "host": "a", "preview_host": "b", "live": "green",
            "drain_deadline": { "secs": 1, "nanos": 0 },
            "slots": { "green": { "release": "r2", "routes": [] } },
        } } });
        let table: Table = serde_json::from_value(table).unwrap();
        let routes = vec![route(Color::Blue, 1, &drains), route(Color::Green, 2, &facts)];
        let seen = Seen {
            over_seconds: Some(2.0),
            status,
            certificates: vec![certificate],
            routes,
            table,
        };
        let expected = "\
edge 0.1.0 · pid 7 · up 60 s · epoch 4
listens  http 127.0.0.1:80 · 12 open
before   pid 6 finishes 2 requests, 3 WebSockets, 1 streams · 5 of those open
presents tea.example, www.tea.example until 2026-12-01T10:00:00Z
logs     9 lines written, 2 lost: its reader is too slow
holds    3 new requests to staging, for 8.4 s more

staging/blue r1 not live, waits for 3 WebSockets, 1 streams
  ROUTE  SERVICE  REQ/S  2XX  3XX  4XX  5XX  P50  P99  P99.9  CONNECT  NOW  WS  SSE  IN  OUT
  /api   backend    0.0    0    0    0    0    -    -      -        -    1   3    1  0B   0B

staging/green r2 live
  ROUTE  SERVICE  REQ/S  2XX  3XX  4XX  5XX    P50    P99  P99.9  CONNECT  NOW  WS  SSE  IN   OUT
  /api   backend   50.0   90    0    8    2  904µs  904µs   1.4s    150µs    1   0    0  0B  1.9M
  reasons: connect 2

reached no route, since the edge began
  -                    5  404  unknown host

kept out staging/green backend 127.0.0.1:9 refused a connection
";
        assert_eq!(text(&seen, Paint::plain(), 61_000), expected);
    }
}
