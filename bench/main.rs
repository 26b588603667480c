//! `bench edge` and `bench switch`: what `make bench-edge` and `make bench-switch` run. `bench/edge/run` first builds
//! and installs what they need.

use std::process::ExitCode;

use bench::peers::Failed;
use clap::{Parser, Subcommand};
use tokio::signal::unix::{SignalKind, signal};

/// Measures Launchway beside what a user would pick instead.
#[derive(Parser)]
struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// The edge beside nginx, HAProxy and kamal-proxy: what a request costs
    Edge(bench::edge::Args),
    /// Switches under load: what a client loses, beside nginx, HAProxy and kamal-proxy
    Switch(bench::switch::Args),
}

/// One thread starts all servers: they end with it.
#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let what = Args::parse().what;
    let work = async {
        match what {
            What::Edge(args) => bench::edge::run(args).await,
            What::Switch(args) => bench::switch::run(args).await,
        }
    };
    // Dropping the work ends its servers and removes its folder.
    let done = tokio::select! {
        done = work => done,
        () = told_to_end() => Err(Failed("told to end".into())),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failed) => {
            eprintln!("bench: {failed}");
            ExitCode::FAILURE
        }
    }
}

/// SIGTERM or SIGINT.
async fn told_to_end() {
    let (Ok(mut terminate), Ok(mut interrupt)) =
        (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}
