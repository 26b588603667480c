//! `launchway doctor`: whether everything that is needed is there, and what to do where it is not.

use super::{Exit, Globals, Outcome};

/// Check this machine, the project and what runs
#[derive(clap::Args)]
pub struct Args {}

/// Runs the verb.
pub async fn run(_args: Args, _globals: &Globals) -> Outcome {
    Ok(Exit::Ok)
}
