//! `launchway init`: writes a first `launchway.yaml` for a Compose project, from what its files show.

mod guess;

use std::fmt::Write;
use std::path::Path;

use domain::config::{Source, inspect, outline};

use super::project::{LAUNCHWAY, Text, compose, misread};
use super::{Exit, Failure, Globals, Outcome, print};
use guess::{Guess, Serve};

/// Write a first launchway.yaml for a Compose project
#[derive(clap::Args)]
#[command(after_help = "Examples:
  launchway init           write launchway.yaml beside the Compose file of this folder
  launchway init --print   print it only
  launchway -C shop init   do it for another folder

What it guesses comes from the Compose file, Dockerfiles, package.json, requirements.txt and nginx.conf:
read the file before you commit it, and run `launchway check`.")]
pub struct Args {
    /// Replace a launchway.yaml that is there already
    #[arg(long)]
    force: bool,
    /// Print the file and write nothing
    #[arg(long)]
    print: bool,
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
    let text = first_file(folder, &compose)?;
    if args.print {
        print(&text)?;
        return Ok(Exit::Ok);
    }
    std::fs::write(&path, &text).map_err(|error| {
        let message = format!("writing {}: {error}", path.display());
        Failure::new(Exit::Failed, message, "let the user who runs launchway write there")
    })?;
    eprintln!("wrote {}: read it, correct the guesses, then run `launchway check`", path.display());
    Ok(Exit::Ok)
}

/// The file's text; it passes `check`, or the Compose file has mistakes.
fn first_file(folder: &Path, compose: &Text) -> Result<String, Failure> {
    let services = outline(compose.source()).map_err(|mistakes| misread(mistakes, &[compose]))?;
    let guesses: Vec<Guess> =
        services.iter().filter_map(|service| guess::service(folder, service, &services)).collect();
    if guesses.is_empty() {
        let message =
            format!("{} has no service with `build`, so there is nothing to deploy", compose.path);
        return Err(Failure::new(
            Exit::Usage,
            message,
            "add `build: <folder>` to the services that are yours",
        ));
    }
    let text = written(&app_name(folder), &guesses);
    let source = Source { path: LAUNCHWAY, text: &text };
    let shown = Text { path: LAUNCHWAY.into(), text: text.clone() };
    inspect(source, compose.source()).map_err(|mistakes| misread(mistakes, &[&shown, compose]))?;
    Ok(text)
}

fn written(app: &str, guesses: &[Guess]) -> String {
    let mut out = String::from(
        "# What happens to the app on its way to production. What it is made of stays in the Compose file.\n",
    );
    let mut line = |text: String| {
        let _ = writeln!(out, "{text}");
    };
    line(format!("app: {app}\n\nservices:"));
    for guess in guesses {
        line(format!("  {}:", guess.name));
        if let Some(health) = &guess.health {
            line(format!("    health: {}", quoted(health)));
        }
        line("    native:".into());
        if let Some(setup) = &guess.setup {
            line(format!("      setup: {}", quoted(setup)));
        }
        match &guess.serve {
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
    line(format!(
        "\nenvironments:\n  staging:\n    branch: {}   # every green build comes here by itself",
        "main"
    ));
    line("  production:\n    after: staging\n    approval:".into());
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
