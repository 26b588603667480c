//! The command line: what all verbs share. A verb is one file with `Args` and `run`, and one line in each
//! of the two lists here.

mod check;
mod exit;
mod init;
mod project;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

pub use exit::{Exit, Failure, Misread, Outcome};

macro_rules! verbs {
    ($($module:ident => $verb:ident,)*) => {
        #[derive(Subcommand)]
        enum Verb {
            $($verb($module::Args),)*
        }

        impl Verb {
            async fn run(self, globals: &Globals) -> Outcome {
                match self {
                    $(Self::$verb(args) => $module::run(args, globals).await,)*
                }
            }
        }
    };
}

verbs! {
    init => Init,
    check => Check,
}

/// Carries a web application from a commit to a healthy production.
#[derive(Parser)]
#[command(
    name = "launchway",
    version,
    arg_required_else_help = true,
    after_help = "Exit codes: 0 ok, 1 failed, 2 usage or configuration, 3 a gate refused, 4 rolled back, \
                  5 waiting for approval, 6 timed out, 130 interrupted."
)]
struct Cli {
    #[command(flatten)]
    globals: Globals,
    #[command(subcommand)]
    verb: Verb,
}

/// Flags that every verb has.
#[derive(Debug, clap::Args)]
pub struct Globals {
    /// Print JSON on standard output
    #[arg(long, global = true)]
    pub json: bool,
    /// The project's folder
    #[arg(
        short = 'C',
        long,
        global = true,
        value_name = "DIR",
        default_value = ".",
        hide_default_value = true
    )]
    pub directory: PathBuf,
    /// Where Launchway keeps its state, by default `.launchway` in the project's folder
    #[arg(long, global = true, value_name = "DIR", env = "LAUNCHWAY_STATE", hide_env = true)]
    pub state: Option<PathBuf>,
}

/// Reads the command line and runs the verb.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return ended(Err(error.into())),
    };
    ended(runtime.block_on(cli.verb.run(&cli.globals)))
}

fn ended(outcome: Outcome) -> ExitCode {
    match outcome {
        Ok(exit) => exit.into(),
        Err(failure) => {
            failure.report();
            failure.exit().into()
        }
    }
}

/// Writes data to standard output. A reader that went away early (`| head`) is no failure.
pub fn print(text: &str) -> Result<(), Failure> {
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

/// Writes a value as JSON to standard output.
pub fn print_json(value: &impl serde::Serialize) -> Result<(), Failure> {
    print(&(serde_json::to_string_pretty(value)? + "\n"))
}
