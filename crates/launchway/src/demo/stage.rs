//! What the demo plays on: a folder with a repository of its own, and a server of its own.

use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use control::observer::ObserveError;
use control::pipeline::{Images, Needed};
use domain::config::EngineKind;
use engine::{DockerConfig, DockerEngine};

use super::edits::Change;
use super::scan;

/// Why the story cannot be told.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    #[error("{doing} {path}: {source}")]
    Io { doing: &'static str, path: PathBuf, source: io::Error },
    #[error("`{text}` is not in {path}; the demo edits the example as it is in this repository")]
    Anchor { path: PathBuf, text: String },
    #[error("`{command}` failed: {why}")]
    Command { command: String, why: String },
    #[error(transparent)]
    Observe(#[from] ObserveError),
    #[error("{step}: expected {expected}, and saw {seen}")]
    Unexpected { step: &'static str, expected: String, seen: String },
    #[error("the traffic cannot be sent: {0}")]
    Load(#[from] control::load::LoadError),
    #[error("waiting for {what}: {why}")]
    Server { what: String, why: String },
    #[error("waiting for {what}: it did not happen within ten minutes")]
    Late { what: String },
    #[error("interrupted")]
    Interrupted,
}

/// Folder, repository, server.
pub struct Stage {
    pub folder: PathBuf,
    pub engine: EngineKind,
    program: PathBuf,
    server: Option<Child>,
}

impl Stage {
    /// Copies the example into a fresh folder that servers without privileges can enter.
    pub fn set(source: &Path, engine: EngineKind) -> Result<Self, DemoError> {
        use std::os::unix::fs::PermissionsExt;
        let made = tempfile::Builder::new()
            .prefix("launchway-demo-")
            .permissions(std::fs::Permissions::from_mode(0o755))
            .tempdir();
        let folder = made.map_err(io_error("making a folder in", &std::env::temp_dir()))?.keep();
        let program =
            std::env::current_exe().map_err(io_error("finding", Path::new("launchway")))?;
        let stage = Self { folder, engine, program, server: None };
        copy(source, &stage.repository())?;
        stage.name_the_approver()?;
        stage.choose_the_engine()?;
        stage.git(&["init", "--quiet", "--initial-branch", "develop"])?;
        stage.commit("First Flush: the shop opens")?;
        Ok(stage)
    }

    pub fn repository(&self) -> PathBuf {
        self.folder.join("teahouse")
    }

    pub fn state(&self) -> PathBuf {
        self.folder.join("state")
    }

    fn log(&self) -> PathBuf {
        self.folder.join("server.log")
    }

    /// Makes a change and commits it; the server notices the new head of `develop` by itself.
    pub fn change(&self, change: &Change) -> Result<(), DemoError> {
        change.apply(&self.repository())?;
        self.commit(change.subject)
    }

    /// Starts the server, as a user would in another terminal.
    pub fn start_server(&mut self) -> Result<(), DemoError> {
        let path = self.log();
        let mut options = std::fs::OpenOptions::new();
        let log = options.create(true).append(true).open(&path);
        let log = log.map_err(io_error("writing", &path))?;
        let child = self
            .launchway(&["server", "--listen", "127.0.0.1:0"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn();
        self.server = Some(child.map_err(io_error("starting", &self.program))?);
        Ok(())
    }

    /// `kill -9`.
    pub fn kill_server(&mut self) -> Result<u32, DemoError> {
        let Some(mut server) = self.server.take() else { return Ok(0) };
        let pid = server.id();
        server.kill().and_then(|()| server.wait()).map_err(io_error("killing", &self.program))?;
        Ok(pid)
    }

    /// Why the server is not there any more, if it is not.
    pub fn server_ended(&mut self) -> Option<String> {
        let status = self.server.as_mut()?.try_wait().ok()??;
        let log = std::fs::read_to_string(self.log()).unwrap_or_default();
        let last: Vec<&str> = log.lines().rev().take(5).collect();
        let last: Vec<&str> = last.into_iter().rev().collect();
        Some(format!("the server ended with {status}: {}", last.join(" / ")))
    }

    /// Runs a verb as a user would type it; its standard output.
    pub async fn verb(&self, arguments: &[&str]) -> Result<String, DemoError> {
        let command = format!("launchway {}", arguments.join(" "));
        super::story::say(&format!("$ {command}"));
        let output = tokio::process::Command::from(self.launchway(arguments));
        let output = run(output, &command).await?;
        Ok(String::from_utf8_lossy(&output).into_owned())
    }

    /// Takes everything down. What it was that could not be stopped is told; what Docker still has of it is answered.
    pub async fn clear(&mut self) -> Result<Vec<String>, DemoError> {
        self.verb(&["down", "--with-data"]).await?;
        self.server_gone().await?;
        let left = match self.engine {
            EngineKind::Process => Vec::new(),
            EngineKind::Docker => self.clear_docker().await?,
        };
        std::fs::remove_dir_all(&self.folder).map_err(io_error("removing", &self.folder))?;
        Ok(left)
    }

    /// Nobody will roll back to these images any more.
    async fn clear_docker(&self) -> Result<Vec<String>, DemoError> {
        let failed = |why: String| DemoError::Command { command: "clearing Docker".into(), why };
        let images = Images::new(&self.state());
        let gone = images.keep(|| Some(Needed::default())).await;
        gone.map_err(|error| failed(error.to_string()))?;
        let config = DockerConfig { state: self.state(), socket: None };
        let left = DockerEngine::connect(config).left().await;
        left.map_err(|error| failed(error.to_string()))
    }

    async fn server_gone(&mut self) -> Result<(), DemoError> {
        let Some(mut server) = self.server.take() else { return Ok(()) };
        let waited = tokio::task::spawn_blocking(move || server.wait()).await;
        let waited =
            waited.unwrap_or_else(|panicked| std::panic::resume_unwind(panicked.into_panic()));
        waited.map(|_| ()).map_err(io_error("waiting for", &self.program))
    }

    fn launchway(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.arg("--state").arg(self.state()).arg("-C").arg(self.repository()).args(arguments);
        command
    }

    /// The example wants a release manager; here it is whoever tells the story.
    fn name_the_approver(&self) -> Result<(), DemoError> {
        let path = self.repository().join("launchway.yaml");
        let text = std::fs::read_to_string(&path).map_err(io_error("reading", &path))?;
        let anchor = "from: [release-managers]";
        if !text.contains(anchor) {
            return Err(DemoError::Anchor { path, text: anchor.into() });
        }
        let user = nix::unistd::User::from_uid(nix::unistd::geteuid()).ok().flatten();
        let name = user.map_or_else(|| nix::unistd::geteuid().to_string(), |user| user.name);
        let text = text.replace(anchor, &format!("from: [release-managers, {name}]"));
        std::fs::write(&path, text).map_err(io_error("writing", &path))
    }

    /// The example's environments run processes.
    fn choose_the_engine(&self) -> Result<(), DemoError> {
        if self.engine == EngineKind::Process {
            return Ok(());
        }
        let path = self.repository().join("launchway.yaml");
        let text = std::fs::read_to_string(&path).map_err(io_error("reading", &path))?;
        let gate = format!("{}{}", scan::ANCHOR, scan::in_writing());
        let mut changed = text;
        for (anchor, new) in
            [("    engine: process\n", "    engine: docker\n"), (scan::ANCHOR, gate.as_str())]
        {
            if !changed.contains(anchor) {
                return Err(DemoError::Anchor { path, text: anchor.trim().into() });
            }
            changed = changed.replace(anchor, new);
        }
        std::fs::write(&path, changed).map_err(io_error("writing", &path))
    }

    fn commit(&self, subject: &str) -> Result<(), DemoError> {
        self.git(&["add", "--all"])?;
        self.git(&["commit", "--quiet", "--message", subject])
    }

    fn git(&self, arguments: &[&str]) -> Result<(), DemoError> {
        let command = format!("git {}", arguments.join(" "));
        let output = Command::new("git")
            .arg("-C")
            .arg(self.repository())
            // Neither hooks nor signing of whoever runs the demo belong to it.
            .args(["-c", "core.hooksPath=/dev/null", "-c", "commit.gpgSign=false"])
            .args(["-c", "user.name=Tea Master", "-c", "user.email=master@teahouse.example"])
            .args(arguments)
            .output()
            .map_err(io_error("starting", Path::new("git")))?;
        if output.status.success() {
            return Ok(());
        }
        let why = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        Err(DemoError::Command { command, why })
    }
}

async fn run(mut command: tokio::process::Command, shown: &str) -> Result<Vec<u8>, DemoError> {
    const LIMIT: Duration = Duration::from_secs(180);
    let failed = |why: String| DemoError::Command { command: shown.into(), why };
    command.stdin(Stdio::null()).kill_on_drop(true);
    let output = tokio::time::timeout(LIMIT, command.output()).await;
    let output = output.map_err(|_| failed(format!("it took longer than {LIMIT:?}")))?;
    let output = output.map_err(|error| failed(error.to_string()))?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(failed(format!("{}: {}", output.status, said.trim())))
}

fn io_error<'a>(doing: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> DemoError + 'a {
    move |source| DemoError::Io { doing, path: path.into(), source }
}

/// Copies what git would: no build output, no installed packages.
fn copy(from: &Path, to: &Path) -> Result<(), DemoError> {
    const LEFT_OUT: [&str; 6] =
        [".git", ".venv", "node_modules", "dist", "__pycache__", ".launchway"];
    std::fs::create_dir_all(to).map_err(io_error("making", to))?;
    for entry in std::fs::read_dir(from).map_err(io_error("reading", from))? {
        let entry = entry.map_err(io_error("reading", from))?;
        let (source, name) = (entry.path(), entry.file_name());
        if LEFT_OUT.iter().any(|left_out| name == *left_out) {
            continue;
        }
        if source.is_dir() {
            copy(&source, &to.join(name))?;
        } else {
            std::fs::copy(&source, to.join(name)).map_err(io_error("copying", &source))?;
        }
    }
    Ok(())
}

/// One small answer of a target.
pub async fn get(target: &control::load::Target, path: &str) -> Result<String, String> {
    use http_body_util::BodyExt;
    let ask = async {
        let stream = tokio::net::TcpStream::connect(target.connect).await?;
        let io = hyper_util::rt::TokioIo::new(stream);
        let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await?;
        let driver = tokio::spawn(connection);
        let request = hyper::Request::get(path)
            .header("host", &target.host)
            .body(http_body_util::Empty::<hyper::body::Bytes>::new())?;
        let answer = sender.send_request(request).await?;
        let body = answer.into_body().collect().await?.to_bytes();
        driver.abort();
        Ok::<_, Box<dyn std::error::Error + Send + Sync>>(
            String::from_utf8_lossy(&body).into_owned(),
        )
    };
    let answer = tokio::time::timeout(Duration::from_secs(10), ask).await;
    answer.map_err(|_| "no answer within 10 s".to_string())?.map_err(|error| error.to_string())
}
