//! `launchway server`: the loop and the API of one app.

use std::fs;
use std::io::IsTerminal;
use std::net::SocketAddr;
use std::path::Path;

use control::server::{Https, Server, ServerConfig, stop_edge};
use ipnet::IpNet;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

use super::{Exit, Failure, Globals, Outcome};
use crate::api::{self, Api};

/// Run the server: it builds, deploys and keeps what runs healthy
#[derive(clap::Args)]
#[command(after_help = "Examples:
  launchway server                           traffic at http://<environment>.<app>.localhost:8080
  launchway server --listen 0.0.0.0:80       the same for everybody
  launchway server --listen 0.0.0.0:80 --https 0.0.0.0:443       and with TLS
  LAUNCHWAY_LOG=debug launchway server       with more in its log

Ctrl-C or SIGTERM stops the server only: the edge, the app and its data go on, and the next server takes \
over from there. `launchway down` stops those too.")]
pub struct Args {
    /// Where the edge carries traffic
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8080")]
    listen: SocketAddr,
    /// Where the edge carries TLS; kept for later starts without it, `off` ends that
    #[arg(long, value_name = "ADDRESS", value_parser = https)]
    https: Option<Https>,
    /// A proxy in front of the edge, whose word about the client is believed; may be repeated
    #[arg(long = "trusted-proxy", value_name = "CIDR")]
    trusted_proxies: Vec<IpNet>,
    /// Let the edge write one line of JSON for each request, to supervised/edge/log in the state folder
    #[arg(long)]
    access_log: bool,
}

fn https(text: &str) -> Result<Https, String> {
    if text == "off" {
        return Ok(Https::Off);
    }
    let address = text.parse().map_err(|_| "write an address like `0.0.0.0:443`, or `off`")?;
    Ok(Https::At(address))
}

/// Runs the verb.
pub async fn run(args: Args, globals: &Globals) -> Outcome {
    log();
    let config = ServerConfig {
        https: args.https.unwrap_or_default(),
        trusted_proxies: args.trusted_proxies,
        access_log: args.access_log,
        ..config(globals, args.listen)?
    };
    api::check_length(&config.state)?;
    // From here on no signal is lost, and none ends the server in the middle of something.
    let stop = stop_on_signal()?;
    let state = config.state.clone();
    let server = Server::open(config).await?;
    let listener = api::open(&state)?;
    let (engine, gone) = (server.engine(), CancellationToken::new());
    let api = Api {
        handle: server.handle.clone(),
        world: server.world.clone(),
        engine: engine.clone(),
        meter: Default::default(),
        looks: Default::default(),
        since: control::clock::wall(),
        stop: stop.clone(),
        gone: gone.clone(),
    };
    let (socket, traffic) = (state.join(api::SOCKET), server.world.listen);
    tracing::info!(socket = %socket.display(), %traffic, pid = std::process::id(), "serving");
    let answering = tokio::spawn(api::serve(listener, api));
    let ended = server.run(stop.clone()).await;
    stop.cancel();
    // Answers under way get a moment; a client that does not read does not hold the end back.
    let _late = tokio::time::timeout(std::time::Duration::from_secs(3), answering).await;
    let _gone = fs::remove_file(&socket);
    ended?;
    if gone.is_cancelled() {
        // A server that was just starting may have started the edge after `down` had stopped it.
        stop_edge(&engine).await?;
        tracing::info!("stopped, and everything with it");
        return Ok(Exit::Ok);
    }
    tracing::info!("stopped; whatever was running goes on without the server");
    Ok(Exit::Ok)
}

/// How a server of this project is built; makes the state folder.
pub fn config(globals: &Globals, listen: SocketAddr) -> Result<ServerConfig, Failure> {
    let project = globals.directory.canonicalize().map_err(|error| {
        let message =
            format!("entering the project's folder {}: {error}", globals.directory.display());
        Failure::new(Exit::Usage, message, "name it with -C")
    })?;
    let state = globals.state();
    make_state(&state).map_err(|error| {
        let message = format!("making the state folder {}: {error}", state.display());
        Failure::new(Exit::Usage, message, "choose another one with --state")
    })?;
    let state = state.canonicalize()?;
    Ok(ServerConfig {
        state,
        project,
        program: std::env::current_exe()?,
        listen,
        https: Https::AsBefore,
        trusted_proxies: Vec::new(),
        access_log: false,
    })
}

/// State is no part of the project: git is told not to look.
fn make_state(state: &Path) -> std::io::Result<()> {
    fs::create_dir_all(state)?;
    let ignore = state.join(".gitignore");
    if ignore.exists() { Ok(()) } else { fs::write(ignore, "*\n") }
}

/// Cancelled by the first SIGTERM or SIGINT.
fn stop_on_signal() -> std::io::Result<CancellationToken> {
    let stop = CancellationToken::new();
    let (mut terminate, mut interrupt) =
        (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let stopped = stop.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("stopping");
        stopped.cancel();
    });
    Ok(stop)
}

/// To standard error, as much as `LAUNCHWAY_LOG` says.
pub fn log() {
    let filter =
        EnvFilter::try_from_env("LAUNCHWAY_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let colour = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let subscriber = tracing_subscriber::fmt().compact().with_target(false);
    let subscriber = subscriber.with_env_filter(filter).with_ansi(colour);
    // A second call in the same process changes nothing.
    let _already = subscriber.with_writer(std::io::stderr).try_init();
}
