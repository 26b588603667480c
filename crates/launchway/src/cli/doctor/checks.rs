//! What is looked at.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use control::server::{EDGE, edge_folder};
use domain::config::{BackingKind, EngineKind, Project, ServiceKind};
use engine::docker::build::{BuildError, ImageBuilder};
use engine::{ProcessConfig, ProcessEngine, ShimCommand, Unprivileged};

use super::super::{Failure, Globals, project};
use super::Check;
use crate::api;
use crate::client::{CallError, Client};
use crate::view::Status;

/// Less than this on the disk of the state folder is soon nothing.
const LITTLE_SPACE: u64 = 1 << 30;
const LEAST_SPACE: u64 = 100 << 20;

/// Everything, in the order in which it should be mended.
pub async fn all(globals: &Globals) -> Vec<Check> {
    let state = std::path::absolute(globals.state()).unwrap_or_else(|_| globals.state());
    let mut checks = vec![version("git", "git", true), repository(&globals.directory)];
    match project::load(&globals.directory) {
        Ok(reading) => {
            checks.push(Check::ok("project", format!("{}: no mistakes", reading.project.app)));
            checks.extend(tools(&reading.project, &globals.directory));
            if reading.project.runs_on(EngineKind::Docker) {
                checks.push(docker().await);
            }
        }
        Err(failure) => checks.push(mistaken(&failure)),
    }
    checks.extend(user(&state));
    checks.push(folder(&state));
    checks.push(space(&state));
    checks.extend(running(&globals.client(), &state).await);
    checks.push(strays(&state));
    let built = super::super::images::built(globals).await;
    checks.extend(built.iter().map(|built| Check::ok("images", built.said())));
    checks
}

fn mistaken(failure: &Failure) -> Check {
    let found = match failure {
        Failure::Mistakes(all) => format!("{} mistakes in its configuration", all.len()),
        Failure::Other { message, .. } => message.clone(),
    };
    Check::fail(
        "project",
        found,
        "`launchway check` shows them; `launchway init` writes a first file",
    )
}

fn repository(project: &Path) -> Check {
    let full = project.canonicalize().unwrap_or_else(|_| project.to_path_buf());
    let found = full.ancestors().find(|folder| folder.join(".git").exists());
    match found {
        Some(folder) => Check::ok("repository", folder.display().to_string()),
        None => Check::fail(
            "repository",
            format!("{} is in no git repository", full.display()),
            "run `git init` there and commit the app: what is deployed is a commit",
        ),
    }
}

/// The programs that the project's services and steps begin with, as far as they are known ones.
fn tools(project: &Project, directory: &Path) -> Vec<Check> {
    let mut checks = Vec::new();
    let has = |names: &[&str]| {
        let built = project.built().map(|(_, _, built)| built.context.as_str());
        let folders: Vec<PathBuf> = built.map(|context| directory.join(context)).collect();
        folders.iter().any(|folder| names.iter().any(|name| folder.join(name).is_file()))
    };
    if has(&["requirements.txt", "pyproject.toml", "setup.py"]) {
        checks.push(version("python", "python3", true));
    }
    if has(&["package.json"]) {
        checks.push(version("node", "node", true));
        checks.push(version("npm", "npm", true));
    }
    let backing = |kind| {
        let processes = project.runs_on(EngineKind::Process);
        processes
            && project.services.values().any(|service| match &service.kind {
                ServiceKind::Backing { image } => BackingKind::of(image) == Some(kind),
                ServiceKind::Built(_) => false,
            })
    };
    if backing(BackingKind::Postgres) {
        checks.push(postgres());
    }
    if backing(BackingKind::Redis) {
        checks.push(version("redis", "redis-server", true));
    }
    checks
}

fn version(name: &'static str, program: &str, needed: bool) -> Check {
    let asked = Command::new(program).arg("--version").stdin(Stdio::null()).output();
    match asked {
        Ok(output) if output.status.success() => {
            let said =
                String::from_utf8_lossy(&output.stdout).lines().next().unwrap_or("").to_owned();
            Check::ok(name, said)
        }
        Ok(output) => Check::fail(
            name,
            format!("`{program}` ended with {}", output.status),
            "install it again",
        ),
        Err(error) if needed => Check::fail(
            name,
            format!("`{program}`: {error}"),
            format!("install it where every user finds it: `apt-get install {}`", package(program)),
        ),
        Err(error) => {
            Check::warn(name, format!("`{program}`: {error}"), "install it if you need it")
        }
    }
}

/// Only where an environment of the project runs containers.
async fn docker() -> Check {
    let asked = async {
        let engine = ImageBuilder::connect().await?;
        let gentle = engine.has_live_restore().await?;
        Ok::<_, BuildError>((engine, gentle))
    };
    let (engine, gentle) = match asked.await {
        Ok(answer) => answer,
        Err(error) => {
            let todo = "start it, or install one: `dev/setup docker` on Debian and Ubuntu";
            return Check::fail("docker", error.to_string(), todo);
        }
    };
    let builder = if engine.has_buildkit() { "builds with BuildKit" } else { "has no BuildKit" };
    let found = format!("Engine {} answers and {builder}", engine.version());
    match gentle {
        true => Check::ok("docker", found),
        false => Check::warn(
            "docker",
            format!("{found}, but whenever it restarts, every container stops"),
            "set \"live-restore\": true in /etc/docker/daemon.json, and let it read that: `systemctl reload docker`",
        ),
    }
}

fn package(program: &str) -> &str {
    match program {
        "node" => "nodejs",
        other => other,
    }
}

/// Debian keeps the servers of each version apart and out of the path.
fn postgres() -> Check {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut binaries: Vec<PathBuf> =
        versions.map(|version| version.path().join("bin/postgres")).collect();
    let path = std::env::var_os("PATH").unwrap_or_default();
    binaries.extend(std::env::split_paths(&path).map(|folder| folder.join("postgres")));
    match binaries.into_iter().find(|binary| binary.is_file()) {
        Some(binary) => Check::ok("postgresql", binary.display().to_string()),
        None => Check::fail(
            "postgresql",
            "no server is installed, and the app has a database",
            "`apt-get install postgresql`; the cluster it makes is not used and may be removed",
        ),
    }
}

/// Servers never run as root.
fn user(state: &Path) -> Option<Check> {
    match Unprivileged::detect() {
        Ok(None) => None,
        Err(error) => {
            Some(Check::fail("user", error.to_string(), "or do not run Launchway as root"))
        }
        Ok(Some(user)) => Some(match user.barred_from(state) {
            None => Check::ok("user", format!("the app runs as `{}`", user.name)),
            Some(folder) => Check::fail(
                "user",
                format!(
                    "`{}`, whom the app runs as, may not enter {}",
                    user.name,
                    folder.display()
                ),
                "choose another state folder with --state or LAUNCHWAY_STATE, for example /var/lib/launchway",
            ),
        }),
    }
}

fn folder(state: &Path) -> Check {
    if let Err(error) = api::check_length(state) {
        return Check::fail("state", error.to_string(), "choose a shorter one with --state");
    }
    let shown = state.display();
    if !state.exists() {
        return Check::ok("state", format!("{shown} is made when it is needed"));
    }
    match nix::unistd::access(
        state,
        nix::unistd::AccessFlags::W_OK | nix::unistd::AccessFlags::X_OK,
    ) {
        Ok(()) => Check::ok("state", shown.to_string()),
        Err(error) => Check::fail(
            "state",
            format!("{shown}: {error}"),
            "use the user it belongs to; to ask a server only, its socket has to let you in",
        ),
    }
}

fn space(state: &Path) -> Check {
    let existing = state.ancestors().find(|folder| folder.exists()).unwrap_or(Path::new("/"));
    let free = match nix::sys::statvfs::statvfs(existing) {
        Ok(disk) => disk.blocks_available() * disk.fragment_size(),
        Err(error) => return Check::warn("disk", error.to_string(), "look with `df`"),
    };
    let found = format!("{:.1} GB free", free as f64 / 1e9);
    match free {
        0..LEAST_SPACE => Check::fail("disk", found, "make room: builds and databases need it"),
        LEAST_SPACE..LITTLE_SPACE => Check::warn("disk", found, "make room soon"),
        _ => Check::ok("disk", found),
    }
}

/// The server, the edge, and the address in their absence.
async fn running(client: &Client, state: &Path) -> Vec<Check> {
    match client.get::<Status>("/v1/status").await {
        Ok(status) => vec![server(&status), edge(&status)],
        Err(CallError::Absent { .. }) => vec![
            Check::warn("server", "none answers", "start one with `launchway server`"),
            address(state),
        ],
        Err(error) => {
            let silent = matches!(error, CallError::Silent { .. });
            let (said, help) = match Failure::from(error) {
                Failure::Other { message, help, .. } => (message, help.filter(|_| silent)),
                Failure::Mistakes(_) => ("it does not understand".into(), None),
            };
            let help = help.unwrap_or_else(|| "look at its log; use the same version".into());
            vec![Check::fail("server", said, help)]
        }
    }
}

fn server(status: &Status) -> Check {
    let pid = status.server.as_ref().map_or(0, |server| server.pid);
    Check::ok("server", format!("answers, process {pid}"))
}

fn edge(status: &Status) -> Check {
    let edge = &status.edge;
    match (&edge.problem, edge.listen) {
        (None, Some(listen)) => Check::ok("edge", format!("carries traffic at {listen}")),
        (problem, _) => Check::fail(
            "edge",
            problem.clone().unwrap_or_else(|| "it does not answer".into()),
            "the server starts it again by itself; if it does not, its log says why: supervised/edge/log",
        ),
    }
}

/// Without a server: whether the edge still has its address, or could get it.
fn address(state: &Path) -> Check {
    let known = fs::read_to_string(edge_folder(state).join("listen")).ok();
    let known: Option<SocketAddr> = known.and_then(|text| text.trim().parse().ok());
    let address = known.unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], 8080)));
    if known.is_some()
        && std::os::unix::net::UnixStream::connect(edge_folder(state).join("control.sock")).is_ok()
    {
        return Check::ok("edge", format!("carries traffic at {address} without a server"));
    }
    match TcpListener::bind(address) {
        Ok(_) => Check::ok("port", format!("{address} is free")),
        Err(error) => Check::fail(
            "port",
            format!("{address}: {error}"),
            "end what uses it, or choose another one: `launchway server --listen ADDRESS`",
        ),
    }
}

/// Processes whose supervisor is gone; a server sweeps them up when it starts their unit again.
fn strays(state: &Path) -> Check {
    let shim = ShimCommand { program: PathBuf::new(), args: Vec::new() };
    let engine = ProcessEngine::new(ProcessConfig { state: state.into(), shim, run_as: None });
    let strays: Vec<(u32, String)> =
        engine.strays().into_iter().filter(|(_, unit)| !unit.starts_with(EDGE)).collect();
    if strays.is_empty() {
        return Check::ok("left over", "nothing");
    }
    let named: Vec<String> = strays.iter().map(|(pid, unit)| format!("{pid} ({unit})")).collect();
    Check::warn(
        "left over",
        format!("processes without a supervisor: {}", named.join(", ")),
        "a server takes care of what belongs to a slot; kill what is still there afterwards",
    )
}
