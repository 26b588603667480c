//! `launchway edge status`: what the edge carries, asked of the edge itself, with or without a server.

mod show;

use std::fs;
use std::path::Path;
use std::time::Duration;

use ::edge::{CertificateInfo, Client};
use control::server::edge_folder;
use domain::route::{EdgeStatus, RouteFacts, Table};
use domain::units::Span;
use serde::Serialize;

use super::failed;
use crate::cli::paint::Paint;
use crate::cli::{Exit, Globals, Outcome, print, print_json};

/// Show what the edge carries: per route, with errors, latency and what is open
#[derive(clap::Args)]
#[command(after_help = "Examples:
  launchway edge status               requests per second, measured over one second
  launchway edge status --over 10s    measured for longer
  launchway edge status --total       everything since the edge began
  launchway edge status --json        the same as JSON, with every route and whole latency sketches

It asks the edge by the socket in its state folder, and works without the server.
Latency is right within 1.6%. Reasons are those for which the edge answered itself, or broke off.")]
pub struct Args {
    /// Count for this long
    #[arg(long, value_name = "TIME", default_value = "1s")]
    over: Span,
    /// Everything since the edge began
    #[arg(long, conflicts_with = "over")]
    total: bool,
}

/// All there is to show.
#[derive(Debug, Serialize)]
struct Seen {
    /// Seconds that `routes` were counted for; `None` is since the edge began.
    over_seconds: Option<f64>,
    status: EdgeStatus,
    certificates: Vec<CertificateInfo>,
    routes: Vec<RouteFacts>,
    /// The last table on disk: what is live.
    #[serde(skip)]
    table: Table,
}

/// Asks and shows.
pub async fn run(args: Args, globals: &Globals) -> Outcome {
    let folder = edge_folder(&globals.state());
    let client = Client::new(folder.join("control.sock"));
    let asked = look(&client, &folder, (!args.total).then_some(args.over.0)).await;
    let seen = asked.map_err(|error| {
        let help = "its log says why: supervised/edge/log in the state folder";
        failed("asking the edge how it is", &error, help)
    })?;
    match globals.json {
        true => print_json(&seen)?,
        false => {
            print(&show::text(&seen, Paint::stdout(), jiff::Timestamp::now().as_millisecond()))?
        }
    }
    Ok(Exit::Ok)
}

async fn look(
    client: &Client,
    folder: &Path,
    over: Option<Duration>,
) -> Result<Seen, ::edge::ClientError> {
    let mut routes = client.routes().await?;
    let mut over_seconds = None;
    if let Some(over) = over {
        let began = std::time::Instant::now();
        tokio::time::sleep(over).await;
        let earlier = std::mem::replace(&mut routes, client.routes().await?);
        over_seconds = Some(began.elapsed().as_secs_f64());
        subtract(&mut routes, &earlier);
    }
    let (status, certificates) = (client.status().await?, client.certificates().await?);
    // Without it, it is not said what is live.
    let table = fs::read(folder.join("table.json")).unwrap_or_default();
    let table = serde_json::from_slice(&table).unwrap_or_default();
    Ok(Seen { over_seconds, status, certificates, routes, table })
}

/// Both are sorted by what they are the numbers of.
fn subtract(now: &mut [RouteFacts], earlier: &[RouteFacts]) {
    for route in now {
        let known = earlier.binary_search_by(|other| {
            (&other.key, &other.prefix).cmp(&(&route.key, &route.prefix))
        });
        if let Ok(at) = known {
            route.facts = route.facts.since(&earlier[at].facts);
        }
    }
}
