//! `launchway down`: stops an environment, what `launchway up` runs, or everything.

use std::net::SocketAddr;

use control::server::Server;
use control::up::take_down;
use domain::EnvironmentName;
use engine::docker::project::ProjectEngine;
use tokio_util::sync::CancellationToken;

use super::project::{LAUNCHWAY, compose};
use super::{Exit, Failure, Globals, Outcome, images, server, up};
use crate::api;
use crate::api::wire::{DownRequest, DownUpdate};

/// Stop an environment, what `launchway up` runs, or everything with the server last
#[derive(clap::Args)]
#[command(after_help = "Examples:
  launchway down staging               stop it; its data stays for the next deployment
  launchway down staging --with-data   and delete its data
  launchway down --up                  take away what `launchway up` runs here, and nothing else
  launchway down --up -v               and its volumes
  launchway down                       all of it, then every environment, the edge and the server

What is under way in an environment is aborted first. Works without a server too. -v never touches
the data of environments; --with-data means them as well. Both remove the volumes without a name,
too. Images that were built stay, as with `docker compose down`: both say how to remove them.")]
pub struct Args {
    /// By default all of them
    environment: Option<EnvironmentName>,
    /// Only what `launchway up` runs from this folder
    #[arg(long, conflicts_with = "environment")]
    up: bool,
    /// Delete the volumes of what `launchway up` runs
    #[arg(short, long, conflicts_with = "environment")]
    volumes: bool,
    /// Delete the data of everything that is taken down
    #[arg(long)]
    with_data: bool,
}

/// Runs the verb.
pub async fn run(args: Args, globals: &Globals) -> Outcome {
    let deletes = args.environment.is_none() && (args.volumes || args.with_data);
    let exit = take_down_what_is_asked(args, globals).await?;
    if deletes && exit == Exit::Ok {
        for stay in images::built(globals).await {
            eprintln!("what stays: {}", stay.said());
        }
    }
    Ok(exit)
}

async fn take_down_what_is_asked(args: Args, globals: &Globals) -> Outcome {
    if args.environment.is_none() {
        let had = compose_project(&args, globals).await?;
        let server =
            globals.client().answers().await || globals.state().join("events.db").is_file();
        let launchway = globals.directory.join(LAUNCHWAY).is_file();
        let project = launchway || compose(&globals.directory).is_ok();
        // With neither a server nor a project, this is the wrong folder.
        if args.up || (!server && (had || project)) {
            let elsewhere = match launchway && !args.up {
                true => "; a server with another state folder is named with --state",
                false => "",
            };
            if !had {
                eprintln!("nothing runs from this folder{elsewhere}");
            }
            return Ok(Exit::Ok);
        }
    }
    environments(args, globals).await
}

/// Takes away what `launchway up` runs from this folder; whether there was anything.
async fn compose_project(args: &Args, globals: &Globals) -> Result<bool, Failure> {
    let engine = ProjectEngine::new();
    if !images::may_be() && !args.up {
        return Ok(false);
    }
    let volumes = args.volumes || args.with_data;
    let taken = take_down(&engine, &globals.directory, volumes, &up::takes_down()).await;
    match taken {
        Ok(taken) => Ok(!taken.nothing()),
        Err(error) if args.up => Err(up::failed(error)),
        Err(error) => {
            eprintln!("warning: what `launchway up` may run from here stays as it is: {error}");
            Ok(false)
        }
    }
}

async fn environments(args: Args, globals: &Globals) -> Outcome {
    let client = globals.client();
    if !client.answers().await && globals.state().join("events.db").is_file() {
        return alone(args, globals).await;
    }
    let request = DownRequest { environment: args.environment, with_data: args.with_data };
    let mut feed = client.post_and_follow("/v1/down", &request).await?;
    while let Some(update) = feed.next().await? {
        if let Some(exit) = show(update) {
            return Ok(exit);
        }
    }
    Err(Failure::new(
        Exit::Failed,
        "the server went away before everything was down",
        "run it again: it goes on from there",
    ))
}

/// A server for as long as it takes.
async fn alone(args: Args, globals: &Globals) -> Outcome {
    if let Some(environment) = args.environment {
        return Err(Failure::new(
            Exit::Failed,
            format!("taking {environment} down: no server answers"),
            "start one with `launchway server`; `launchway down` without a name works without one",
        ));
    }
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let opened = Server::open(server::config(globals, any)?).await?;
    let (handle, engine, world) = (opened.handle.clone(), opened.engine(), opened.world.clone());
    let stop = CancellationToken::new();
    let running = tokio::spawn(opened.take_down(stop.clone()));
    let by = api::identity(nix::unistd::getuid().as_raw());
    let by = by.map_err(|error| Failure::new(Exit::Failed, error, "give this user a name"))?;
    let (to, mut updates) = tokio::sync::mpsc::channel(64);
    let shown = tokio::spawn(async move {
        while let Some(update) = updates.recv().await {
            show(update);
        }
    });
    let done = {
        let pipeline = &world.pipeline;
        api::take_everything_down(&handle, &engine, pipeline, by, args.with_data, &to).await
    };
    drop(to);
    stop.cancel();
    running.await??;
    shown.await?;
    done.map_err(|why| Failure::new(Exit::Failed, why, "run it again: it goes on from there"))?;
    Ok(Exit::Ok)
}

fn show(update: DownUpdate) -> Option<Exit> {
    match update {
        DownUpdate::Progress(text) => eprintln!("{text}"),
        DownUpdate::Done => return Some(Exit::Ok),
        DownUpdate::Failed(why) => {
            eprintln!("error: {why}");
            return Some(Exit::Failed);
        }
    }
    None
}
