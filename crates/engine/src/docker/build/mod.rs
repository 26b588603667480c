//! Images, built through the Engine's API from a folder, and what is done with them afterwards.
//!
//! ```text
//! mod       ImageBuilder: one build, from its request to the image's id
//! context   the tar that is sent; ignore: what .dockerignore leaves out of it
//! place     which line of the Dockerfile failed
//! trace     what BuildKit tells, as lines;  session: what it asks back for
//! images    find, tag, push, pull, remove;  credentials: logins from Docker's own configuration
//! wire      plain HTTP to the socket
//! ```
//!
//! A build lives as long as the connection that asked for it: whoever drops the future, or dies, has ended it.

mod context;
mod credentials;
mod ignore;
mod images;
mod place;
mod save;
mod session;
mod trace;
mod wire;

use std::collections::BTreeMap;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bollard::Docker;
use bytes::Bytes;
use domain::Digest;
use http_body_util::BodyExt;
use hyper::body::{Frame, Incoming};
use hyper::{Request, Response};
use serde_json::Value;
use tokio::sync::mpsc;

pub use context::{Context, ignore_files};
pub use credentials::{Credentials, Login, registry_of};
pub use ignore::Ignore;
pub use images::{Image, by_id};
pub use place::At;

use session::{Answers, Session};
use trace::Trace;
use wire::{Body, Place};

/// One line of the Engine's answer is not larger.
const LONGEST_LINE: usize = 16 << 20;
/// The shortest line of a secret that is looked for in what a build says, in bytes.
const TELLING: usize = 4;
/// Of a context that is sent, in memory at once: pieces of this size, and as many.
const PIECE: usize = 64 * 1024;
const PIECES: usize = 8;

/// Builds images on one Engine.
pub struct ImageBuilder {
    place: Place,
    docker: Docker,
    credentials: Credentials,
    buildkit: bool,
    version: String,
}

/// One image to build.
#[derive(Debug, Clone)]
pub struct BuildRequest {
    pub context: Context,
    /// `name:tag`.
    pub tag: String,
    /// The stage of the Dockerfile to stop at.
    pub target: Option<String>,
    pub args: BTreeMap<String, String>,
    pub labels: BTreeMap<String, String>,
    /// For `RUN --mount=type=secret`; BuildKit alone can have them.
    pub secrets: Secrets,
    /// Ask the registry for newer base images.
    pub pull: bool,
    pub no_cache: bool,
    /// For `RUN`: `none`, `host`, or that of the Engine.
    pub network: Option<String>,
    pub extra_hosts: Vec<(String, String)>,
}

/// Values by their id. They appear in no output.
#[derive(Clone, Default)]
pub struct Secrets(pub BTreeMap<String, Vec<u8>>);

impl Secrets {
    /// `text` with every line of a secret blanked out, in case a step prints one. What is shorter than
    /// [`TELLING`] bytes would blank out half of what is said, and is left.
    fn masked(&self, text: &str) -> String {
        let secrets: Vec<_> =
            self.0.values().map(|secret| String::from_utf8_lossy(secret)).collect();
        let lines = secrets.iter().flat_map(|secret| secret.lines()).map(str::trim);
        let mut lines: Vec<&str> = lines.filter(|line| line.len() >= TELLING).collect();
        // One may be a part of another, whose rest would be left.
        lines.sort_unstable_by_key(|line| std::cmp::Reverse(line.len()));
        lines.into_iter().fold(text.to_owned(), |text, line| text.replace(line, "***"))
    }
}

impl std::fmt::Debug for Secrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

/// Why there is no image.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    #[error(
        "the Docker Engine cannot be reached at {0}; start it, or have DOCKER_HOST name it (`dev/setup docker` installs one)"
    )]
    Unreachable(String),
    /// The Engine did not begin.
    #[error("the Docker Engine refused: {0}")]
    Refused(String),
    /// The build itself failed, in the Engine's words, and at what of the Dockerfile where that is known.
    #[error("{said}")]
    Failed { said: String, at: Option<At> },
    #[error("reading the build context: {0}")]
    Context(io::Error),
    #[error("the connection to the Docker Engine broke: {0}")]
    Broken(String),
    #[error(
        "build secrets need BuildKit, which this Engine does not have; update Docker to 18.09 or newer, or remove `build.secrets`"
    )]
    NoSecrets,
}

impl BuildError {
    fn broken(error: impl std::fmt::Display) -> Self {
        Self::Broken(error.to_string())
    }
}

impl From<bollard::errors::Error> for BuildError {
    fn from(error: bollard::errors::Error) -> Self {
        use bollard::errors::Error;
        match error {
            Error::DockerResponseServerError { message, .. } => Self::Refused(message),
            Error::DockerStreamError { error } => Self::Failed { said: error, at: None },
            other => Self::Broken(other.to_string()),
        }
    }
}

impl ImageBuilder {
    /// Connects to the Engine that `DOCKER_HOST` names, or to that of this machine, and asks what it can do.
    pub async fn connect() -> Result<Self, BuildError> {
        Self::at(Place::from_env()?).await
    }

    /// Connects to the Engine at this address, written as in `DOCKER_HOST`.
    pub async fn connect_to(host: &str) -> Result<Self, BuildError> {
        Self::at(Place::of(Some(host))?).await
    }

    async fn at(place: Place) -> Result<Self, BuildError> {
        // Says why in our words where nothing answers.
        drop(place.dial().await?);
        let host = match &place {
            Place::Unix(path) => format!("unix://{}", path.display()),
            Place::Tcp(address) => format!("tcp://{address}"),
        };
        let docker = Docker::connect_with_host(&host)?.negotiate_version().await?;
        let version = docker.version().await?;
        // What speaks Docker's API and is none has no BuildKit behind it.
        let components = version.components.unwrap_or_default();
        let moby = components.iter().any(|component| component.name == "Engine");
        let buildkit = moby && version.os.as_deref() != Some("windows");
        let (credentials, version) = (Credentials::from_env(), version.version.unwrap_or_default());
        Ok(Self { place, docker, credentials, buildkit, version })
    }

    /// The same, with the classic builder.
    pub fn classic(self) -> Self {
        Self { buildkit: false, ..self }
    }

    /// The same, with other logins.
    pub fn with_credentials(self, credentials: Credentials) -> Self {
        Self { credentials, ..self }
    }

    /// Of the Engine, for people.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// Whether builds are BuildKit's.
    pub fn has_buildkit(&self) -> bool {
        self.buildkit
    }

    /// Whether containers go on while the Engine restarts: its setting `live-restore`.
    pub async fn has_live_restore(&self) -> Result<bool, BuildError> {
        Ok(self.docker.info().await?.live_restore_enabled.unwrap_or(false))
    }

    /// Builds to the end; the image's id. What the build says goes to `log`, line by line.
    pub async fn build(
        &self,
        request: &BuildRequest,
        log: &mut (dyn FnMut(&str) + Send),
    ) -> Result<Digest, BuildError> {
        if !self.buildkit && !request.secrets.0.is_empty() {
            return Err(BuildError::NoSecrets);
        }
        let session = match self.buildkit {
            true => {
                let (secrets, credentials) = (request.secrets.0.clone(), self.credentials.clone());
                Some(Session::open(&self.place, Answers { secrets, credentials }).await?)
            }
            false => None,
        };
        let mut wire = self.place.dial().await?;
        let (body, trouble) = send(request.context.clone());
        let mut call = Request::post(query(request, session.as_ref().map(|s| s.id.as_str())))
            .header("host", "docker")
            .header("content-type", "application/x-tar");
        if session.is_none()
            && let Some(logins) = self.logins(&request.context).await
        {
            call = call.header("x-registry-config", logins);
        }
        let call = call.body(body).map_err(BuildError::broken)?;
        let sent = wire.send(call).await;
        // A context that cannot be read breaks the connection too, and is the reason to tell.
        let spoiled = || trouble.lock().unwrap_or_else(PoisonError::into_inner).take();
        let answer = match (sent, spoiled()) {
            (_, Some(error)) => return Err(BuildError::Context(error)),
            (sent, None) => sent?,
        };
        if !answer.status().is_success() {
            return Err(BuildError::Refused(said(answer).await));
        }
        let mut log = |line: &str| log(&request.secrets.masked(line));
        let dockerfile = request.context.dockerfile().unwrap_or_default();
        let built = follow(answer.into_body(), &dockerfile, &mut log).await;
        match (spoiled(), built) {
            (Some(error), _) => Err(BuildError::Context(error)),
            (None, Err(BuildError::Failed { said, at })) => {
                Err(BuildError::Failed { said: request.secrets.masked(&said), at })
            }
            (None, built) => built,
        }
    }

    /// All logins that the Dockerfile's own base images need: the classic builder cannot ask back.
    async fn logins(&self, context: &Context) -> Option<String> {
        let text = context.dockerfile().ok()?;
        let mut all = serde_json::Map::new();
        for image in text.lines().filter_map(base) {
            let registry = registry_of(image);
            if let Some(login) = self.credentials.of(registry).await {
                let name =
                    if registry == "docker.io" { "https://index.docker.io/v1/" } else { registry };
                let login = serde_json::json!({ "username": login.user, "password": login.secret });
                all.insert(name.into(), login);
            }
        }
        (!all.is_empty()).then(|| STANDARD.encode(Value::Object(all).to_string()))
    }
}

/// The image that a line `FROM image AS stage` names.
fn base(line: &str) -> Option<&str> {
    let mut words = line.split_whitespace();
    let from = words.next().is_some_and(|word| word.eq_ignore_ascii_case("from"));
    from.then(|| words.find(|word| !word.starts_with("--"))).flatten()
}

/// <https://docs.docker.com/reference/api/engine/version/v1.41/#tag/Image/operation/ImageBuild>
fn query(request: &BuildRequest, session: Option<&str>) -> String {
    let json = |map: &BTreeMap<String, String>| serde_json::to_string(map).unwrap_or_default();
    let mut all = vec![
        ("dockerfile", request.context.dockerfile.clone()),
        ("t", request.tag.clone()),
        ("labels", json(&request.labels)),
        ("buildargs", json(&request.args)),
        ("rm", "1".into()),
        // A failed classic build would leave its container.
        ("forcerm", "1".into()),
    ];
    all.extend(request.target.clone().map(|target| ("target", target)));
    all.extend(request.pull.then(|| ("pull", "1".into())));
    all.extend(request.no_cache.then(|| ("nocache", "1".into())));
    all.extend(request.network.clone().map(|network| ("networkmode", network)));
    let hosts = request.extra_hosts.iter().map(|(name, address)| format!("{name}:{address}"));
    let hosts: Vec<String> = hosts.collect();
    all.extend((!hosts.is_empty()).then(|| ("extrahosts", hosts.join(","))));
    if let Some(session) = session {
        all.extend([("version", "2".into()), ("session", session.to_owned())]);
    }
    let pairs: Vec<String> = all.iter().map(|(k, v)| format!("{k}={}", escaped(v))).collect();
    format!("/build?{}", pairs.join("&"))
}

fn escaped(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    let each = |byte: u8| match plain(byte) {
        true => char::from(byte).to_string(),
        false => format!("%{byte:02X}"),
    };
    text.bytes().map(each).collect()
}

/// What the Engine says when it refuses.
async fn said(answer: Response<Incoming>) -> String {
    let status = answer.status();
    let body = http_body_util::Limited::new(answer.into_body(), PIECE).collect().await;
    let text = body.map(|body| body.to_bytes()).unwrap_or_default();
    let message = serde_json::from_slice::<Value>(&text).ok();
    let message = message.and_then(|m| Some(m.get("message")?.as_str()?.to_owned()));
    message.unwrap_or_else(|| format!("{status}: {}", String::from_utf8_lossy(&text).trim()))
}

/// Reads the answer of a build, a JSON object a line, to its end.
async fn follow(
    mut body: Incoming,
    dockerfile: &str,
    log: &mut (dyn FnMut(&str) + Send),
) -> Result<Digest, BuildError> {
    let mut story = Story::default();
    let mut open: Vec<u8> = Vec::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(BuildError::broken)?.into_data() else { continue };
        open.extend_from_slice(&data);
        while let Some(end) = open.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = open.drain(..=end).collect();
            story.line(&line, log);
        }
        if open.len() > LONGEST_LINE {
            return Err(BuildError::broken("it said more than 16 MiB in one line"));
        }
    }
    story.line(&open, log);
    story.end(dockerfile)
}

/// What the Engine has said so far.
#[derive(Default)]
struct Story {
    trace: Trace,
    /// The part of a line that has no end yet.
    rest: String,
    error: Option<String>,
    image: Option<String>,
    /// The step that the classic builder is at.
    step: Option<String>,
    /// Steps of BuildKit that failed, and why.
    failed: Vec<(String, String)>,
}

impl Story {
    fn line(&mut self, line: &[u8], log: &mut (dyn FnMut(&str) + Send)) {
        let Ok(message) = serde_json::from_slice::<Value>(line) else { return };
        let text = |name: &str| message.get(name).and_then(Value::as_str);
        match (text("id"), message.get("aux")) {
            (Some("moby.buildkit.trace"), Some(Value::String(trace))) => {
                let told = self.trace.read(&STANDARD.decode(trace).unwrap_or_default());
                told.lines.iter().for_each(|line| log(line));
                self.failed.extend(told.failed);
                return;
            }
            (_, Some(aux)) => {
                self.image = aux["ID"].as_str().map(str::to_owned).or(self.image.take());
            }
            // Bars of downloads draw themselves again and again.
            (Some(layer), None) if message.get("progressDetail").is_some_and(is_empty) => {
                log(&format!("{layer}: {}", text("status").unwrap_or_default()));
            }
            (None, None) => log_if(text("status"), log),
            _ => {}
        }
        if let Some(stream) = text("stream") {
            self.rest.push_str(stream);
            while let Some(end) = self.rest.find('\n') {
                let line: String = self.rest.drain(..=end).collect();
                let line = line.trim_end();
                if line.starts_with("Step ") {
                    self.step = Some(line.to_owned());
                }
                log_if(Some(line), log);
            }
        }
        let detail = message.pointer("/errorDetail/message").and_then(Value::as_str);
        if let Some(error) = detail.or(text("error")) {
            log(&format!("ERROR: {error}"));
            self.error = Some(error.to_owned());
        }
    }

    fn end(self, dockerfile: &str) -> Result<Digest, BuildError> {
        if let Some(said) = self.error {
            // Steps beside the one that failed are cancelled, and have failed too.
            let culprit = self.failed.into_iter().find(|(_, why)| said.contains(why));
            let step = culprit.map(|(step, _)| step).or(self.step);
            let at = place::of(dockerfile, step.as_deref(), &said);
            return Err(BuildError::Failed { said, at });
        }
        let id = self.image.ok_or_else(|| BuildError::broken("it ended without an image"))?;
        images::id(&id)
    }
}

fn is_empty(value: &Value) -> bool {
    value.as_object().is_some_and(serde_json::Map::is_empty)
}

fn log_if(line: Option<&str>, log: &mut (dyn FnMut(&str) + Send)) {
    if let Some(line) = line.filter(|line| !line.is_empty()) {
        log(line);
    }
}

/// Where a context that cannot be read says so.
type Trouble = Arc<Mutex<Option<io::Error>>>;

/// The context as a body, packed while it is sent.
fn send(context: Context) -> (Body, Trouble) {
    let (pieces, body) = mpsc::channel(PIECES);
    let trouble = Trouble::default();
    let told = trouble.clone();
    tokio::task::spawn_blocking(move || {
        let mut writer = io::BufWriter::with_capacity(PIECE, Pieces(pieces.clone()));
        let packed = context.write(&mut writer).and_then(|()| io::Write::flush(&mut writer));
        if let Err(error) = packed
            && !pieces.is_closed()
        {
            *told.lock().unwrap_or_else(PoisonError::into_inner) =
                Some(io::Error::new(error.kind(), error.to_string()));
            // Half a context is none: the Engine gives up when the connection breaks.
            let _gone = pieces.blocking_send(Err(error));
        }
    });
    (Packed(body).boxed(), trouble)
}

struct Pieces(mpsc::Sender<io::Result<Bytes>>);

impl io::Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let sent = self.0.blocking_send(Ok(Bytes::copy_from_slice(bytes)));
        sent.map(|()| bytes.len()).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct Packed(mpsc::Receiver<io::Result<Bytes>>);

impl hyper::body::Body for Packed {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        self.0.poll_recv(context).map(|piece| piece.map(|piece| piece.map(Frame::data)))
    }
}
