//! `bench edge`: what `make bench-edge` runs. `bench/edge/run` first builds and installs what it needs.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

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
}

/// One thread starts all servers: they end with it.
#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let done = match Args::parse().what {
        What::Edge(args) => bench::edge::run(args).await,
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failed) => {
            eprintln!("bench: {failed}");
            ExitCode::FAILURE
        }
    }
}
