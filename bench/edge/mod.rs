//! The edge beside nginx, HAProxy and kamal-proxy: what a request costs.
//!
//! ```text
//!   scenario × round × proxy ─┬─ closed loop (wrk, h2load): requests/s, CPU per request, memory
//!                             └─ open loop (generator) at half of nginx's throughput: p50, p99, p99.9
//! ```

mod connection;
pub(crate) mod generator;
mod idle;
mod measure;
mod report;
mod routes;
mod scenario;
mod statistics;
mod table;
mod tools;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::peers::{Backend, Ground, Kind, Outcome};
use measure::Effort;
use report::{Machine, Report, Row};
use scenario::Scenario;
use tools::Times;

/// Options of `bench edge`.
#[derive(clap::Args)]
pub struct Args {
    /// Few scenarios and rounds: within 3 minutes instead of 20
    #[arg(long)]
    quick: bool,
    /// Only scenarios whose name contains this, and nothing about growth
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,
    /// How often each scenario is measured, instead of 9 times (2 with --quick): with --only, to tell apart what lies
    /// near 1
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u16).range(1..=200))]
    rounds: Option<u16>,
    /// The release binary of Launchway
    #[arg(long, value_name = "FILE")]
    launchway: PathBuf,
    /// The binary of kamal-proxy
    #[arg(long, value_name = "FILE", conflicts_with = "no_kamal")]
    kamal: Option<PathBuf>,
    /// Why there is no kamal-proxy
    #[arg(long, value_name = "WHY")]
    no_kamal: Option<String>,
    /// Where the report is written
    #[arg(long, value_name = "FILE", default_value = "target/bench/edge.json")]
    output: PathBuf,
}

const IDLE: [usize; 4] = [100, 1_000, 5_000, 20_000];
const IDLE_QUICK: [usize; 2] = [100, 2_000];

/// Runs it: prints as it goes, writes the report at the end.
pub async fn run(args: Args) -> Outcome<()> {
    let began = Instant::now();
    let mut machine = machine(&args);
    table::machine(&machine);
    let kamal = args.kamal.ok_or_else(|| args.no_kamal.unwrap_or("none was given".into()));
    if let Err(why) = &kamal {
        println!("\nWITHOUT KAMAL-PROXY: {why}");
    }
    let ground = Ground::new(args.launchway, kamal)?;
    let backend = Backend::start(&ground).await?;
    let effort = effort(args.quick, args.rounds);
    let mut rows = Vec::new();
    for scenario in if args.quick { Scenario::few() } else { Scenario::all() } {
        if args.only.as_ref().is_some_and(|only| !scenario.name().contains(only)) {
            continue;
        }
        let row = Row::of(measure::scenario(&ground, &backend, scenario, &effort).await?);
        table::scenario(&row);
        rows.push(row);
    }
    let (mut routes, mut idle) = (Vec::new(), Vec::new());
    if args.only.is_none() {
        routes = grow_routes(&ground, &backend, if args.quick { 1 } else { 2 }).await?;
        idle = grow_idle(&ground, &backend, if args.quick { &IDLE_QUICK } else { &IDLE }).await;
    }
    machine.seconds = began.elapsed().as_secs_f64();
    machine.load_after = load();
    let report = Report::of(rows, routes, idle, machine);
    table::conclusions(&report);
    report.write(&args.output)?;
    println!("\n{:.0} s; written to {}", report.machine.seconds, args.output.display());
    Ok(())
}

fn effort(quick: bool, rounds: Option<u16>) -> Effort {
    Effort {
        // Many short rounds: a machine drifts from one second to the next, and a pair lies close together.
        rounds: rounds.unwrap_or(if quick { 2 } else { 9 }).into(),
        closed: Times {
            run: 1,
            warm: Duration::from_millis(250),
            window: Duration::from_millis(600),
        },
        open_warm: Duration::from_millis(150),
        open_window: Duration::from_millis(700),
        share: 0.5,
        share_of_one: 0.25,
    }
}

async fn grow_routes(
    ground: &Ground,
    backend: &Backend,
    rounds: usize,
) -> Outcome<Vec<routes::Grown>> {
    let mut all = Vec::new();
    for size in routes::SIZES {
        let grown = routes::grow(ground, backend, size, rounds).await?;
        table::routes(&grown);
        all.push(grown);
    }
    Ok(all)
}

async fn grow_idle(ground: &Ground, backend: &Backend, levels: &[usize]) -> Vec<idle::Idle> {
    println!("\nIdle connections, each after one request: memory of the proxy");
    let mut all = Vec::new();
    for tls in [false, true] {
        for kind in [Kind::Edge, Kind::Nginx, Kind::Haproxy] {
            let idle = idle::grow(ground, backend, kind, tls, levels).await;
            table::idle(&idle);
            all.push(idle);
        }
    }
    all
}

fn machine(args: &Args) -> Machine {
    let mut versions = BTreeMap::from([
        ("launchway", version(&args.launchway, "--version")),
        ("nginx", version(Path::new("/usr/sbin/nginx"), "-v")),
        ("haproxy", version(Path::new("/usr/sbin/haproxy"), "-v")),
    ]);
    if let Some(kamal) = &args.kamal {
        versions.insert("kamal-proxy", kamal.display().to_string());
    }
    Machine {
        quick: args.quick,
        cores: std::thread::available_parallelism().map_or(1, usize::from),
        load_before: load(),
        load_after: 0.0,
        seconds: 0.0,
        versions,
    }
}

fn load() -> f64 {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().and_then(|first| first.parse().ok()).unwrap_or(f64::NAN)
}

/// The first line of what the program says of itself.
fn version(program: &Path, option: &str) -> String {
    let Ok(said) = Command::new(program).arg(option).output() else { return "unknown".into() };
    let text = [said.stdout, said.stderr].concat();
    String::from_utf8_lossy(&text).lines().next().unwrap_or("unknown").to_owned()
}
