//! What `launchway up` runs from a folder, for the verbs that look: `status` and `logs`.

use control::up::{Standing, show_logs, standing};
use engine::docker::project::{Health, Line, Phase, ProjectEngine};
use serde_json::json;

use super::project::{LAUNCHWAY, compose};
use super::{Exit, Failure, Globals, Outcome, images, print, print_json, told, up};
use crate::api::wire::LogLine;

/// The containers; none where there never was a Docker Engine.
pub async fn containers(globals: &Globals) -> Result<Vec<Standing>, Failure> {
    if !images::may_be() {
        return Ok(Vec::new());
    }
    standing(&ProjectEngine::new(), &globals.directory).await.map_err(up::failed)
}

/// Shows them. Whether there is anything to say: not of a folder that is for a server, or for nothing.
pub async fn status(globals: &Globals) -> Result<bool, Failure> {
    let launchway = globals.directory.join(LAUNCHWAY).is_file();
    let plain = !launchway && compose(&globals.directory).is_ok();
    let all = match containers(globals).await {
        Err(_) if !plain => return Ok(false),
        all => all?,
    };
    if all.is_empty() && !plain {
        return Ok(false);
    }
    match globals.json {
        true => print_json(&json!({
            "project": all.first().map(|first| &first.project),
            "containers": all.iter().map(shown).collect::<Vec<_>>(),
        }))?,
        false => print(&page(&all))?,
    }
    Ok(true)
}

fn shown(of: &Standing) -> serde_json::Value {
    json!({
        "service": of.service,
        "container": of.name,
        "running": of.look.phase == Phase::Running,
        "state": state(of),
        "ports": of.look.ports,
    })
}

fn page(all: &[Standing]) -> String {
    let Some(Standing { project, .. }) = all.first() else {
        return "nothing runs from this folder; `launchway up` runs what its Compose file says\n"
            .into();
    };
    let goes_on = |of: &&Standing| matches!(of.look.phase, Phase::Running | Phase::Restarting);
    let mut page = match all.iter().any(|of| goes_on(&of)) {
        true => format!("{project} is up; `launchway down --up` takes it away\n"),
        false => format!("{project} is stopped; `launchway up` starts it again\n"),
    };
    let widest = all.iter().map(|of| of.name.len()).max().unwrap_or(0);
    for of in all {
        let ports = of.look.ports.join(", ");
        let row = format!("  {:widest$}  {:<18}  {ports}", of.name, state(of));
        page += &format!("{}\n", row.trim_end());
    }
    page
}

fn state(of: &Standing) -> String {
    let phase = match of.look.phase {
        Phase::Created => "never started".into(),
        Phase::Restarting => "restarting".into(),
        Phase::Exited(code) => return format!("ended with {code}"),
        Phase::Running => "running".to_owned(),
    };
    match of.look.health {
        Health::Unchecked => phase,
        Health::Starting => format!("{phase}, starting"),
        Health::Healthy => format!("{phase}, healthy"),
        Health::Unhealthy => format!("{phase}, unhealthy"),
    }
}

/// Shows what they wrote last, and with `on` what they write.
pub async fn logs(all: &[Standing], lines: usize, on: bool, globals: &Globals) -> Outcome {
    let told = told::to_end();
    let engine = ProjectEngine::new();
    let tell = |of: &Standing, line| tell(of, line, all.len() > 1, globals.json);
    tokio::select! {
        done = show_logs(&engine, all, lines, on, tell) => done.map(|()| Exit::Ok).map_err(up::failed),
        exit = told => Ok(exit),
    }
}

fn tell(of: &Standing, Line { text, .. }: Line, several: bool, json: bool) {
    let source = of.name.strip_prefix(&format!("{}-", of.project)).unwrap_or(&of.name);
    let line = match (json, several) {
        (true, _) => {
            let line = LogLine { source: source.to_owned(), text };
            serde_json::to_string(&line).unwrap_or_default()
        }
        (false, true) => format!("{source} | {text}"),
        (false, false) => text,
    };
    // A reader that went away is no failure.
    let _ = print(&(line + "\n"));
}
