//! `launchway logs`: what services and steps wrote.

use control::up::Standing;
use domain::slot::Color;
use domain::{EnvironmentName, RunId};

use super::{Exit, Failure, Globals, Outcome, here, print, told};
use crate::api::wire::LogLine;
use crate::client::encode;

/// Show what an environment's services, or a step of a run, wrote
#[derive(clap::Args)]
#[command(after_help = "Examples:
  launchway logs production                    every service of the live slot
  launchway logs production backend -f         one service, and go on
  launchway logs staging backend --slot blue   the slot that is not live
  launchway logs run-7 pytest                  a step of a build
  launchway logs -f                            what `launchway up` runs from this folder
  launchway logs web                           one service of that, where no server answers

With --json a line is an object with `source` and `text`.")]
pub struct Args {
    /// An environment or a run (run-7); by default what `launchway up` runs here
    what: Option<String>,
    /// A service, or the step of a run
    name: Option<String>,
    /// By default the live one; where none is, or it has no such service, the one that was started last
    #[arg(long, value_parser = color)]
    slot: Option<Color>,
    /// How many lines back
    #[arg(short = 'n', long, visible_alias = "tail", default_value_t = 100)]
    lines: usize,
    /// Go on as more is written
    #[arg(short, long)]
    follow: bool,
}

/// Runs the verb.
pub async fn run(args: Args, globals: &Globals) -> Outcome {
    if let Some(containers) = of_up(&args, globals).await? {
        return here::logs(&containers, args.lines, args.follow, globals).await;
    }
    let mut feed = globals.client().follow(&path(&args)?).await?;
    let told = told::to_end();
    tokio::pin!(told);
    let mut several = args.name.is_none();
    loop {
        let line = tokio::select! {
            line = feed.next::<LogLine>() => line?,
            exit = &mut told => return Ok(exit),
        };
        let Some(line) = line else { return Ok(Exit::Ok) };
        if globals.json {
            print(&(serde_json::to_string(&line)? + "\n"))?;
            continue;
        }
        // A second replica of the same service needs telling apart too.
        several |= line.source.rsplit_once('.').is_some_and(|(_, index)| index.parse() != Ok(0));
        match several {
            true => print(&format!("{} | {}\n", line.source, line.text))?,
            false => print(&format!("{}\n", line.text))?,
        }
    }
}

/// The containers of `launchway up` that are meant, if any are.
async fn of_up(args: &Args, globals: &Globals) -> Result<Option<Vec<Standing>>, Failure> {
    let Some(service) = &args.what else {
        let all = here::containers(globals).await?;
        return Ok(Some(all).filter(|all| !all.is_empty()));
    };
    if args.name.is_some() || args.slot.is_some() || globals.client().answers().await {
        return Ok(None);
    }
    // Whatever is the matter with Docker, it is a server that is asked for.
    let mut all = here::containers(globals).await.unwrap_or_default();
    all.retain(|container| container.service == *service);
    Ok(Some(all).filter(|all| !all.is_empty()))
}

fn path(args: &Args) -> Result<String, Failure> {
    let Some(what) = &args.what else {
        return Err(Failure::new(
            Exit::Usage,
            "whose logs? `launchway up` runs nothing from this folder",
            "name an environment, or a run like run-7",
        ));
    };
    let mut path = format!("/v1/logs?lines={}&follow={}", args.lines, args.follow);
    let mut add = |key: &str, value: &str| path += &format!("&{key}={}", encode(value));
    if let Ok(run) = what.parse::<RunId>() {
        let Some(step) = &args.name else {
            return Err(Failure::new(
                Exit::Usage,
                format!("which step of {run}?"),
                format!(
                    "`launchway history {run}` shows its steps; then `launchway logs {run} STEP`"
                ),
            ));
        };
        add("run", run.as_str());
        add("step", step);
        return Ok(path);
    }
    let environment: Result<EnvironmentName, _> = what.parse();
    let environment = environment.map_err(|error| {
        Failure::new(Exit::Usage, error.to_string(), "name an environment, or a run like run-7")
    })?;
    add("environment", environment.as_str());
    if let Some(service) = &args.name {
        add("service", service);
    }
    if let Some(slot) = args.slot {
        add("slot", slot.as_str());
    }
    Ok(path)
}

/// `blue` or `green`.
pub fn color(text: &str) -> Result<Color, String> {
    match text {
        "blue" => Ok(Color::Blue),
        "green" => Ok(Color::Green),
        _ => Err("a slot is `blue` or `green`".into()),
    }
}
