//! The figures of the switches: `target/bench/switch.json`, and the table on the screen.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

use control::load::LastingCounts;
use serde::Serialize;

use super::harness::Seen;
use super::transfers::Transferred;
use super::upgrades::Upgrades;
use crate::peers::{Failed, Outcome, failing};

/// So long after a switch began, requests count as sent during it.
pub const WINDOW: Duration = Duration::from_millis(200);

/// One proxy's figures.
#[derive(Debug, Serialize)]
pub struct Row {
    pub switches: usize,
    /// Requests, transfers and attempts to open a WebSocket or a stream that failed.
    pub failed: u64,
    pub failed_per_switch: f64,
    /// WebSockets without a Close frame, streams that broke.
    pub abnormal_closes: u64,
    pub abnormal_closes_per_switch: f64,
    pub polite_closes: u64,
    /// Answers with parts of two releases, and connections on which an older release answered after a newer one.
    pub mixed: u64,
    /// Requests sent after the proxy said that the switch was in force, and answered by an older release.
    pub stale: u64,
    /// p99 within [`WINDOW`] after the beginning of each switch, against the rest of the same run.
    pub p99_ratio: f64,
    /// The same against the time before the first switch.
    pub p99_ratio_lead: f64,
    pub p99_ms: Latency,
    pub requests: u64,
    pub rate: f64,
    /// How late the generator itself was; it shares the cores with what it measures.
    pub lag_p99_ms: f64,
    /// From the order to switch until the proxy said that it was done.
    pub switch_ms_median: f64,
    pub switch_ms_max: f64,
    pub failures: BTreeMap<&'static str, u64>,
    pub first_failures: Vec<String>,
    pub websockets: LastingCounts,
    pub event_streams: LastingCounts,
    pub transfers: Transferred,
    pub seconds: f64,
}

/// p99 in milliseconds.
#[derive(Debug, Serialize)]
pub struct Latency {
    pub lead: f64,
    pub steady: f64,
    pub switching: f64,
}

/// All of it.
#[derive(Debug, Serialize)]
pub struct Report {
    #[serde(flatten)]
    pub edge: Option<Row>,
    /// The edge again, with releases that come and go while the traffic stays: what of the ratio is the machine's.
    pub still: Option<Row>,
    pub peers: BTreeMap<&'static str, Row>,
    pub upgrades: Option<Upgrades>,
    /// Kill -9 and a new start without the server: milliseconds to the first answer.
    pub restart_ms: Option<Restart>,
    /// What could not be measured, and why.
    pub missing: BTreeMap<String, String>,
    pub cores: usize,
    pub load_before: f64,
    pub seconds: f64,
    pub quick: bool,
}

#[derive(Debug, Serialize)]
pub struct Restart {
    pub median: f64,
    pub worst: f64,
    pub times: Vec<f64>,
}

impl Restart {
    pub fn of(times: Vec<f64>) -> Self {
        Self {
            median: median(&times),
            worst: times.iter().copied().fold(0.0, f64::max),
            times: times.into_iter().map(rounded).collect(),
        }
    }
}

impl Row {
    pub fn of(seen: &Seen) -> Self {
        let first = seen.switches.first().map_or(Duration::MAX, |(began, _)| *began);
        let within = |due: Duration| {
            let after = seen.switches.partition_point(|(began, _)| *began <= due);
            after > 0 && due - seen.switches[after - 1].0 < WINDOW
        };
        let samples = &seen.counts.samples;
        let p99_of = |chosen: &dyn Fn(Duration) -> bool| {
            quantile(samples.iter().filter(|(due, _)| chosen(*due)).map(|(_, took)| *took), 0.99)
        };
        let p99_ms = Latency {
            lead: p99_of(&|due| due < first),
            steady: p99_of(&|due| !within(due)),
            switching: p99_of(&within),
        };
        let took: Vec<f64> = seen
            .switches
            .iter()
            .map(|(began, done)| (*done - *began).as_secs_f64() * 1e3)
            .collect();
        let switches = seen.switches.len();
        let each = |count: u64| rounded(count as f64 / switches.max(1) as f64);
        let (failed, abnormal) = (seen.failed(), seen.lasting.abnormal());
        let requests = samples.len() as u64 + seen.counts.all_failed();
        Self {
            switches,
            failed,
            failed_per_switch: each(failed),
            abnormal_closes: abnormal,
            abnormal_closes_per_switch: each(abnormal),
            polite_closes: seen.lasting.polite(),
            mixed: seen.mixed(),
            stale: seen.counts.stale,
            p99_ratio: rounded(p99_ms.switching / p99_ms.steady),
            p99_ratio_lead: rounded(p99_ms.switching / p99_ms.lead),
            p99_ms,
            requests,
            rate: rounded(requests as f64 / seen.lasted.as_secs_f64()),
            lag_p99_ms: quantile(seen.counts.lag.iter().copied(), 0.99),
            switch_ms_median: median(&took),
            switch_ms_max: rounded(took.iter().copied().fold(0.0, f64::max)),
            failures: seen.counts.failed.clone(),
            first_failures: first_failures(seen),
            websockets: seen.lasting.websockets.clone(),
            event_streams: seen.lasting.event_streams.clone(),
            transfers: seen.transferred.clone(),
            seconds: rounded(seen.lasted.as_secs_f64()),
        }
    }

    pub fn print(&self, name: &str) {
        println!(
            "{name:12} {:>8} {:>7} {:>8} {:>7} {:>6} {:>6} {:>9.2} {:>9.2} {:>9.2} {:>9.1}",
            self.switches,
            self.failed,
            self.abnormal_closes,
            self.polite_closes,
            self.mixed,
            self.stale,
            self.p99_ratio,
            self.p99_ms.steady,
            self.lag_p99_ms,
            self.switch_ms_median,
        );
        for line in self.first_failures.iter().take(3) {
            println!("             {line}");
        }
    }
}

pub fn head() {
    println!(
        "\n{:12} {:>8} {:>7} {:>8} {:>7} {:>6} {:>6} {:>9} {:>9} {:>9} {:>9}",
        "",
        "switches",
        "failed",
        "abnormal",
        "polite",
        "mixed",
        "stale",
        "p99 ratio",
        "p99 ms",
        "lag p99",
        "switch ms"
    );
}

/// What failed first, of each sort, with its time.
pub fn first_failures(seen: &Seen) -> Vec<String> {
    let requests = seen.counts.first_failures.iter().map(|(at, failure)| {
        format!("{:.1} s: {}: {}", at.as_secs_f64(), failure.kind, failure.why)
    });
    let incidents = seen.lasting.incidents.iter().take(10).map(|incident| {
        let what = if incident.opening { "opening" } else { "open" };
        format!("{:?}, {what}: {}", incident.client, incident.why)
    });
    requests.take(10).chain(incidents).chain(seen.transferred.first_failures.clone()).collect()
}

impl Report {
    pub fn write(&self, path: &Path) -> Outcome<()> {
        let text = serde_json::to_string_pretty(self).map_err(failing("writing the report"))?;
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)
                .map_err(failing(format_args!("making {}", folder.display())))?;
        }
        fs::write(path, text + "\n").map_err(failing(format_args!("writing {}", path.display())))
    }

    /// Another proxy may be missing, where it cannot be built; what is ours may not.
    pub fn complete(&self) -> Outcome<()> {
        let ours =
            |what: &&String| ["edge", "still", "upgrades", "restart"].contains(&what.as_str());
        let missing: Vec<_> = self.missing.keys().filter(ours).map(String::as_str).collect();
        if missing.is_empty() {
            return Ok(());
        }
        Err(Failed(format!("not measured: {}; the reasons are above", missing.join(", "))))
    }
}

/// In milliseconds; 0 without any.
fn quantile(times: impl Iterator<Item = Duration>, quantile: f64) -> f64 {
    let mut times: Vec<Duration> = times.collect();
    times.sort_unstable();
    let rank = (times.len() as f64 * quantile).ceil() as usize;
    times.get(rank.saturating_sub(1)).map_or(0.0, |time| rounded(time.as_secs_f64() * 1e3))
}

fn median(times: &[f64]) -> f64 {
    let mut times = times.to_vec();
    times.sort_by(f64::total_cmp);
    times.get(times.len() / 2).copied().map_or(0.0, rounded)
}

fn rounded(value: f64) -> f64 {
    (value * 1e3).round() / 1e3
}
