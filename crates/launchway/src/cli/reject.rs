//! `launchway reject`: a release that waits for approval does not go on.

use super::{Globals, Outcome, decided};
use crate::api::wire::{Decided, RejectRequest};

/// Refuse the release that waits for approval
#[derive(clap::Args)]
#[command(after_help = "Examples:
  launchway reject production --reason 'the price list is wrong'
  launchway reject ro-12 --reason 'not before Monday'

The reason stays in the history.")]
pub struct Args {
    /// An environment or a rollout (ro-12)
    target: String,
    /// Why, for the author and the history
    #[arg(long, value_name = "TEXT")]
    reason: String,
}

/// Runs the verb.
pub async fn run(args: Args, globals: &Globals) -> Outcome {
    let request = RejectRequest { target: args.target, reason: args.reason };
    let done: Decided = globals.client().post("/v1/reject", &request).await?;
    decided(&done, "rejected", globals)
}
