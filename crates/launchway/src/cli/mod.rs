//! The command line: what all verbs share. A verb is one file with `Args` and `run`, and one line in each
//! of the two lists here.

mod abort;
mod approve;
mod check;
mod demo;
mod deploy;
mod doctor;
mod down;
mod edge;
mod exec;
mod exit;
mod follow;
mod here;
mod history;
mod images;
mod init;
mod logs;
mod offline;
mod paint;
mod project;
mod promote;
mod reject;
mod rollback;
mod run;
mod server;
mod status;
mod told;
mod up;

use std::io::{ErrorKind, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::builder::{PathBufValueParser, TypedValueParser};
use clap::{Parser, Subcommand};

use crate::client::Client;

pub use exit::{Exit, Failure, Misread, Outcome};

macro_rules! verbs {
    ($($module:ident => $verb:ident,)*) => {
        #[derive(Subcommand)]
        enum Verb {
            $($verb($module::Args),)*
            /// Look at and steer the edge, which carries the traffic
            Edge(edge::Args),
        }

        impl Verb {
            async fn run(self, globals: &Globals) -> Outcome {
                match self {
                    $(Self::$verb(args) => $module::run(args, globals).await,)*
                    Self::Edge(args) => edge::run(args, globals).await,
                }
            }
        }
    };
}

verbs! {
    init => Init,
    check => Check,
    up => Up,
    server => Server,
    run => Run,
    deploy => Deploy,
    promote => Promote,
    approve => Approve,
    reject => Reject,
    abort => Abort,
    rollback => Rollback,
    status => Status,
    logs => Logs,
    exec => Exec,
    history => History,
    doctor => Doctor,
    demo => Demo,
    down => Down,
}

/// Carries a web application from a commit to a healthy production.
#[derive(Parser)]
#[command(
    name = "launchway",
    version,
    arg_required_else_help = true,
    after_help = "Exit codes: 0 ok, 1 failed, 2 usage or configuration, 3 a gate refused, 4 rolled back, \
                  5 waiting for approval, 6 timed out, 130 interrupted, 143 terminated."
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
        hide_default_value = true,
        value_parser = PathBufValueParser::new().try_map(folder)
    )]
    pub directory: PathBuf,
    /// Where Launchway keeps its state, by default `.launchway` in the project's folder
    #[arg(long, global = true, value_name = "DIR", env = "LAUNCHWAY_STATE", hide_env = true)]
    pub state: Option<PathBuf>,
}

fn folder(path: PathBuf) -> Result<PathBuf, String> {
    match std::fs::metadata(&path) {
        Ok(found) if found.is_dir() => Ok(path),
        Ok(_) => Err("it is not a folder".into()),
        Err(error) if error.kind() == ErrorKind::NotFound => Err("there is no such folder".into()),
        Err(error) => Err(error.to_string()),
    }
}

impl Globals {
    /// Where the state of the project is kept.
    pub fn state(&self) -> PathBuf {
        self.state.clone().unwrap_or_else(|| self.directory.join(".launchway"))
    }

    /// The server of the project.
    pub fn client(&self) -> Client {
        Client::of(&self.state())
    }
}

/// Threads of a server: it waits more than it works.
const THREADS: usize = 2;

/// Reads the command line and runs the verb.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    // The edge makes its own threads, and no others may be there when it changes its user.
    if let Verb::Edge(edge::Args { carry: Some(args), .. }) = cli.verb {
        return ended(edge::run::run(args));
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(THREADS)
        .max_blocking_threads(64)
        .thread_keep_alive(std::time::Duration::from_secs(2))
        .enable_all()
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => return ended(Err(error.into())),
    };
    let outcome = runtime.block_on(cli.verb.run(&cli.globals));
    // Whatever still reads or waits in the background does not hold the end back.
    runtime.shutdown_background();
    ended(outcome)
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

/// Says what was decided.
fn decided(done: &crate::api::wire::Decided, verb: &str, globals: &Globals) -> Outcome {
    match globals.json {
        true => print_json(done)?,
        false => print(&format!("{} {verb}: {}\n", done.id, done.said))?,
    }
    Ok(Exit::Ok)
}
