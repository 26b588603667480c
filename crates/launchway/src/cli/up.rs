//! `launchway up`: runs a Compose project on this machine.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::sync::Arc;

use control::up::{
    Asked, Change, Event, Options, Project, Running, Say, UpError, attached, bring_up, stop,
};
use domain::units::Span;
use engine::docker::project::{Phase, ProjectEngine, Stream};
use owo_colors::{AnsiColors, OwoColorize};
use serde::Serialize;

use super::paint::Paint;
use super::project::LAUNCHWAY;
use super::{Exit, Failure, Globals, Misread, Outcome, print, print_json, told};

/// Run a Compose project here: compose.yaml is all it needs
#[derive(clap::Args)]
#[command(after_help = "Examples:
  launchway up                     everything, with what it writes; Ctrl-C stops it in reverse order
  launchway up -d                  leave it running
  launchway up --build             build the images again, as `docker compose up --build` does
  launchway up web                 only this service and what it depends on
  launchway up --profile debug     the services of this profile too
  launchway up -d -f other.yaml    another Compose file
  launchway down --up              take it away again (with -v its volumes too)

It reads the Compose file, .env and the shell's variables as Docker Compose does, and gives
containers, networks and volumes the same names. Run again, it makes only those containers anew
that have changed. It needs a Docker Engine (`dev/setup docker` installs one) and no server.
launchway.yaml is not read: environments come by `launchway deploy`.

With --json each line that a container writes is an object with `service`, `container`, `stream`
and `text`; with -d there is one object at the end, with `project` and `containers`.")]
pub struct Args {
    /// Only these, and what they depend on
    services: Vec<String>,
    /// Leave it running, and end
    #[arg(short, long)]
    detach: bool,
    /// Build images that are there already, too
    #[arg(long)]
    build: bool,
    /// Run the services of this profile too; may be repeated
    #[arg(long, value_name = "NAME")]
    profile: Vec<String>,
    /// The Compose file, by default compose.yaml
    #[arg(short, long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// What the project is called, by default what the file says, or its folder's name
    #[arg(short, long, value_name = "NAME")]
    project_name: Option<String>,
    /// Remove containers of services that the file does not have any more
    #[arg(long)]
    remove_orphans: bool,
    /// How long a service waits for one that it depends on
    #[arg(long, value_name = "TIME", default_value = "10m")]
    wait_timeout: Span,
}

/// Runs the verb.
pub async fn run(args: Args, globals: &Globals) -> Outcome {
    let asked = Asked {
        folder: globals.directory.clone(),
        file: args.file,
        name: args.project_name,
        profiles: args.profile,
        services: args.services,
    };
    let read = Project::read(&asked).map_err(failed)?;
    for note in &read.notes {
        eprintln!("note: {}:{}:{}: {}", note.path, note.line, note.column, note.message);
    }
    let project = read.project;
    if project.folder.join(LAUNCHWAY).is_file() {
        eprintln!("note: {LAUNCHWAY} is not read: `up` runs what the Compose file says");
    }
    let options = Options {
        build: args.build,
        remove_orphans: args.remove_orphans,
        wait_limit: args.wait_timeout.0,
    };
    let engine = ProjectEngine::new();
    let say = teller(&project, globals.json);
    match args.detach {
        true => left_running(&engine, &project, &options, &say, globals).await,
        false => watched(&engine, &project, &options, &say).await,
    }
}

async fn left_running(
    engine: &ProjectEngine,
    project: &Project,
    options: &Options,
    say: &Say,
    globals: &Globals,
) -> Outcome {
    // Nobody reads the logs.
    let (started, _) = tokio::sync::mpsc::channel(1);
    let up = tokio::select! {
        up = bring_up(engine, project, options, say, started) => up.map_err(failed)?,
        exit = told::to_end() => {
            eprintln!("interrupted: what was started goes on; `launchway down --up` takes it away");
            return Ok(exit);
        }
    };
    let mut containers = Vec::new();
    for running in up {
        let ports = engine.look(&running.id).await?.map(|look| look.ports).unwrap_or_default();
        containers.push(Shown::new(running, ports));
    }
    match globals.json {
        true => print_json(&Summary { project: &project.name, containers })?,
        false => print(&table(&project.name, &containers))?,
    }
    Ok(Exit::Ok)
}

/// Until everything has ended, or somebody says so.
async fn watched(
    engine: &ProjectEngine,
    project: &Project,
    options: &Options,
    say: &Say,
) -> Outcome {
    let exit = tokio::select! {
        done = attached(engine, project, options, say) => {
            done.map_err(failed)?;
            return Ok(Exit::Ok);
        }
        exit = told::to_end() => exit,
    };
    eprintln!("stopping; Ctrl-C again kills");
    let stopped = tokio::select! {
        stopped = stop(engine, &project.name, false, say) => stopped,
        _ = told::to_end() => stop(engine, &project.name, true, say).await,
    };
    stopped.map_err(failed)?;
    Ok(exit)
}

/// What `--json` prints with `-d`.
#[derive(Serialize)]
struct Summary<'a> {
    project: &'a str,
    containers: Vec<Shown>,
}

#[derive(Serialize)]
struct Shown {
    service: String,
    container: String,
    change: Change,
    /// `127.0.0.1:8080->80/tcp`.
    ports: Vec<String>,
}

impl Shown {
    fn new(running: Running, ports: Vec<String>) -> Self {
        let Running { service, name, change, .. } = running;
        Self { service: service.to_string(), container: name, change, ports }
    }
}

fn table(project: &str, containers: &[Shown]) -> String {
    let widest = containers.iter().map(|shown| shown.container.len()).max().unwrap_or(0);
    let rows = containers.iter().map(|shown| {
        let row = format!("  {:widest$}  {}", shown.container, shown.ports.join(", "));
        row.trim_end().to_owned() + "\n"
    });
    let said: String = rows.collect();
    format!("{project} is up; `launchway down --up` takes it away\n{said}")
}

/// What one line of `--json` is.
#[derive(Serialize)]
struct Written<'a> {
    service: &'a str,
    container: &'a str,
    stream: &'a str,
    text: &'a str,
}

const COLOURS: [AnsiColors; 6] = [
    AnsiColors::Cyan,
    AnsiColors::Yellow,
    AnsiColors::Green,
    AnsiColors::Magenta,
    AnsiColors::Blue,
    AnsiColors::BrightCyan,
];

/// Tells people on standard error what happens; what containers write goes to standard output.
fn teller(project: &Project, json: bool) -> Say {
    let colourful = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let paint = Paint::stderr();
    let before = format!("{}-", project.name);
    let services: Vec<String> = project.services.keys().map(ToString::to_string).collect();
    let widest = services.iter().map(|name| name.len() + 2).max().unwrap_or(0);
    Arc::new(move |event| match event {
        Event::Line { service, name, stream, text } => {
            let stream = if stream == Stream::Error { "stderr" } else { "stdout" };
            let line = if json {
                let written =
                    Written { service: service.as_str(), container: &name, stream, text: &text };
                serde_json::to_string(&written).unwrap_or_default() + "\n"
            } else {
                let short = name.strip_prefix(&before).unwrap_or(&name);
                let prefix = format!("{short:widest$} |");
                let place =
                    services.iter().position(|other| other == service.as_str()).unwrap_or(0);
                match colourful {
                    true => format!("{} {text}\n", prefix.color(COLOURS[place % COLOURS.len()])),
                    false => format!("{prefix} {text}\n"),
                }
            };
            // A reader that went away does not stop the project.
            let _ = print(&line);
        }
        Event::Built(service, line) => eprintln!("{}", paint.dim(&format!("{service} | {line}"))),
        Event::Warning(text) => eprintln!("{} {text}", paint.bad("warning:")),
        other => eprintln!("{}", said(&other)),
    })
}

fn said(event: &Event) -> String {
    match event {
        Event::NetworkMade(name) => format!("network {name}: made"),
        Event::VolumeMade(name) => format!("volume {name}: made"),
        Event::VolumeUsed(name) => {
            format!("volume {name}: was there already, and is used as it is")
        }
        Event::Building(service) => format!("{service}: building its image"),
        Event::Pulling(image) => format!("image {image}: pulling"),
        Event::Container { name, change } => format!("container {name}: {}", changed(*change)),
        Event::Waiting { service, reason } => format!("{service}: waits {reason}"),
        Event::Ended { name, phase } => match phase {
            Some(Phase::Exited(code)) => {
                format!("container {name}: ended with exit status {code}")
            }
            Some(_) => format!("container {name}: ended"),
            None => format!("container {name}: was removed"),
        },
        Event::Stopping(name) => format!("container {name}: stopping"),
        Event::Removed(name) => format!("{name}: removed"),
        Event::Warning(text) | Event::Built(_, text) | Event::Line { text, .. } => text.clone(),
    }
}

fn changed(change: Change) -> &'static str {
    match change {
        Change::Unchanged => "runs, unchanged",
        Change::Created => "made and started",
        Change::Recreated => "made anew and started",
        Change::Started => "started",
    }
}

/// Tells what `down` takes away.
pub fn takes_down() -> Say {
    Arc::new(|event| eprintln!("{}", said(&event)))
}

/// In the door's words.
pub fn failed(error: UpError) -> Failure {
    match error {
        UpError::Mistakes { mistakes, text, .. } => {
            let misread = |mistake| Misread { mistake, text: text.clone() };
            Failure::Mistakes(mistakes.into_iter().map(misread).collect())
        }
        UpError::Refused { message, help } => Failure::new(Exit::Usage, message, help),
        UpError::Dependency { .. } => Failure::new(
            Exit::Failed,
            error.to_string(),
            "what was started goes on; correct it and run `launchway up` again, or `launchway down --up`",
        ),
        other => Failure::Other { exit: Exit::Failed, message: other.to_string(), help: None },
    }
}
