//! What is written to `target/bench/edge.json`. Each key is explained in `bench/README.md`.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde::Serialize;

use super::idle::Idle;
use super::measure::{Figures, Measured, Round};
use super::routes::Grown;
use super::scenario::{LEFT_OUT, Scenario};
use super::statistics::Spread;
use crate::peers::{Kind, Outcome, failing};

/// The whole report.
#[derive(Debug, Serialize)]
pub struct Report {
    pub cpu_ratio_nginx: Option<f64>,
    pub cpu_ratio_nginx_worst: Option<f64>,
    pub cpu_ratio_nginx_plain: Option<f64>,
    pub cpu_ratio_nginx_tls: Option<f64>,
    pub p99_ratio_nginx: Option<f64>,
    pub p99_ratio_nginx_worst: Option<f64>,
    pub bars: Vec<Bar>,
    /// What could not be measured, and why.
    pub missing: Vec<String>,
    pub left_out: [&'static str; LEFT_OUT.len()],
    pub machine: Machine,
    pub scenarios: Vec<Row>,
    pub routes: Vec<Grown>,
    pub idle: Vec<Idle>,
}

/// A limit, and whether it is held.
#[derive(Debug, Serialize)]
pub struct Bar {
    pub name: &'static str,
    pub figure: Option<f64>,
    pub limit: f64,
    /// False also where there is no figure.
    pub ok: bool,
}

#[derive(Debug, Serialize)]
pub struct Machine {
    pub quick: bool,
    pub cores: usize,
    /// Of the last minute, before the run: near 0 on a machine that does nothing else.
    pub load_before: f64,
    pub load_after: f64,
    pub seconds: f64,
    pub versions: BTreeMap<&'static str, String>,
}

/// One scenario.
#[derive(Debug, Serialize)]
pub struct Row {
    pub name: String,
    #[serde(flatten)]
    pub scenario: Scenario,
    /// The edge against each other proxy.
    pub ratios: BTreeMap<&'static str, Ratios>,
    pub peers: BTreeMap<&'static str, Medians>,
}

#[derive(Debug, Serialize)]
pub struct Ratios {
    pub cpu: Option<Spread>,
    pub cpu_at_rate: Option<Spread>,
    pub p99: Option<Spread>,
    pub requests_per_second: Option<Spread>,
}

/// Medians over the rounds, and the rounds.
#[derive(Debug, Serialize)]
pub struct Medians {
    pub requests_per_second: Option<f64>,
    pub cpu_us: Option<f64>,
    pub cpu_us_at_rate: Option<f64>,
    pub p50_us: Option<f64>,
    pub p99_us: Option<f64>,
    pub p999_us: Option<f64>,
    pub memory_mib: Option<f64>,
    pub rate: Option<f64>,
    pub failed: u64,
    #[serde(flatten)]
    pub figures: Figures,
}

impl Row {
    pub fn of(measured: Measured) -> Self {
        let ratio = |kind| Ratios {
            cpu: measured.ratio(kind, |round| round.cpu_us),
            cpu_at_rate: measured.ratio(kind, |round| round.cpu_us_at_rate),
            p99: measured.ratio(kind, |round| round.p99_us as f64),
            requests_per_second: measured.ratio(kind, |round| round.requests_per_second),
        };
        let others = Kind::ALL.into_iter().filter(|kind| *kind != Kind::Edge);
        let ratios = others.map(|kind| (kind.name(), ratio(kind))).collect();
        let peers = measured.peers.into_iter();
        Self {
            name: measured.scenario.name(),
            scenario: measured.scenario,
            ratios,
            peers: peers.map(|(kind, figures)| (kind.name(), Medians::of(figures))).collect(),
        }
    }

    fn cpu(&self) -> Option<f64> {
        Some(self.ratios.get("nginx")?.cpu?.median)
    }

    fn p99(&self) -> Option<f64> {
        Some(self.ratios.get("nginx")?.p99?.median)
    }
}

impl Medians {
    fn of(figures: Figures) -> Self {
        let median = |figure: fn(&Round) -> f64| figures.median(figure);
        Self {
            requests_per_second: median(|round| round.requests_per_second),
            cpu_us: median(|round| round.cpu_us),
            cpu_us_at_rate: median(|round| round.cpu_us_at_rate),
            p50_us: median(|round| round.p50_us as f64),
            p99_us: median(|round| round.p99_us as f64),
            p999_us: median(|round| round.p999_us as f64),
            memory_mib: median(|round| round.memory_mib),
            rate: median(|round| round.rate),
            failed: figures.rounds.iter().map(|round| round.failed).sum(),
            figures,
        }
    }
}

impl Report {
    /// Draws the conclusions from what was measured.
    pub fn of(rows: Vec<Row>, routes: Vec<Grown>, idle: Vec<Idle>, machine: Machine) -> Self {
        let over = |figure: fn(&Row) -> Option<f64>, of: fn(&Row) -> bool| {
            Spread::of(rows.iter().filter(|row| of(row)).filter_map(figure))
        };
        let median = |spread: Option<Spread>| spread.map(|spread| spread.median);
        let worst = |spread: Option<Spread>| spread.map(|spread| spread.max);
        let cpu = over(Row::cpu, |_| true);
        let plain = median(over(Row::cpu, |row| !row.scenario.tls()));
        let tls = median(over(Row::cpu, |row| row.scenario.tls()));
        let p99 = over(Row::p99, |_| true);
        let bars = vec![
            Bar::new("CPU per request, median of the scenarios", median(cpu), 1.0),
            Bar::new("CPU per request, worst scenario", worst(cpu), 1.0),
            Bar::new("CPU per request without TLS, median (aim)", plain, 0.8),
            Bar::new("CPU per request with TLS, median (aim)", tls, 0.6),
            Bar::new("p99 at a constant rate, median of the scenarios", median(p99), 1.0),
            Bar::new("p99 at a constant rate, worst scenario", worst(p99), 1.0),
        ];
        Self {
            cpu_ratio_nginx: median(cpu),
            cpu_ratio_nginx_worst: worst(cpu),
            cpu_ratio_nginx_plain: plain,
            cpu_ratio_nginx_tls: tls,
            p99_ratio_nginx: median(p99),
            p99_ratio_nginx_worst: worst(p99),
            bars,
            missing: missing(&rows, &routes, &idle),
            left_out: LEFT_OUT,
            machine,
            scenarios: rows,
            routes,
            idle,
        }
    }

    /// Writes it so that whoever reads meanwhile sees the old one or the new one.
    pub fn write(&self, path: &Path) -> Outcome<()> {
        let writing = || failing::<std::io::Error>(format!("writing {}", path.display()));
        let text = serde_json::to_vec_pretty(self).map_err(failing("making the report"))?;
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(writing())?;
        }
        let new = path.with_extension("json.new");
        fs::write(&new, text).map_err(writing())?;
        fs::rename(&new, path).map_err(writing())
    }
}

impl Bar {
    fn new(name: &'static str, figure: Option<f64>, limit: f64) -> Self {
        Self { name, figure, limit, ok: figure.is_some_and(|figure| figure <= limit) }
    }
}

/// The same reason is said once, with where it happened first.
fn missing(rows: &[Row], routes: &[Grown], idle: &[Idle]) -> Vec<String> {
    let scenarios = rows.iter().flat_map(|row| {
        let peers = row.peers.iter();
        peers
            .map(move |(peer, medians)| (*peer, row.name.clone(), medians.figures.missing.as_ref()))
    });
    let routes = routes.iter().flat_map(|grown| {
        let peers = grown.peers.iter();
        peers.map(move |(peer, cost)| {
            (*peer, format!("{} routes", grown.routes), cost.missing.as_ref())
        })
    });
    let idle =
        idle.iter().map(|idle| (idle.peer, "idle connections".into(), idle.missing.as_ref()));
    let mut said = BTreeMap::new();
    for (peer, place, why) in scenarios.chain(routes).chain(idle) {
        if let Some(why) = why {
            said.entry((peer, why.clone())).or_insert((place, 0)).1 += 1;
        }
    }
    said.into_iter()
        .map(|((peer, why), (place, times))| {
            format!("{peer} ({place}, {times} times in all): {why}")
        })
        .collect()
}
