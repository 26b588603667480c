//! `launchway abort`: stops a run or a rollout and puts back what it changed.

use super::{Globals, Outcome, decided};
use crate::api::wire::{Decided, Target};

/// Stop a run or a rollout, and put back what it changed
#[derive(clap::Args)]
#[command(after_help = "Examples:
  launchway abort staging    what is under way or waits there
  launchway abort ro-12      exactly this rollout
  launchway abort run-7      a build

A rollout that has switched already goes back to the release before it.")]
pub struct Args {
    /// An environment, a rollout (ro-12) or a run (run-7)
    target: String,
}

/// Runs the verb.
pub async fn run(args: Args, globals: &Globals) -> Outcome {
    let client = globals.client();
    let done: Decided = client.post("/v1/abort", &Target { target: args.target }).await?;
    decided(&done, "aborted", globals)
}
