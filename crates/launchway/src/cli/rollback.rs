//! `launchway rollback`: back to the release before.

use std::time::Duration;

use domain::rollout::Rollout;
use domain::{EnvironmentName, RolloutId};
use serde_json::json;

use super::follow::{Followed, Until};
use super::paint::brief;
use super::{Exit, Failure, Globals, Outcome, follow, print, print_json};
use crate::api::wire::{DeployAnswer, RollbackRequest};
use crate::watch::moves;

/// Go back to the release that was live before
#[derive(clap::Args)]
#[command(after_help = "Examples:
  launchway rollback production           returns when the traffic is back, and says after how long
  launchway rollback production --wait    returns when the old slot has finished its requests too

While the old slot is warm only the traffic has to move; `launchway status` shows whether it is. A rollout \
that still bakes is aborted, which goes back as well.")]
pub struct Args {
    /// Where
    environment: EnvironmentName,
    /// Wait until nothing of it is left to do
    #[arg(long)]
    wait: bool,
}

/// Runs the verb.
pub async fn run(args: Args, globals: &Globals) -> Outcome {
    let client = globals.client();
    let environment = args.environment.clone();
    let request = RollbackRequest { environment: args.environment };
    let answer: DeployAnswer = client.post("/v1/rollback", &request).await?;
    let DeployAnswer::RollsOut(id) = answer else {
        let message = format!("going back in {environment}: the server's answer is not understood");
        return Err(Failure::new(Exit::Failed, message, "use the same version as the server"));
    };
    let until = if args.wait { Until::End } else { Until::Back };
    let moved = match follow::rollout(&client, id.as_str(), until).await? {
        Followed::Back(moved) => moved,
        Followed::Approval => return Ok(Exit::WaitingForApproval),
        Followed::Ended(rollout) => match moves(&rollout).into_iter().rfind(|moved| moved.back) {
            Some(moved) => moved,
            None => return not_back(&rollout),
        },
    };
    let live = live_in(&client, &environment, &id).await?;
    let millis = moved.millis;
    let after = brief(Duration::from_millis(millis));
    match globals.json {
        true => print_json(&json!({ "rollout": id, "live": live, "millis": millis }))?,
        false => print(&format!("{live} has the traffic of {environment} again, after {after}\n"))?,
    }
    Ok(Exit::Ok)
}

/// The release that the environment went back to.
async fn live_in(
    client: &crate::client::Client,
    environment: &EnvironmentName,
    id: &RolloutId,
) -> Result<String, Failure> {
    let status: crate::view::Status =
        client.get(&format!("/v1/status?environment={environment}")).await?;
    let slots = status.environments.iter().flat_map(|environment| &environment.slots);
    let live = slots.filter(|slot| slot.live).map(|slot| slot.release.id.to_string()).next();
    Ok(live.unwrap_or_else(|| id.to_string()))
}

/// It ended without the traffic having gone back.
fn not_back(rollout: &Rollout) -> Outcome {
    let (exit, said) = follow::ending(rollout);
    eprintln!("{said}");
    if let Some(evidence) = &rollout.evidence {
        follow::show_evidence(evidence);
    }
    Ok(exit)
}
