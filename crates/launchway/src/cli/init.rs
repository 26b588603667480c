//! `launchway init`: writes a first `launchway.yaml` for a Compose project, from what its files show.

mod guess;

use std::fmt::Write;
use std::path::Path;

use domain::config::{EngineKind, Source, inspect, outline};
use serde_json::json;

use super::demo::engine;
use super::project::{LAUNCHWAY, Text, compose, misread};
use super::{Exit, Failure, Globals, Outcome, print, print_json};
use guess::{Guess, Serve};

/// Write a first launchway.yaml for a Compose project
#[derive(clap::Args)]
#[command(after_help = "Examples:
  launchway init                    write launchway.yaml beside the Compose file of this folder
  launchway init --print            print it only
  launchway init --engine process   run the services as processes, without containers
  launchway -C shop init            do it for another folder

Environments run in containers (`engine: docker`) when every service that Compose builds has its \
Dockerfile and `launchway check` finds nothing against it, else as processes. What it guesses comes \
from the Compose file, Dockerfiles, package.json, requirements.txt, nginx.conf and the branch that is \
checked out: read the file before you commit it, and run `launchway check`. With --json it prints an object with `path`, \
`written` and `text`.")]
pub struct Args {
    /// Replace a launchway.yaml that is there already
    #[arg(long)]
    force: bool,
    /// Print the file and write nothing
    #[arg(long)]
    print: bool,
    /// What the environments run on: `docker` for containers, or `process`
    #[arg(long, value_name = "ENGINE", value_parser = engine)]
    engine: Option<EngineKind>,
}

/// Runs the verb.
pub async fn run(args: Args, globals: &Globals) -> Outcome {
    let folder = &globals.directory;
    let path = folder.join(LAUNCHWAY);
    if path.exists() && !args.force && !args.print {
        let message = format!("{} is there already, nothing was written", path.display());
        return Err(Failure::new(
            Exit::Usage,
            message,
            "use `--force` to replace it, or `--print` to compare",
        ));
    }
    let compose = compose(folder)?;
    let text = first_file(folder, &compose, args.engine)?;
    if args.print {
        shown(&path, &text, false, globals)?;
        return Ok(Exit::Ok);
    }
    std::fs::write(&path, &text).map_err(|error| {
        let message = format!("writing {}: {error}", path.display());
        Failure::new(Exit::Failed, message, "let the user who runs launchway write there")
    })?;
    eprintln!("wrote {}: read it, correct the guesses, then run `launchway check`", path.display());
    if globals.json {
        shown(&path, &text, true, globals)?;
    }
    Ok(Exit::Ok)
}

fn shown(path: &Path, text: &str, written: bool, globals: &Globals) -> Result<(), Failure> {
    match globals.json {
        true => print_json(&json!({ "path": path, "written": written, "text": text })),
        false => print(text),
    }
}

/// The file's text; it passes `check`, or the Compose file has mistakes.
fn first_file(
    folder: &Path,
    compose: &Text,
    engine: Option<EngineKind>,
) -> Result<String, Failure> {
    let services = outline(compose.source()).map_err(|mistakes| misread(mistakes, &[compose]))?;
    let guesses: Vec<Guess> =
        services.iter().filter_map(|service| guess::service(folder, service, &services)).collect();
    if guesses.is_empty() {
        let message =
            format!("{} has no service with `build`, so there is nothing to deploy", compose.path);
        return Err(Failure::new(
            Exit::Usage,
            message,
            "add `build: <folder>` to the services that are yours; `launchway up` runs the file as it is",
        ));
    }
    let branch = guess::branch(folder).unwrap_or_else(|| "main".into());
    let checked = |engine| {
        let text = written(&app_name(folder), &branch, &guesses, engine);
        match inspect(Source { path: LAUNCHWAY, text: &text }, compose.source()) {
            Ok(_) => Ok(text),
            Err(mistakes) => Err((mistakes, Text { path: LAUNCHWAY.into(), text })),
        }
    };
    let first = engine.unwrap_or_else(|| guess::engine(&guesses));
    let (mistakes, text) = match checked(first) {
        Ok(text) => return Ok(text),
        Err(refused) => refused,
    };
    if engine.is_none()
        && first == EngineKind::Docker
        && let Ok(processes) = checked(EngineKind::Process)
    {
        let why = mistakes.first().map_or(String::new(), ToString::to_string);
        eprintln!("note: environments run as processes; with `engine: docker`: {why}");
        return Ok(processes);
    }
    Err(misread(mistakes, &[&text, compose]))
}

/// A service in containers: its image says how it runs.
fn contained(guess: &Guess) -> String {
    let mut lines = String::new();
    if let Some(health) = &guess.health {
        let _ = write!(lines, "\n    health: {}", quoted(health));
    }
    if let [port, _, ..] = guess.published[..] {
        let _ = write!(lines, "\n    port: {port}   # the one of its ports that requests go to");
    }
    match lines.is_empty() {
        true => format!("  {}: {{}}", guess.name),
        false => format!("  {}:{lines}", guess.name),
    }
}

fn written(app: &str, branch: &str, guesses: &[Guess], engine: EngineKind) -> String {
    let mut out = String::from(
        "# What happens to the app on its way to production. What it is made of stays in the Compose file.\n",
    );
    let mut line = |text: String| {
        let _ = writeln!(out, "{text}");
    };
    line(format!("app: {app}\n\nservices:"));
    for guess in guesses {
        if engine == EngineKind::Docker {
            line(contained(guess));
            continue;
        }
        line(format!("  {}:", guess.name));
        let asked = |_: &&String| !matches!(guess.serve, Serve::Files(_));
        if let Some(health) = guess.health.as_ref().filter(asked) {
            line(format!("    health: {}", quoted(health)));
        }
        line("    native:".into());
        if let Some(setup) = &guess.setup {
            line(format!("      setup: {}", quoted(setup)));
        }
        match &guess.serve {
            Serve::Files(folder) if folder == guess::WHOLE => {
                line("      # This serves every file that is beside index.html, the Dockerfile too: better move the pages".into());
                line("      # to a folder of their own, and name that.".into());
                line(format!("      static: {}", quoted(folder)));
            }
            Serve::Files(folder) => line(format!("      static: {}", quoted(folder))),
            Serve::Command(command) => line(format!("      run: {}", quoted(command))),
            Serve::Unknown => {
                line("      # Nothing showed how to start it: replace this command. It must listen on $PORT.".into());
                line(format!(
                    "      run: {}",
                    quoted(
                        "echo \"say in launchway.yaml how to listen on port $PORT\" >&2; exit 1"
                    )
                ));
            }
        }
    }
    line("\nroutes:".into());
    for (prefix, service) in guess::routes(guesses) {
        line(format!("  {}: {service}", quoted(&prefix)));
    }
    line("\nbuild:".into());
    line("  test: []      # steps like: { name: unit, in: backend, run: ./test }".into());
    line("  scan: off     # or { fail_on: high, steps: [...] } with a scanner that writes SARIF or CycloneDX".into());
    let runs = match engine {
        EngineKind::Docker => "    engine: docker\n",
        EngineKind::Process => "",
    };
    line(match engine {
        EngineKind::Docker => {
            "\n# In containers; `launchway init --force --engine process` writes what runs without them.".into()
        }
        EngineKind::Process => "\n# As processes; `launchway init --force --engine docker` writes what runs in containers.".into(),
    });
    line(format!(
        "environments:\n  staging:\n{runs}    branch: {}   # every green build comes here by itself",
        quoted(branch)
    ));
    line(format!("  production:\n{runs}    after: staging\n    approval:"));
    line(format!(
        "      from: [{}]   # OS users or groups\n    bake: {{ for: 5m, errors: 1% }}",
        quoted(&guess::user())
    ));
    out
}

/// The folder's name as the name of an app.
fn app_name(folder: &Path) -> String {
    let full = folder.canonicalize().unwrap_or_else(|_| folder.to_path_buf());
    let name = full.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
    let label: String =
        name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).take(40).collect();
    let label = label.trim_matches('-');
    if label.is_empty() { "app".into() } else { label.into() }
}

/// A YAML scalar: plain where that means the same.
fn quoted(text: &str) -> String {
    let safe = |c: char| c.is_ascii_alphanumeric() || " /._-$=,&|<>;()+:".contains(c);
    let begins = text.starts_with(|c: char| c.is_ascii_alphabetic() || "/.$".contains(c));
    let word =
        ["true", "false", "null", "off", "on", "yes", "no"].contains(&text.to_lowercase().as_str());
    let colons = text.split(':').skip(1).all(|after| !after.is_empty() && !after.starts_with(' '));
    if begins && !word && colons && !text.ends_with(' ') && text.chars().all(safe) {
        return text.into();
    }
    // JSON strings are YAML strings.
    serde_json::Value::from(text).to_string()
}
