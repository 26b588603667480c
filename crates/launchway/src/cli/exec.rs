//! `launchway exec`: a command in the surroundings of a running service.

use domain::slot::{Color, Exit as Ended};
use domain::{EnvironmentName, ServiceName};

use super::logs::color;
use super::{Exit, Globals, Outcome, print, print_json};
use crate::api::wire::{ExecAnswer, ExecRequest};

/// Run a command in the folder and environment of a service
#[derive(clap::Args)]
#[command(after_help = "Examples:
  launchway exec staging backend -- .venv/bin/python manage.py shell -c 'print(1)'
  launchway exec production backend -- sh -c 'env | sort'

It runs as the service's user, without a terminal, and its output is shown when it ends. Ends with the exit \
status of the command.")]
pub struct Args {
    /// Where
    environment: EnvironmentName,
    /// One of ours, with `native.run`
    service: ServiceName,
    /// By default the live one
    #[arg(long, value_parser = color)]
    slot: Option<Color>,
    /// The program and its arguments
    #[arg(last = true, required = true)]
    command: Vec<String>,
}

/// Runs the verb.
pub async fn run(args: Args, globals: &Globals) -> Outcome {
    let request = ExecRequest {
        environment: args.environment,
        service: args.service,
        slot: args.slot,
        command: args.command,
    };
    let answer: ExecAnswer = globals.client().post_patiently("/v1/exec", &request).await?;
    match globals.json {
        true => print_json(&answer)?,
        false => print(&answer.output)?,
    }
    match answer.exit {
        Ended::Code(0) => Ok(Exit::Ok),
        Ended::Code(code) => {
            // The command's own status, whatever that means to it.
            std::process::exit(code)
        }
        other => {
            eprintln!("{other}");
            Ok(Exit::Failed)
        }
    }
}
