//! What clients lose when traffic moves from one release to the next, under load, beside other proxies.
//!
//! ```text
//!   traffic (open loop, checked) ─┐
//!   WebSockets, streams of events ┼─▶ proxy ──▶ release n   (stopped four seconds after
//!   slow uploads and downloads   ─┘    └switch▶ release n+1  the switch away from it)
//! ```

mod backend;
mod client;
mod harness;
mod report;
mod traffic;
mod transfers;
mod upgrades;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::peers::{Ground, Kind, Outcome, failing};
use harness::{Clients, Pace};
use report::{Report, Restart, Row};

/// Options of `bench switch`.
#[derive(clap::Args)]
pub struct Args {
    /// Fewer switches and clients: within 2 minutes instead of 7
    #[arg(long)]
    quick: bool,
    /// How often the edge is switched; the others a fifth of that
    #[arg(long, value_name = "N", default_value_t = 200)]
    switches: usize,
    /// Only this proxy: edge, nginx, haproxy or kamal-proxy; `upgrades` for the edge's own, `still` for releases
    /// that come and go while the traffic stays
    #[arg(long, value_name = "NAME")]
    only: Option<String>,
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
    #[arg(long, value_name = "FILE", default_value = "target/bench/switch.json")]
    output: PathBuf,
}

const FULL: Clients = Clients { rate: 2000.0, websockets: 1000, event_streams: 200, transfers: 20 };
const QUICK: Clients = Clients { rate: 1000.0, websockets: 200, event_streams: 40, transfers: 5 };
const UPGRADES: usize = 20;
const STILL: &str = "still";

/// Runs it: prints as it goes, writes the report at the end. The edge's figures are the report's own.
pub async fn run(args: Args) -> Outcome<()> {
    let began = Instant::now();
    let load_before = load();
    let kamal = args.kamal.ok_or_else(|| args.no_kamal.unwrap_or("none was given".into()));
    let ground = Ground::new(args.launchway, kamal)?;
    // The releases and the clients that stay; what starts processes has to stay on this thread.
    let world = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let world = world.map_err(failing("starting the releases"))?;
    let clients = if args.quick { QUICK } else { FULL };
    let switches = if args.quick { args.switches.min(40) } else { args.switches };
    let wanted = |name: &str| args.only.as_ref().is_none_or(|only| only == name);
    let (mut edge, mut still) = (None, None);
    let (mut peers, mut missing) = (BTreeMap::new(), BTreeMap::new());
    report::head();
    for kind in Kind::ALL.into_iter().filter(|kind| wanted(kind.name())) {
        let pace = pace(kind, switches, args.quick);
        match harness::switching(&ground, world.handle(), kind, clients, pace).await {
            Ok(seen) => {
                let row = Row::of(&seen);
                row.print(kind.name());
                match kind {
                    Kind::Edge => edge = Some(row),
                    Kind::Nginx => drop(peers.insert("nginx", row)),
                    Kind::Haproxy => drop(peers.insert("haproxy", row)),
                    Kind::Kamal => drop(peers.insert("kamal_proxy", row)),
                }
            }
            Err(why) => miss(&mut missing, kind.name(), why),
        }
    }
    if wanted(STILL) {
        let pace = Pace { moves: false, ..pace(Kind::Edge, switches / 2, args.quick) };
        match harness::switching(&ground, world.handle(), Kind::Edge, clients, pace).await {
            Ok(seen) => {
                let row = Row::of(&seen);
                row.print("edge, still");
                still = Some(row);
            }
            Err(why) => miss(&mut missing, STILL, why),
        }
    }
    let (mut upgrades, mut restart_ms) = (None, None);
    if wanted("upgrades") {
        let count = if args.quick { 4 } else { UPGRADES };
        match upgrades::upgrading(&ground, world.handle(), clients, count).await {
            Ok(done) => {
                println!(
                    "\n{} upgrades of the running edge: {} of {} requests failed, {} abnormal closes, {} polite",
                    done.upgrades,
                    done.failed,
                    done.requests,
                    done.abnormal_closes,
                    done.polite_closes
                );
                upgrades = Some(done);
            }
            Err(why) => miss(&mut missing, "upgrades", why),
        }
        match upgrades::restarting(&ground, world.handle()).await {
            Ok(times) => {
                let restart = Restart::of(times);
                println!(
                    "kill -9 and a new start without the server: first answer after {:.0} ms (median)",
                    restart.median
                );
                restart_ms = Some(restart);
            }
            Err(why) => miss(&mut missing, "restart", why),
        }
    }
    let seconds = began.elapsed().as_secs_f64().round();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let quick = args.quick;
    let report = Report {
        edge,
        still,
        peers,
        upgrades,
        restart_ms,
        missing,
        cores,
        load_before,
        seconds,
        quick,
    };
    report.write(&args.output)?;
    println!("\n{seconds} s; written to {}", args.output.display());
    world.shutdown_background();
    report.complete()
}

fn miss(missing: &mut BTreeMap<String, String>, what: &str, why: impl ToString) {
    println!("{what:12} MISSING: {}", why.to_string());
    missing.insert(what.into(), why.to_string());
}

/// A whole number of switches fits into [`harness::SPREAD`], so that what a switch closes comes back evenly over the
/// ones after it. The others get fewer switches, with more time for each: they leave processes and connections behind.
fn pace(kind: Kind, switches: usize, quick: bool) -> Pace {
    let lead = Duration::from_secs(if quick { 3 } else { 10 });
    match kind {
        Kind::Edge => Pace { switches, every: harness::SPREAD / 2, lead, moves: true },
        Kind::Nginx | Kind::Haproxy | Kind::Kamal => {
            let switches = switches.div_ceil(5);
            Pace { switches, every: Duration::from_secs(1), lead, moves: true }
        }
    }
}

fn load() -> f64 {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().and_then(|first| first.parse().ok()).unwrap_or(f64::NAN)
}
