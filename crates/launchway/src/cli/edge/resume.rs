//! `launchway edge resume`: the requests that a pause holds go on.

use ::edge::Client;
use control::server::edge_folder;
use domain::EnvironmentName;

use super::failed;
use crate::cli::{Exit, Globals, Outcome, print, print_json};

/// Let the requests go that a pause holds
#[derive(clap::Args)]
#[command(after_help = "Examples:
  launchway edge resume production

They go where the routes of this moment say. What is not paused stays as it is.")]
pub struct Args {
    /// The environment that was paused
    environment: EnvironmentName,
}

/// Runs the verb.
pub async fn run(args: Args, globals: &Globals) -> Outcome {
    let client = Client::new(edge_folder(&globals.state()).join("control.sock"));
    let resumed = client.resume(&args.environment).await.map_err(|error| {
        let help = "`launchway edge status` says which environments the edge carries";
        failed(&format!("resuming {}", args.environment), &error, help)
    })?;
    match globals.json {
        true => print_json(&resumed)?,
        false => {
            print(&format!("{} goes on; {} requests were held\n", args.environment, resumed.held))?
        }
    }
    Ok(Exit::Ok)
}
