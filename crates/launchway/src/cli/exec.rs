//! `launchway exec`: a command in the surroundings of a running service.

use std::fs::File;
use std::io::IsTerminal;
use std::os::fd::AsFd;

use domain::slot::{Color, Exit as Ended};
use domain::{EnvironmentName, ServiceName};
use engine::Input;

use super::logs::color;
use super::{Exit, Globals, Outcome, print, print_json};
use crate::api::wire::{ExecAnswer, ExecRequest};

/// Run a command in the folder and environment of a service
#[derive(clap::Args)]
#[command(after_help = "Examples:
  launchway exec staging backend -- .venv/bin/python manage.py shell -c 'print(1)'
  launchway exec production backend -- sh -c 'env | sort'
  launchway exec staging backend -- sh -c 'psql \"$DATABASE_URL\"' < seed.sql

It runs as the service's user, without a terminal, and its output is shown when it ends. It reads what is piped or \
redirected to launchway; from a terminal it reads nothing. Ends with the exit status of the command.")]
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

/// What somebody types could not be told from what they type for the shell afterwards, as output comes at the end only.
fn input() -> std::io::Result<Input> {
    let stdin = std::io::stdin();
    if stdin.is_terminal() {
        return Ok(Box::new(tokio::io::empty()));
    }
    let own = File::from(stdin.as_fd().try_clone_to_owned()?);
    Ok(Box::new(tokio::fs::File::from_std(own)))
}

/// Runs the verb.
pub async fn run(args: Args, globals: &Globals) -> Outcome {
    let request = ExecRequest {
        environment: args.environment,
        service: args.service,
        slot: args.slot,
        command: args.command,
    };
    let answer: ExecAnswer = globals.client().post_reading("/v1/exec", &request, input()?).await?;
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
