//! `launchway approve`: lets a rollout that waits for approval go on.

use domain::RolloutId;

use super::{Globals, Outcome, decided, deploy};
use crate::api::wire::{Decided, Target};

/// Let the release that waits for approval go on
#[derive(clap::Args)]
#[command(after_help = "Examples:
  launchway approve production            what waits there now
  launchway approve ro-12                 exactly this rollout
  launchway approve production --wait     and follow it until it is live

You are who your operating system says you are. Ends with 3 when you may not approve it.")]
pub struct Args {
    /// An environment or a rollout (ro-12)
    target: String,
    /// Follow it until it is over; ends like `launchway deploy` then
    #[arg(long)]
    wait: bool,
}

/// Runs the verb.
pub async fn run(args: Args, globals: &Globals) -> Outcome {
    let client = globals.client();
    let done: Decided = client.post("/v1/approve", &Target { target: args.target }).await?;
    if !args.wait {
        return decided(&done, "approved", globals);
    }
    eprintln!("{} is approved: {}", done.id, done.said);
    deploy::to_the_end(&client, &done.id.parse::<RolloutId>()?, globals).await
}
