//! `launchway deploy`: a commit or a release into an environment, built first if it has to be.

use std::time::Duration;

use domain::rollout::{End, Phase, Rollout};
use domain::units::Span;
use domain::{EnvironmentName, ReleaseId, RolloutId};

use super::follow::{Followed, Until};
use super::{Exit, Failure, Globals, Outcome, follow, print, print_json, told};
use crate::api::wire::{DeployAnswer, DeployRequest};
use crate::client::Client;

/// Bring a commit or a release live in an environment
#[derive(clap::Args)]
#[command(after_help = "Examples:
  launchway deploy development              the newest commit, built if it was not yet
  launchway deploy staging r12              a release that was built before
  launchway deploy staging --no-wait        only ask for it; `launchway status` shows how far it is
  launchway deploy staging --timeout 10m    follow it for ten minutes at the most

Ends with 0 when it is live, 1 when it failed, 3 when a gate refused it, 4 when it was rolled back, 5 when \
it waits for approval, 6 when the time is over. Ctrl-C stops the watching, not the deployment. If the server goes \
away meanwhile, it is waited for, for a minute.")]
pub struct Args {
    /// Where
    environment: EnvironmentName,
    /// A release (r12), commit, branch or tag
    #[arg(default_value = "HEAD")]
    what: String,
    #[command(flatten)]
    patience: Patience,
}

/// How long a verb follows what it began.
#[derive(clap::Args)]
pub struct Patience {
    /// Follow it until it is over (the default)
    #[arg(long, overrides_with = "no_wait")]
    wait: bool,
    /// Only ask for it
    #[arg(long)]
    no_wait: bool,
    /// Follow it no longer than this
    #[arg(long, value_name = "TIME", default_value = "30m")]
    timeout: Span,
}

/// Runs the verb.
pub async fn run(args: Args, globals: &Globals) -> Outcome {
    let client = globals.client();
    let Patience { no_wait, timeout, .. } = args.patience;
    let work = bring(&client, args.environment, args.what, no_wait, globals);
    within(timeout.0, work).await
}

/// Follows an answer to a wish to deploy, as long as its flags say.
pub async fn follow_answer(
    client: &Client,
    answer: DeployAnswer,
    patience: Patience,
    globals: &Globals,
) -> Outcome {
    match answer {
        DeployAnswer::RollsOut(id) if patience.no_wait => announce(&id, globals),
        DeployAnswer::RollsOut(id) => {
            within(patience.timeout.0, to_the_end(client, &id, globals)).await
        }
        DeployAnswer::Live { release, next } => live(&release, next, globals),
        DeployAnswer::Builds(run) => {
            let run = follow::run(client, &run).await?;
            Ok(follow::verdict(&run).0)
        }
    }
}

async fn within(limit: Duration, work: impl Future<Output = Outcome>) -> Outcome {
    tokio::select! {
        outcome = work => outcome,
        () = tokio::time::sleep(limit) => Err(Failure::new(
            Exit::TimedOut,
            format!("it was not over after {}", Span(limit)),
            "it goes on; `launchway status` shows how far it is, `launchway abort` stops it",
        )),
        exit = told::to_end() => {
            eprintln!("it goes on; `launchway status` shows how far it is, `launchway abort` stops it");
            Ok(exit)
        }
    }
}

async fn bring(
    client: &Client,
    environment: EnvironmentName,
    what: String,
    no_wait: bool,
    globals: &Globals,
) -> Outcome {
    let mut request = DeployRequest { environment, what, built_by: None };
    let mut built = false;
    loop {
        match client.post("/v1/deploy", &request).await? {
            DeployAnswer::Builds(run) if no_wait => {
                let said =
                    format!("{run} builds it and goes on to {} by itself", request.environment);
                return announced(&serde_json::json!({ "run": run }), &said, globals);
            }
            DeployAnswer::Builds(_) if built => {
                let message = format!("{} was built, and there is no release of it", request.what);
                return Err(Failure::new(Exit::Failed, message, "see `launchway history`"));
            }
            DeployAnswer::Builds(run) => {
                eprintln!("{run} builds it first");
                let run = follow::run(client, &run).await?;
                let (exit, said) = follow::verdict(&run);
                eprintln!("{said}");
                if exit != Exit::Ok {
                    return Ok(exit);
                }
                // The branch may move on meanwhile: what was built is deployed.
                request.what = run.commit.to_string();
                request.built_by = Some(run.id);
                built = true;
            }
            DeployAnswer::Live { release, next } => return live(&release, next, globals),
            DeployAnswer::RollsOut(id) if no_wait => return announce(&id, globals),
            DeployAnswer::RollsOut(id) => return to_the_end(client, &id, globals).await,
        }
    }
}

/// Follows a rollout until it is over or waits for somebody.
pub async fn to_the_end(client: &Client, id: &RolloutId, globals: &Globals) -> Outcome {
    let rollout = match follow::rollout(client, id.as_str(), Until::End).await? {
        Followed::Ended(rollout) => *rollout,
        Followed::Back(_) | Followed::Approval => {
            let rollout: Rollout = client.get(&format!("/v1/rollouts/{id}")).await?;
            let from = rollout.gates.approval.as_ref().map(|gate| gate.from.join(" or "));
            eprintln!("{id} waits for the approval of {}", from.unwrap_or_default());
            eprintln!("  {}", crate::view::approval_command(&rollout));
            if globals.json {
                print_json(&rollout)?;
            }
            return Ok(Exit::WaitingForApproval);
        }
    };
    if let Some(by) = same_again(client, &rollout).await? {
        return Box::pin(to_the_end(client, &by, globals)).await;
    }
    let (exit, said) = follow::ending(&rollout);
    match globals.json {
        true => print_json(&rollout)?,
        false if exit == Exit::Ok => print(&format!("{said}\n"))?,
        false => eprintln!("{said}"),
    }
    if let Some(evidence) = &rollout.evidence {
        follow::show_evidence(evidence);
        if let Some(slot) = rollout.candidate.filter(|_| !evidence.logs.is_empty()) {
            eprintln!("\n`launchway logs {} --slot {slot}` shows all of it", rollout.environment);
        }
    }
    Ok(exit)
}

/// The rollout of the same release that made this one superfluous.
async fn same_again(client: &Client, rollout: &Rollout) -> Result<Option<RolloutId>, Failure> {
    let Phase::Ended { end: End::Superseded { by } } = &rollout.phase else { return Ok(None) };
    let newer: Rollout = client.get(&format!("/v1/rollouts/{by}")).await?;
    Ok((newer.release == rollout.release).then_some(newer.id))
}

fn announce(id: &RolloutId, globals: &Globals) -> Outcome {
    let said = format!("{id} is on its way; `launchway status` shows how far it is");
    announced(&serde_json::json!({ "rollout": id }), &said, globals)
}

fn live(release: &ReleaseId, next: Option<String>, globals: &Globals) -> Outcome {
    let value = serde_json::json!({ "live": release, "next": next });
    let next = next.map_or(String::new(), |next| format!("; {next}"));
    announced(&value, &format!("{release} is live there already{next}"), globals)
}

fn announced(value: &serde_json::Value, said: &str, globals: &Globals) -> Outcome {
    match globals.json {
        true => print_json(value)?,
        false => print(&format!("{said}\n"))?,
    }
    Ok(Exit::Ok)
}
