//! `launchway edge`: the process that carries the traffic, and the verbs about it, one file each.

mod pause;
mod resume;
pub mod run;
mod status;

use ::edge::ClientError;

use super::{Exit, Failure, Globals, Outcome};

/// Carry the traffic of an app, by the table that its server gives. The server starts it by itself.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  launchway edge status
  launchway edge pause production --for 10s

The server starts an edge by itself, with the options above, and it goes on without the server.
What it says, and its access log, stand in supervised/edge/log in Launchway's state folder.")]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct Args {
    #[command(subcommand)]
    verb: Option<Verb>,
    /// How an edge is started. It makes its own threads, and no others may be there when it changes its
    /// user: `cli::main` runs it before there is any runtime.
    #[command(flatten)]
    pub carry: Option<run::Args>,
}

/// What there is to do with an edge that runs.
#[derive(clap::Subcommand)]
enum Verb {
    Status(status::Args),
    Pause(pause::Args),
    Resume(resume::Args),
}

/// Runs a verb about the edge.
pub async fn run(args: Args, globals: &Globals) -> Outcome {
    match args.verb {
        Some(Verb::Status(args)) => status::run(args, globals).await,
        Some(Verb::Pause(args)) => pause::run(args, globals).await,
        Some(Verb::Resume(args)) => resume::run(args, globals).await,
        None => {
            let message = "`launchway edge` was told neither to start nor what to do";
            Err(Failure::new(Exit::Usage, message, "`launchway edge --help` says what it can"))
        }
    }
}

/// The edge did not do what it was asked. `help` is for one that answers.
fn failed(doing: &str, error: &ClientError, help: &str) -> Failure {
    let help = match error {
        ClientError::Unreachable { .. } => {
            "`launchway server` starts the edge, and --state says where; `launchway doctor` says what is in its way"
        }
        _ => help,
    };
    let exit = match error {
        ClientError::Unknown(_) => Exit::Usage,
        _ => Exit::Failed,
    };
    Failure::new(exit, format!("{doing}: {error}"), help)
}
