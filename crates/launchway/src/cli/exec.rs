//! `launchway exec`: a command in the surroundings of a running service.

use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;

use domain::slot::{Color, Exit as Ended};
use domain::{EnvironmentName, ServiceName};
use engine::Input;

use super::logs::color;
use super::{Exit, Failure, Globals, Outcome, print_json};
use crate::api::wire::{ExecEvent, ExecRequest};
use crate::client::CallError;

/// Run a command in the folder and environment of a service
#[derive(clap::Args)]
#[command(after_help = "Examples:
  launchway exec staging backend -- .venv/bin/python manage.py shell -c 'print(1)'
  launchway exec production backend -- sh -c 'env | sort'
  launchway exec staging backend -- sh -c 'psql \"$DATABASE_URL\"' < seed.sql
  launchway exec production backend -- sh -c 'pg_dump \"$DATABASE_URL\"' > shop.sql

It runs as the service's user, without a terminal, for an hour at most. It reads what is piped or redirected to \
launchway; from a terminal it reads nothing. Its output is shown as it comes, unchanged; with --json at the end, as text. \
Ends with the exit status of the command, after a signal with 128 and its number.")]
pub struct Args {
    /// Where
    environment: EnvironmentName,
    /// One that is built here
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
    let mut feed = globals.client().post_reading("/v1/exec", &request, input()?).await?;
    let mut collected = globals.json.then(Vec::new);
    let ended = loop {
        let (kind, piece) = match feed.next().await? {
            Some(ExecEvent::Output(piece)) => (Kind::Output, piece.0),
            Some(ExecEvent::Errors(piece)) => (Kind::Errors, piece.0),
            Some(ExecEvent::Runs) => continue,
            Some(ExecEvent::Ended(exit)) => break exit,
            Some(ExecEvent::Failed { status, complaint }) => {
                return Err(CallError::refused(status, complaint).into());
            }
            None => return Err(unknown_end()),
        };
        match &mut collected {
            Some(all) => all.extend_from_slice(&piece),
            None => match show(kind, &piece) {
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                    return Ok(Exit::Unheard);
                }
                shown => shown?,
            },
        }
    };
    if let Some(all) = collected {
        let output = String::from_utf8_lossy(&all);
        print_json(&serde_json::json!({ "exit": ended, "output": output }))?;
    }
    match ended {
        Ended::Code(0) => Ok(Exit::Ok),
        // The command's own status, whatever that means to it.
        Ended::Code(code) => std::process::exit(code),
        Ended::Signal(signal) => {
            eprintln!("{ended}");
            std::process::exit(128 + signal)
        }
        other => {
            eprintln!("{other}");
            Ok(Exit::Failed)
        }
    }
}

enum Kind {
    Output,
    Errors,
}

/// What somebody types at a terminal is for their shell, not for a command without one.
fn input() -> io::Result<Input> {
    let stdin = io::stdin();
    if stdin.is_terminal() {
        return Ok(Box::new(tokio::io::empty()));
    }
    let own = File::from(stdin.as_fd().try_clone_to_owned()?);
    Ok(Box::new(tokio::fs::File::from_std(own)))
}

/// At once, and byte for byte.
fn show(kind: Kind, piece: &[u8]) -> io::Result<()> {
    match kind {
        Kind::Output => {
            let mut stdout = io::stdout().lock();
            stdout.write_all(piece)?;
            stdout.flush()
        }
        Kind::Errors => io::stderr().write_all(piece),
    }
}

fn unknown_end() -> Failure {
    Failure::new(
        Exit::Failed,
        "the server went away; whether the command ended is not known",
        "see whether the server still runs: `launchway status`",
    )
}
