//! `launchway edge`: carries the traffic. The server starts it; it goes on without the server.

use std::net::SocketAddr;
use std::path::PathBuf;

use ::edge::EdgeConfig;
use engine::Unprivileged;

use super::{Exit, Outcome, server};

/// Carry the traffic of an app, by the table that its server gives. The server starts it by itself.
#[derive(clap::Args)]
pub struct Args {
    /// The address that carries traffic
    #[arg(long)]
    listen: SocketAddr,
    /// Where its table and its control socket lie
    #[arg(long, value_name = "DIR")]
    folder: PathBuf,
}

/// Runs it until SIGTERM. Blocks.
pub fn run(args: Args) -> Outcome {
    server::log();
    let user = Unprivileged::detect()?;
    let run_as = user.map(|user| (user.uid, user.gid));
    ::edge::main(EdgeConfig {
        listen: args.listen,
        state: args.folder,
        run_as,
        ..EdgeConfig::default()
    })?;
    Ok(Exit::Ok)
}
