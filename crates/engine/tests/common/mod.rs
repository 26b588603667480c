//! What the tests of engines share: a folder that an unprivileged user can reach, specs, and patience.

#![allow(dead_code, reason = "each test program uses its own part")]

pub mod daemon;
pub mod docker;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use domain::slot::{
    ArtifactRef, BackingSpec, Color, Exit, HealthCheck, JobSpec, Launch, Location, Place, Probe,
    ReplicaState, ReplicaStatus, ServiceSpec, SlotSpec, Snapshot,
};
use domain::{AppName, Digest, EnvironmentName, ReleaseId, ServiceName};
use engine::process::{ProcessConfig, ProcessEngine, ShimCommand, Unprivileged};
use engine::{Engine, EngineError, Input, Said, Streams};

/// Longer than anything here takes on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// For a command that reads nothing.
pub fn nothing() -> Input {
    Box::new(tokio::io::empty())
}

/// What a command of [`exec`] left.
#[derive(Debug)]
pub struct Ran {
    pub exit: Exit,
    pub output: Vec<u8>,
    pub errors: String,
}

impl Ran {
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.output).unwrap()
    }
}

/// A command beside `web` in staging, and all that it says.
pub async fn exec(
    engine: &dyn Engine,
    slot: Color,
    command: &[&str],
    input: Input,
) -> Result<Ran, EngineError> {
    let command: Vec<String> = command.iter().map(|&part| part.to_owned()).collect();
    let (output, mut said) = tokio::sync::mpsc::channel(1);
    let streams = Streams { input, output };
    let web = name("web");
    let place = staging();
    let running = engine.exec(&place, slot, &web, &command, streams);
    let listening = async {
        let (mut output, mut errors) = (Vec::new(), Vec::new());
        while let Some(said) = said.recv().await {
            match said {
                Said::Output(piece) => output.extend_from_slice(&piece),
                Said::Errors(piece) => errors.extend_from_slice(&piece),
            }
        }
        (output, String::from_utf8(errors).unwrap())
    };
    let (exit, (output, errors)) = tokio::join!(running, listening);
    exit.map(|exit| Ran { exit, output, errors })
}

/// A folder for one test. What runs below it when the test ends is killed, even if the test failed.
pub struct Home {
    folder: tempfile::TempDir,
}

impl Home {
    pub fn new() -> Self {
        let folder = tempfile::Builder::new().prefix("lw-").tempdir_in("/tmp").unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let artifact = folder.path().join("artifact");
        fs::create_dir(&artifact).unwrap();
        fs::create_dir(artifact.join("dist")).unwrap();
        fs::write(artifact.join("dist/index.html"), "<p>tea").unwrap();
        fs::write(artifact.join("serve.py"), SERVER).unwrap();
        fs::set_permissions(&artifact, fs::Permissions::from_mode(0o755)).unwrap();
        // Jobs of an unprivileged user write here.
        let scratch = folder.path().join("scratch");
        fs::create_dir(&scratch).unwrap();
        fs::set_permissions(&scratch, fs::Permissions::from_mode(0o777)).unwrap();
        Self { folder }
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    pub fn artifact(&self) -> PathBuf {
        self.path().join("artifact")
    }

    pub fn scratch(&self) -> PathBuf {
        self.path().join("scratch")
    }

    /// While it exists, servers that were told of it are unwell.
    pub fn sick(&self) -> PathBuf {
        self.scratch().join("sick")
    }

    /// A new engine over the same state, as after a restart of the server.
    pub fn engine(&self) -> ProcessEngine {
        let shim = env!("CARGO_BIN_EXE_launchway-shim").into();
        ProcessEngine::new(ProcessConfig {
            state: self.path().join("state"),
            shim: ShimCommand { program: shim, args: Vec::new() },
            run_as: Unprivileged::detect().unwrap(),
        })
    }

    /// Processes that carry a marker of this home.
    pub fn processes(&self) -> Vec<u32> {
        let wanted = format!("LAUNCHWAY_UNIT={}/", self.path().display()).into_bytes();
        with_environ(|environ| environ.split(|b| *b == 0).any(|entry| entry.starts_with(&wanted)))
    }

    /// Shims of this home.
    pub fn shims(&self) -> Vec<u32> {
        let wanted = self.path().to_string_lossy().into_owned();
        let all = pids().filter(|pid| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).into_owned();
            line.contains("launchway-shim") && line.contains(&wanted)
        });
        all.collect()
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        for pid in self.shims().into_iter().chain(self.processes()) {
            kill(pid, "KILL");
        }
    }
}

pub fn pids() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").unwrap().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

fn with_environ(wanted: impl Fn(&[u8]) -> bool) -> Vec<u32> {
    let matches = |pid: &u32| fs::read(format!("/proc/{pid}/environ")).is_ok_and(|e| wanted(&e));
    pids().filter(matches).collect()
}

/// `kill -SIGNAL PID`.
pub fn kill(pid: u32, signal: &str) {
    let args = [format!("-{signal}"), pid.to_string()];
    let _ =
        std::process::Command::new("kill").args(args).stderr(std::process::Stdio::null()).status();
}

/// Alive and not a zombie.
pub fn alive(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with('Z'))
}

/// Answers every path with `$ANSWER` (a status), default 200; with 500 as long as the file `$SICK` exists, or
/// if it knows no host of the name `$KNOWS`.
const SERVER: &str = r#"
import http.server, os, socket, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        sick = os.path.exists(os.environ.get("SICK", "/nowhere"))
        if "KNOWS" in os.environ:
            try:
                socket.getaddrinfo(os.environ["KNOWS"], 80)
            except OSError:
                sick = True
        status = 500 if sick else int(os.environ.get("ANSWER", "200"))
        self.send_response(status)
        if status in (301, 302):
            self.send_header("Location", "/login")
        self.end_headers()
        self.wfile.write(os.environ.get("BODY", "tea").encode())
    def log_message(self, *args):
        pass
print("serving", flush=True)
http.server.ThreadingHTTPServer((os.environ.get("HOST", "127.0.0.1"), int(os.environ["PORT"])), Handler).serve_forever()
"#;

pub const SERVE: &str = "/usr/bin/python3 serve.py";

pub fn app() -> AppName {
    AppName::new("teahouse").unwrap()
}

pub fn staging() -> EnvironmentName {
    EnvironmentName::new("staging").unwrap()
}

pub fn name(service: &str) -> ServiceName {
    ServiceName::new(service).unwrap()
}

pub fn service(home: &Home, service: &str, command: &str) -> ServiceSpec {
    ServiceSpec {
        name: name(service),
        replicas: 1,
        artifact: ArtifactRef {
            digest: Digest::of(command),
            location: Location::Folder(home.artifact()),
        },
        launch: Launch::Command(command.to_owned()),
        env: BTreeMap::new(),
        health: HealthCheck {
            probe: Probe::Http("/health".into()),
            interval: Duration::from_millis(100),
            timeout: Duration::from_secs(5),
            start_deadline: Duration::from_secs(30),
        },
        stop_grace: Duration::from_secs(5),
        after: Vec::new(),
    }
}

pub fn slot(color: Color, release: u64, services: Vec<ServiceSpec>) -> SlotSpec {
    let release = ReleaseId::nth(release);
    SlotSpec { app: app(), environment: staging(), slot: color, release, services }
}

pub fn job(home: &Home, id: &str, command: &str) -> JobSpec {
    JobSpec {
        id: id.to_owned(),
        environment: staging(),
        command: command.to_owned(),
        place: Place::Folder(home.scratch()),
        env: BTreeMap::new(),
        time_limit: Duration::from_secs(60),
        lock: None,
        log: None,
    }
}

pub fn backing(service: &str, image: &str) -> BackingSpec {
    let env =
        [("POSTGRES_PASSWORD", "sencha"), ("POSTGRES_DB", "teahouse"), ("POSTGRES_USER", "tea")];
    BackingSpec {
        app: app(),
        environment: staging(),
        service: name(service),
        image: image.to_owned(),
        env: env.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
        load: None,
        container: None,
    }
}

/// The replica number `index`, as it is now.
pub async fn replica(
    engine: &dyn Engine,
    color: Color,
    service: &str,
    index: usize,
) -> ReplicaStatus {
    let snapshot = engine.observe(&staging()).await.unwrap();
    snapshot.slots[&color].services[&name(service)][index].clone()
}

/// Looks again and again until the replica is as wanted.
pub async fn until(
    engine: &dyn Engine,
    color: Color,
    service: &str,
    wanted: impl Fn(&ReplicaStatus) -> bool,
) -> ReplicaStatus {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let status = replica(engine, color, service, 0).await;
        if wanted(&status) {
            return status;
        }
        assert!(Instant::now() < deadline, "still {status:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

pub async fn until_ready(engine: &dyn Engine, color: Color, service: &str) -> ReplicaStatus {
    until(engine, color, service, |status| status.state == ReplicaState::Ready).await
}

/// Waits until every replica of the slot is ready.
pub async fn until_slot_ready(engine: &dyn Engine, color: Color) -> Snapshot {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let snapshot = engine.observe(&staging()).await.unwrap();
        if snapshot.slots[&color].ready() {
            return snapshot;
        }
        assert!(Instant::now() < deadline, "still {snapshot:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Waits for anything else.
pub async fn eventually(what: &str, holds: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "it did not happen: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

pub fn port(status: &ReplicaStatus) -> u16 {
    match &status.endpoint {
        domain::slot::Endpoint::Http(address) => address.port(),
        other => panic!("{other:?} has no port"),
    }
}
