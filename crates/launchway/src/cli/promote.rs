//! `launchway promote`: what is live in one environment on to the next.

use domain::EnvironmentName;

use super::deploy::{Patience, follow_answer};
use super::{Globals, Outcome};
use crate::api::wire::PromoteRequest;

/// Bring what is live in one environment to the next, unchanged
#[derive(clap::Args)]
#[command(after_help = "Examples:
  launchway promote staging                    to the environment that comes after staging
  launchway promote r12 --to production        a release by its number

Nothing is built again: what was tested is what is deployed. Ends like `launchway deploy`.")]
pub struct Args {
    /// An environment or a release (r12)
    from: String,
    /// The environment, if more than one comes after it
    #[arg(long, value_name = "ENVIRONMENT")]
    to: Option<EnvironmentName>,
    #[command(flatten)]
    patience: Patience,
}

/// Runs the verb.
pub async fn run(args: Args, globals: &Globals) -> Outcome {
    let client = globals.client();
    let request = PromoteRequest { from: args.from, to: args.to };
    let answer = client.post("/v1/promote", &request).await?;
    follow_answer(&client, answer, args.patience, globals).await
}
