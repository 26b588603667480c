//! `launchway edge` itself: carries the traffic. The server starts it; it goes on without the server.

use std::net::SocketAddr;
use std::path::PathBuf;

use ::edge::{EdgeConfig, Ended, Limits};
use engine::Unprivileged;
use ipnet::IpNet;

use crate::cli::{Exit, Outcome, server};

/// How an edge is started.
#[derive(clap::Args)]
#[group(id = "carry")]
pub struct Args {
    /// The address that carries traffic
    #[arg(long)]
    listen: SocketAddr,
    /// Where its table and its control socket lie
    #[arg(long, value_name = "DIR")]
    folder: PathBuf,
    /// The address that carries TLS; without one there is none
    #[arg(long, value_name = "ADDRESS")]
    https: Option<SocketAddr>,
    /// A proxy in front of it, whose word about the client is believed; may be repeated
    #[arg(long = "trusted-proxy", value_name = "CIDR")]
    trusted_proxies: Vec<IpNet>,
    /// Write one line of JSON on standard output for each request; started by the server, it lands in
    /// supervised/edge/log in the server's state folder
    #[arg(long)]
    access_log: bool,
    /// Take over from the edge that runs in the folder, without a gap; without one it just starts
    #[arg(long)]
    take_over: bool,
}

/// The exit code of an edge that was asked to stop: its supervisor starts it again, unlike one that was replaced.
const ASKED: i32 = 128 + 15;

/// Runs it until SIGTERM. Blocks.
pub fn run(args: Args) -> Outcome {
    server::log();
    let user = Unprivileged::detect()?;
    let run_as = user.map(|user| (user.uid, user.gid));
    let config = EdgeConfig {
        listen: args.listen,
        state: args.folder,
        run_as,
        https: args.https,
        trusted_proxies: args.trusted_proxies,
        access_log: args.access_log,
        take_over: args.take_over,
        workers: None,
    };
    match ::edge::run(&config, Limits::default())? {
        Ended::Replaced => Ok(Exit::Ok),
        Ended::Asked => std::process::exit(ASKED),
    }
}
