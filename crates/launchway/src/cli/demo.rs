//! `launchway demo`: a real application from its first commit to production, and what can go wrong.

use std::path::PathBuf;

use domain::config::EngineKind;

use super::{Exit, Failure, Globals, Outcome};
use crate::demo::{DemoConfig, demo};

/// Tell the whole story with the example application
///
/// A server of its own, in a folder of its own: seven releases and accidents under constant traffic.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  launchway demo --source examples/teahouse\n  \
                        launchway demo --source examples/teahouse --stay\n  \
                        launchway demo --engine docker")]
pub struct Args {
    /// The example application
    #[arg(long, value_name = "DIR", default_value = "examples/teahouse")]
    source: PathBuf,
    /// What its environments run on: `process`, or `docker` for containers
    #[arg(long, value_name = "ENGINE", default_value = "process", value_parser = engine)]
    engine: EngineKind,
    /// Write what was seen to this file, as JSON
    #[arg(long, value_name = "FILE")]
    summary: Option<PathBuf>,
    /// Leave everything running at the end
    #[arg(long)]
    stay: bool,
}

pub async fn run(args: Args, globals: &Globals) -> Outcome {
    let config = DemoConfig { source: args.source, engine: args.engine, stay: args.stay };
    let told = demo(&config).await?;
    let text = serde_json::to_string_pretty(&told)? + "\n";
    if let Some(path) = &args.summary {
        write(path, &text)?;
    }
    if globals.json {
        super::print(&text)?;
    }
    crate::demo::say_summary(&told);
    Ok(if told.ok { Exit::Ok } else { Exit::Failed })
}

/// `process` or `docker`.
pub fn engine(text: &str) -> Result<EngineKind, String> {
    match text {
        "process" => Ok(EngineKind::Process),
        "docker" => Ok(EngineKind::Docker),
        _ => Err("write `process` or `docker`".into()),
    }
}

fn write(path: &std::path::Path, text: &str) -> Result<(), Failure> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    Ok(std::fs::write(path, text)?)
}
