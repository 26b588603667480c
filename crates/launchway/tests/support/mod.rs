//! A tiny real project, and the real binary with a state folder of its own.

#![allow(dead_code, reason = "each test file uses its part")]

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

/// For everything that is waited for.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// An app of one service without dependencies, in a git repository: staging by itself, production after
/// somebody's approval. Its migration appends the release to a file, so that one that ran twice is seen.
pub struct TinyProject {
    pub folder: PathBuf,
    /// A line for each migration: environment and release.
    pub migrations: PathBuf,
}

const APP: &str = r#"import http.server, os

class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        body = (open("text").read().strip() + " " + os.environ["RELEASE"] + "\n").encode()
        self.send_response(500 if self.path == "/fails" else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        print(*args, flush=True)

host = os.environ.get("HOST", "127.0.0.1")
http.server.ThreadingHTTPServer((host, int(os.environ["PORT"])), Handler).serve_forever()
"#;

impl TinyProject {
    /// Made in `folder`, with its first commit on `main`.
    pub fn create(folder: &Path) -> Self {
        let project =
            Self { folder: folder.join("project"), migrations: folder.join("migrations") };
        std::fs::create_dir_all(project.folder.join("web")).expect("created");
        std::fs::write(&project.migrations, "").expect("written");
        // The app's user is not the one who runs the test.
        open_to_all(&project.migrations, 0o666);
        project.write("web/app.py", APP);
        project.write("web/text", "first\n");
        project.write("web/Dockerfile", "FROM python:3\n");
        project.write("compose.yaml", "services: { web: { build: ./web } }\n");
        project.write("launchway.yaml", &project.launchway_yaml("{ from: [USER] }"));
        project.git(&["init", "-q", "-b", "main"]);
        project.save("The first");
        project
    }

    /// Changes what the app answers, and commits.
    pub fn commit(&self, change: &str) {
        self.write("web/text", &format!("{change}\n"));
        self.save(change);
    }

    /// Replaces a file; `save` commits it.
    pub fn write(&self, path: &str, text: &str) {
        std::fs::write(self.folder.join(path), text).expect("written");
    }

    /// Commits everything.
    pub fn save(&self, subject: &str) {
        self.git(&["add", "-A"]);
        self.git(&["commit", "-q", "-m", subject]);
    }

    /// Releases that were migrated in an environment, as often as they were.
    pub fn migrated(&self, environment: &str) -> Vec<String> {
        let text = std::fs::read_to_string(&self.migrations).expect("readable");
        let here = |line: &str| Some(line.strip_prefix(environment)?.trim().to_owned());
        text.lines().filter_map(here).collect()
    }

    /// The configuration; in `approval` the word `USER` stands for the user who runs the test.
    pub fn launchway_yaml(&self, approval: &str) -> String {
        let user = nix::unistd::User::from_uid(nix::unistd::getuid());
        let user = user.expect("readable").expect("this user has a name").name;
        let migrations = self.migrations.display();
        format!(
            "app: tiny
services:
  web:
    health: /
    migrate: echo \"$LAUNCHWAY_ENVIRONMENT $RELEASE\" >> {migrations}
    native:
      setup: mkdir -p made && cp text made/text
      run: exec python3 app.py
routes: {{ /: web }}
build:
  test: [{{ name: unit, in: web, run: test -s text }}]
  scan: off
environments:
  staging: {{ branch: main, drain: 1s }}
  production: {{ after: staging, drain: 1s, approval: {} }}
",
            approval.replace("USER", &user)
        )
    }

    /// Runs git in it, as somebody with a name.
    pub fn git(&self, arguments: &[&str]) {
        let mut git = Command::new("git");
        git.args(["-c", "user.name=Ada Tester", "-c", "user.email=tester@example.org"]);
        git.args(arguments).current_dir(&self.folder);
        let output = git.output().expect("git runs");
        assert!(output.status.success(), "git {arguments:?}: {}", text(&output.stderr));
    }
}

/// The real binary with a project and a state folder of its own. Whatever it started ends with it.
pub struct Harness {
    pub project: TinyProject,
    pub state: PathBuf,
    /// Variables that the server gets.
    pub env: Vec<(String, String)>,
    program: PathBuf,
    server: Option<Child>,
    _folder: TempDir,
}

impl Harness {
    /// A fresh project; nothing runs yet.
    pub fn new() -> Self {
        let folder = tempfile::Builder::new().prefix("lw").tempdir_in("/tmp").expect("a folder");
        open_to_all(folder.path(), 0o755);
        let state = folder.path().join("state");
        std::fs::create_dir(&state).expect("created");
        open_to_all(&state, 0o755);
        let program = reachable(Path::new(env!("CARGO_BIN_EXE_launchway")), folder.path());
        Self {
            project: TinyProject::create(folder.path()),
            state,
            env: Vec::new(),
            program,
            server: None,
            _folder: folder,
        }
    }

    /// Starts the server and waits until it answers. Its log goes to `server.log` beside the state.
    pub fn start(&mut self) {
        self.spawn();
        self.eventually("the server answers", || self.launchway(&["status"]).status.success());
    }

    /// Starts the server and returns at once.
    pub fn spawn(&mut self) {
        let log = std::fs::File::options().create(true).append(true).open(self.log());
        let mut command = self.command(&["server", "--listen", "127.0.0.1:0"]);
        command.envs(self.env.iter().cloned());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log.expect("a log"));
        self.server = Some(command.spawn().expect("the server starts"));
    }

    /// Asks the server to stop, as a service manager would.
    pub fn terminate_server(&mut self) -> std::process::ExitStatus {
        signal(self.server_pid(), nix::sys::signal::Signal::SIGTERM);
        self.server_ended()
    }

    /// Installs the program anew, where the last installation of it was, as a package manager does: the file of
    /// what runs is unlinked. What is started from now on is another build.
    pub fn install(&mut self) {
        let (place, fresh) =
            (self._folder.path().join("installed"), self._folder.path().join("new"));
        std::fs::copy(&self.program, &fresh).expect("copied");
        std::fs::rename(&fresh, &place).expect("renamed");
        self.program = place;
    }

    /// Kills the server and nothing else.
    pub fn kill_server(&mut self) {
        if let Some(mut server) = self.server.take() {
            server.kill().expect("killed");
            server.wait().expect("reaped");
        }
    }

    /// Waits until the server ends by itself.
    pub fn server_ended(&mut self) -> std::process::ExitStatus {
        let mut server = self.server.take().expect("a server was started");
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = server.try_wait().expect("waited") {
                return status;
            }
            assert!(Instant::now() < deadline, "the server does not end\n{}", self.said());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Whether the server still runs.
    pub fn server_runs(&mut self) -> bool {
        self.server.as_mut().is_some_and(|server| server.try_wait().expect("waited").is_none())
    }

    /// The server's pid.
    pub fn server_pid(&self) -> u32 {
        self.server.as_ref().expect("a server was started").id()
    }

    /// Runs a verb to its end.
    pub fn launchway(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().expect("launchway runs")
    }

    /// Begins a verb; the caller waits for it.
    pub fn begin(&self, arguments: &[&str]) -> Child {
        let mut command = self.command(arguments);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().expect("launchway starts")
    }

    /// The same, with a standard input that is open as long as the caller has it.
    pub fn begin_fed(&self, arguments: &[&str]) -> Child {
        let mut command = self.command(arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().expect("launchway starts")
    }

    /// Runs a verb that must succeed with something to read; its standard output.
    pub fn feed(&self, input: &str, arguments: &[&str]) -> String {
        let mut child = self.begin_fed(arguments);
        let mut stdin = child.stdin.take().expect("a pipe");
        let output = std::thread::scope(|scope| {
            // What is not wanted is not read.
            scope.spawn(move || drop(stdin.write_all(input.as_bytes())));
            child.wait_with_output().expect("it ends")
        });
        let (out, err) = (text(&output.stdout), text(&output.stderr));
        assert!(output.status.success(), "{arguments:?}\n{out}\n{err}\n{}", self.said());
        out
    }

    /// Runs a verb that must end with `code`; its standard output.
    pub fn expect(&self, code: i32, arguments: &[&str]) -> String {
        let output = self.launchway(arguments);
        let (out, err) = (text(&output.stdout), text(&output.stderr));
        assert_eq!(
            output.status.code(),
            Some(code),
            "{arguments:?}\n{out}\n{err}\n{}",
            self.said()
        );
        out
    }

    /// `status --json`, or null when no server answers.
    pub fn status(&self) -> Value {
        let output = self.launchway(&["status", "--json"]);
        match output.status.success() {
            true => serde_json::from_slice(&output.stdout).expect("JSON"),
            false => Value::Null,
        }
    }

    /// The release that is live in an environment and how it is.
    pub fn live(&self, environment: &str) -> Option<Live> {
        let status = self.status();
        let here = status["environments"].as_array()?.iter().find(|e| e["name"] == environment)?;
        let slot = here["slots"].as_array()?.iter().find(|slot| slot["live"] == true)?;
        let replicas = slot["replicas"].as_array()?;
        let pid = |replica: &Value| replica["pid"].as_u64();
        Some(Live {
            release: slot["release"]["id"].as_str()?.into(),
            subject: slot["release"]["subject"].as_str()?.into(),
            ready: slot["ready"].as_bool()?,
            pids: replicas.iter().filter_map(pid).collect(),
            quiet: here["under_way"].is_null(),
            url: here["url"].as_str()?.into(),
        })
    }

    /// Waits until `environment` serves the commit with this subject and nothing is under way there.
    pub fn wait_for_live(&self, environment: &str, subject: &str) -> Live {
        self.eventually(&format!("{subject} is live in {environment}"), || {
            self.live(environment).is_some_and(|live| live.subject == subject && live.quiet)
        });
        self.live(environment).expect("it was live a moment ago")
    }

    /// Waits until the condition holds.
    pub fn eventually(&self, what: &str, condition: impl Fn() -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !condition() {
            let status = || text(&self.launchway(&["status"]).stdout);
            assert!(
                Instant::now() < deadline,
                "not within {PATIENCE:?}: {what}\n{}\n{}",
                status(),
                self.said()
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// What an environment answers to `GET /` at the edge.
    pub fn get(&self, environment: &str) -> Option<String> {
        self.get_path(environment, "/")
    }

    /// What an environment answers at the edge.
    pub fn get_path(&self, environment: &str, path: &str) -> Option<String> {
        use std::io::{Read, Write};
        let status = self.status();
        let address: std::net::SocketAddr = status["edge"]["listen"].as_str()?.parse().ok()?;
        let mut stream = std::net::TcpStream::connect(address).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).ok()?;
        let host = format!("{environment}.tiny.localhost");
        write!(stream, "GET {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        Some(answer)
    }

    /// Processes that still belong to this state folder, supervisors first.
    pub fn left_over(&self) -> Vec<u32> {
        let state = format!("{}/", self.state.display());
        let marker = format!("LAUNCHWAY_UNIT={state}");
        let processes = std::fs::read_dir("/proc").expect("readable").flatten();
        let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
        let any = |pid: u32, file: &str, wanted: &str| {
            let bytes = std::fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
            bytes.split(|byte| *byte == 0).any(|part| part.starts_with(wanted.as_bytes()))
        };
        let (shims, others): (Vec<u32>, Vec<u32>) = pids
            .filter(|pid| any(*pid, "cmdline", &state) || any(*pid, "environ", &marker))
            .partition(|pid| any(*pid, "cmdline", "shim"));
        shims.into_iter().chain(others).collect()
    }

    /// What the server wrote.
    pub fn said(&self) -> String {
        std::fs::read_to_string(self.log()).unwrap_or_default()
    }

    fn log(&self) -> PathBuf {
        self.state.with_file_name("server.log")
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.arg("-C").arg(&self.project.folder).arg("--state").arg(&self.state);
        command.args(arguments).env_remove("LAUNCHWAY_STATE").env_remove("LAUNCHWAY_LOG");
        command
    }
}

impl Drop for Harness {
    fn drop(&mut self) {
        self.kill_server();
        // Stops the edge and whatever else is supervised; without a server it does it by itself.
        let _done = self.launchway(&["down", "--with-data"]);
        for pid in self.left_over() {
            signal(pid, nix::sys::signal::SIGKILL);
        }
    }
}

/// What is live in an environment.
#[derive(Debug, Clone, PartialEq)]
pub struct Live {
    pub release: String,
    pub subject: String,
    pub ready: bool,
    pub pids: Vec<u64>,
    /// No rollout is under way.
    pub quiet: bool,
    pub url: String,
}

/// Sends a signal; a process that is gone is as good.
pub fn signal(pid: u32, signal: nix::sys::signal::Signal) {
    let pid = nix::unistd::Pid::from_raw(i32::try_from(pid).expect("a pid"));
    let _gone = nix::sys::signal::kill(pid, signal);
}

/// The binary itself, or a copy where an unprivileged user can reach it.
fn reachable(program: &Path, folder: &Path) -> PathBuf {
    let open = |path: &Path| {
        std::fs::metadata(path).is_ok_and(|meta| meta.permissions().mode() & 0o001 != 0)
    };
    if program.ancestors().filter(|path| !path.as_os_str().is_empty()).all(open) {
        return program.to_path_buf();
    }
    let copy = folder.join("launchway");
    std::fs::copy(program, &copy).expect("copied");
    open_to_all(&copy, 0o755);
    copy
}

pub fn open_to_all(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("rights changed");
}

/// Output as text.
pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
