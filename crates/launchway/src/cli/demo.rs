//! `launchway demo`: a real application from its first commit to production, and what can go wrong.

use std::path::PathBuf;

use super::{Exit, Failure, Globals, Outcome};
use crate::demo::{DemoConfig, demo};

/// Tell the whole story with the example application
///
/// A server of its own, in a folder of its own: seven releases and accidents under constant traffic.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  launchway demo --source examples/teahouse\n  \
                        launchway demo --source examples/teahouse --stay")]
pub struct Args {
    /// The example application
    #[arg(long, value_name = "DIR", default_value = "examples/teahouse")]
    source: PathBuf,
    /// Write what was seen to this file, as JSON
    #[arg(long, value_name = "FILE")]
    summary: Option<PathBuf>,
    /// Leave everything running at the end
    #[arg(long)]
    stay: bool,
}

pub async fn run(args: Args, globals: &Globals) -> Outcome {
    let config = DemoConfig { source: args.source, stay: args.stay };
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

fn write(path: &std::path::Path, text: &str) -> Result<(), Failure> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    Ok(std::fs::write(path, text)?)
}
