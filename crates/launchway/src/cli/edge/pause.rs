//! `launchway edge pause`: new requests to an environment wait for a while.

use std::num::NonZeroUsize;

use ::edge::{Client, PauseFor};
use control::server::edge_folder;
use domain::EnvironmentName;
use domain::units::Span;

use super::failed;
use crate::cli::{Exit, Globals, Outcome, print, print_json};

/// Hold new requests to an environment for a short while; those in flight go on
#[derive(clap::Args)]
#[command(after_help = "Examples:
  launchway edge pause production --for 10s --most 1000
  launchway edge resume production

Held requests go on by themselves when the time is over, by the routes of that moment.
More of them than --most are answered with 503. `launchway edge status` shows the pause.
It is asked of the edge itself and works without the server. An edge that is restarted or
replaced holds nothing.")]
pub struct Args {
    /// The environment whose new requests wait
    environment: EnvironmentName,
    /// For this long, at most 60s
    #[arg(long = "for", value_name = "TIME", default_value = "10s", value_parser = short)]
    duration: Span,
    /// Hold at most this many requests
    #[arg(long, value_name = "COUNT", default_value = "1000")]
    most: NonZeroUsize,
}

/// A time that the edge may hold requests for.
fn short(text: &str) -> Result<Span, String> {
    let span: Span = text.parse().map_err(|error| format!("{error}"))?;
    let longest = PauseFor::LONGEST;
    match span.0 {
        time if time.is_zero() || time > longest => {
            Err(format!("choose more than 0s and at most {}", Span(longest)))
        }
        _ => Ok(span),
    }
}

/// Runs the verb.
pub async fn run(args: Args, globals: &Globals) -> Outcome {
    let client = Client::new(edge_folder(&globals.state()).join("control.sock"));
    let wanted = PauseFor { duration: args.duration.0, most: args.most.get() };
    let paused = client.pause(&args.environment, wanted).await.map_err(|error| {
        let help = "`launchway edge status` says which environments the edge carries";
        failed(&format!("pausing {}", args.environment), &error, help)
    })?;
    match globals.json {
        true => print_json(&paused)?,
        false => print(&format!(
            "{} holds new requests for {}, at most {}; `launchway edge resume {}` lets them go\n",
            args.environment, args.duration, args.most, args.environment
        ))?,
    }
    Ok(Exit::Ok)
}
