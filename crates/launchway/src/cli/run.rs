//! `launchway run`: a commit through the build pipeline, with a server or without one.

use std::net::SocketAddr;
use std::sync::Arc;

use control::server::Server;
use domain::app::Event;
use domain::pipeline::{Run, RunEvent};
use domain::{EnvironmentName, RunId};

use super::{Exit, Failure, Globals, Outcome, follow, print, print_json, server};
use crate::api::wire::{Decided, RunAnswer, RunRequest, Target};
use crate::client::Client;
use crate::watch;

/// Build a commit: analyze, test, images, integrate, scan
#[derive(clap::Args)]
#[command(after_help = "Examples:
  launchway run                        build the newest commit
  launchway run feature/cups           build the head of a branch
  launchway run v1.2 --deploy staging  and bring it to staging when it is green
  launchway run --json                 print the run as JSON at its end

Steps whose inputs have not changed are reused; `launchway history run-N --why STEP` says what differed. \
Works without a server too. Ctrl-C aborts the run. \
Ends with 0 when it is green, 1 when it is red, 2 when the configuration has mistakes.")]
pub struct Args {
    /// A commit, branch or tag
    #[arg(default_value = "HEAD")]
    revision: String,
    /// Deploy there when it is green
    #[arg(long, value_name = "ENVIRONMENT")]
    deploy: Option<EnvironmentName>,
}

/// Runs the verb.
pub async fn run(args: Args, globals: &Globals) -> Outcome {
    let client = globals.client();
    let run = match client.answers().await {
        true => ask(&client, args).await?,
        false => alone(args, globals).await?,
    };
    let (exit, said) = follow::verdict(&run);
    match globals.json {
        true => print_json(&run)?,
        false if exit == Exit::Ok => print(&format!("{said}\n"))?,
        false => eprintln!("{said}"),
    }
    Ok(exit)
}

async fn ask(client: &Client, args: Args) -> Result<Run, Failure> {
    let request = RunRequest { revision: args.revision, deploy_to: args.deploy };
    let RunAnswer { run } = client.post("/v1/runs", &request).await?;
    eprintln!("{run} began");
    tokio::select! {
        ended = follow::run(client, &run) => ended,
        _ = tokio::signal::ctrl_c() => {
            eprintln!("aborting {run}");
            let _: Decided = client.post("/v1/abort", &Target { target: run.to_string() }).await?;
            follow::run(client, &run).await
        }
    }
}

async fn alone(args: Args, globals: &Globals) -> Result<Run, Failure> {
    if let Some(environment) = args.deploy {
        return Err(Failure::new(
            Exit::Usage,
            format!("deploying to {environment}: no server answers, and only a server deploys"),
            "start one with `launchway server`, or build without --deploy",
        ));
    }
    // The address that a server has or will have does not matter to a build.
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let opened = Server::open(server::config(globals, any)?).await?;
    let pipeline = opened.world.pipeline.clone();
    let commit = pipeline.resolve(&args.revision).await;
    let commit = commit.map_err(|error| {
        Failure::new(
            Exit::Usage,
            error.to_string(),
            "name a commit, branch or tag of this repository",
        )
    })?;
    let by = crate::api::identity(nix::unistd::getuid().as_raw());
    let by = by.map_err(|error| Failure::new(Exit::Failed, error, "give this user a name"))?;
    let (said, hears) = tokio::sync::oneshot::channel();
    let aborter = by.clone();
    let app = opened.run_once(commit, by, move |handle, run| {
        let (to, mut updates) = tokio::sync::mpsc::channel(256);
        tokio::spawn(watch::run(handle.clone(), pipeline, run.clone(), to));
        let abort = handle.clone();
        let aborted = run.clone();
        tokio::spawn(async move {
            if tokio::signal::ctrl_c().await.is_ok() {
                eprintln!("aborting {aborted}");
                let event = RunEvent::Aborted { by: aborter };
                // A run that has just ended needs no aborting.
                let _ended = abort.offer(Event::Run { run: aborted, event }).await;
            }
        });
        let shown = tokio::spawn(async move {
            while let Some(update) = updates.recv().await {
                follow::show(update);
            }
        });
        // The run's end is waited for by the caller.
        let _unheard = said.send((run, shown));
    });
    let app = app.await?;
    let (run, shown) = hears.await?;
    shown.await?;
    ended(&app, &run)
}

fn ended(app: &Arc<domain::app::App>, run: &RunId) -> Result<Run, Failure> {
    app.runs.get(run).cloned().ok_or_else(|| {
        Failure::new(Exit::Failed, format!("{run} is not known any more"), "run it again")
    })
}
