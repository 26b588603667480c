//! Talks to the server of a state folder over its socket.

mod sign;

use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Bytes, Frame, Incoming};
use hyper::client::conn::http1;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::net::UnixStream;
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::task::JoinHandle;

use crate::api::SOCKET;
use crate::api::wire::Complaint;
use crate::cli::{Exit, Failure};
use sign::{Silent, heard};

/// For an answer that does not follow anything. Longer than the server's own.
const DEADLINE: Duration = Duration::from_secs(70);
/// Of what goes on after a request.
const AT_ONCE: usize = 16 * 1024;

/// A server, if one answers. Each call opens its own connection.
#[derive(Debug, Clone)]
pub struct Client {
    socket: PathBuf,
}

/// Why a call brought nothing.
#[derive(Debug)]
pub enum CallError {
    /// No server answers at this path.
    Absent { socket: PathBuf, source: io::Error },
    /// It said no.
    Refused { status: StatusCode, complaint: Complaint },
    /// It takes connections and says nothing.
    Silent { doing: String, silent: Silent, change: bool },
    /// It went away, or says what is not understood.
    Broken { doing: String, why: String },
}

impl Client {
    /// The server of the state folder.
    pub fn of(state: &Path) -> Self {
        Self { socket: state.join(SOCKET) }
    }

    /// Whether a server answers.
    pub async fn answers(&self) -> bool {
        UnixStream::connect(&self.socket).await.is_ok()
    }

    /// Asks.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, CallError> {
        self.call(Method::GET, path, Vec::new()).await
    }

    /// Asks for a change.
    pub async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, CallError> {
        self.call(Method::POST, path, json(path, body)?).await
    }

    /// Asks for something that goes on, and says `input` after the request until that ends or the answer does.
    pub async fn post_reading(
        &self,
        path: &str,
        body: &impl Serialize,
        input: impl AsyncRead + Send + Unpin + 'static,
    ) -> Result<Feed, CallError> {
        let mut first = json(path, body)?;
        first.push(b'\n');
        let (to, from) = channel(1);
        let reading = Driver(tokio::spawn(read_all(first, input, to)));
        let feed = self.feed(Method::POST, path, Pieces(from)).await?;
        Ok(Feed { _reading: Some(reading), ..feed })
    }

    /// Asks for something that goes on.
    pub async fn follow(&self, path: &str) -> Result<Feed, CallError> {
        self.feed(Method::GET, path, full(Vec::new())).await
    }

    /// Asks for a change that takes its time and says how far it is.
    pub async fn post_and_follow(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<Feed, CallError> {
        self.feed(Method::POST, path, full(json(path, body)?)).await
    }

    async fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Vec<u8>,
    ) -> Result<T, CallError> {
        let change = method != Method::GET;
        let answer = async {
            let (response, _driver) = self.send(method, path, full(body)).await?;
            whole(path, response).await
        };
        let answer = tokio::time::timeout(DEADLINE, answer);
        let answer = heard(&self.socket, answer).await.map_err(|it| silent(path, it, change))?;
        answer.unwrap_or_else(|_| {
            Err(broken(path, format!("no answer within {} s", DEADLINE.as_secs())))
        })
    }

    async fn feed<B>(&self, method: Method, path: &str, body: B) -> Result<Feed, CallError>
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: std::error::Error + Send + Sync,
    {
        let change = method != Method::GET;
        let begun = async {
            let (response, driver) = self.send(method, path, body).await?;
            match response.status().is_success() {
                true => Ok((response.into_body(), driver)),
                false => Err(refused(path, response).await),
            }
        };
        let begun = heard(&self.socket, begun).await.map_err(|it| silent(path, it, change))?;
        let (body, driver) = begun?;
        let (socket, path) = (self.socket.clone(), path.to_owned());
        Ok(Feed { socket, path, body, buffer: Vec::new(), _driver: driver, _reading: None })
    }

    async fn send<B>(
        &self,
        method: Method,
        path: &str,
        body: B,
    ) -> Result<(Response<Incoming>, Driver), CallError>
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: std::error::Error + Send + Sync,
    {
        let absent = |source| CallError::Absent { socket: self.socket.clone(), source };
        let stream = UnixStream::connect(&self.socket).await.map_err(absent)?;
        let failed = |error: hyper::Error| broken(path, error);
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(failed)?;
        let driver = Driver(tokio::spawn(async move {
            // The call itself sees how the connection ends.
            let _ = connection.await;
        }));
        let request = Request::builder().method(method).uri(path).header("host", "launchway");
        let request = request.header("content-type", "application/json");
        let request = request.body(body).map_err(|error| broken(path, error))?;
        Ok((sender.send_request(request).await.map_err(failed)?, driver))
    }
}

/// An answer that goes on, a JSON value a line.
pub struct Feed {
    socket: PathBuf,
    path: String,
    body: Incoming,
    buffer: Vec<u8>,
    _driver: Driver,
    /// What is still said to the server.
    _reading: Option<Driver>,
}

impl Feed {
    /// The next value; `None` when there will be no more.
    pub async fn next<T: DeserializeOwned>(&mut self) -> Result<Option<T>, CallError> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                let value = serde_json::from_slice(&line);
                return value.map(Some).map_err(|error| broken(&self.path, error));
            }
            let frame = heard(&self.socket, self.body.frame()).await;
            let frame = frame.map_err(|it| silent(&self.path, it, false))?;
            let Some(frame) = frame else { return Ok(None) };
            let frame = frame.map_err(|error| broken(&self.path, error))?;
            if let Ok(data) = frame.into_data() {
                self.buffer.extend_from_slice(&data);
            }
        }
    }
}

/// Ends a task of a call together with it.
struct Driver(JoinHandle<()>);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A request that is still being read.
struct Pieces(Receiver<io::Result<Bytes>>);

impl Body for Pieces {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        self.0.poll_recv(context).map(|piece| piece.map(|piece| piece.map(Frame::data)))
    }
}

async fn read_all(
    first: Vec<u8>,
    mut input: impl AsyncRead + Unpin,
    to: Sender<io::Result<Bytes>>,
) {
    let mut piece = Ok(Bytes::from(first));
    loop {
        let over = piece.is_err();
        if to.send(piece).await.is_err() || over {
            return;
        }
        let mut read = Vec::with_capacity(AT_ONCE);
        piece = match input.read_buf(&mut read).await {
            Ok(0) => return,
            Ok(_) => Ok(read.into()),
            Err(error) => Err(io::Error::other(format!("reading standard input: {error}"))),
        };
    }
}

async fn whole<T: DeserializeOwned>(
    path: &str,
    response: Response<Incoming>,
) -> Result<T, CallError> {
    if !response.status().is_success() {
        return Err(refused(path, response).await);
    }
    let body = response.into_body().collect().await.map_err(|error| broken(path, error))?;
    serde_json::from_slice(&body.to_bytes()).map_err(|error| broken(path, error))
}

async fn refused(path: &str, response: Response<Incoming>) -> CallError {
    let status = response.status();
    let body = match response.into_body().collect().await {
        Ok(body) => body.to_bytes(),
        Err(error) => return broken(path, error),
    };
    match serde_json::from_slice(&body) {
        Ok(complaint) => CallError::Refused { status, complaint },
        Err(error) => broken(path, format!("status {status}: {error}")),
    }
}

fn full(body: Vec<u8>) -> Full<Bytes> {
    Full::new(Bytes::from(body))
}

fn json(path: &str, body: &impl Serialize) -> Result<Vec<u8>, CallError> {
    serde_json::to_vec(body).map_err(|error| broken(path, error))
}

fn broken(path: &str, why: impl ToString) -> CallError {
    CallError::Broken { doing: asking(path), why: why.to_string() }
}

fn silent(path: &str, silent: Silent, change: bool) -> CallError {
    CallError::Silent { doing: asking(path), silent, change }
}

fn asking(path: &str) -> String {
    format!("asking the server for {path}")
}

impl CallError {
    /// It said no, with this status of HTTP.
    pub fn refused(status: u16, complaint: Complaint) -> Self {
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        Self::Refused { status, complaint }
    }
}

impl From<CallError> for Failure {
    fn from(error: CallError) -> Self {
        match error {
            CallError::Absent { socket, source } => absent(&socket, &source),
            CallError::Silent { doing, silent, change } => hangs(&doing, silent, change),
            CallError::Broken { doing, why } => Failure::new(
                Exit::Failed,
                format!("{doing}: {why}"),
                "see whether the server still runs: `launchway status`",
            ),
            CallError::Refused { status, complaint } => {
                let exit = match status {
                    _ if complaint.gate => Exit::Refused,
                    StatusCode::BAD_REQUEST | StatusCode::NOT_FOUND => Exit::Usage,
                    StatusCode::GATEWAY_TIMEOUT => Exit::TimedOut,
                    _ => Exit::Failed,
                };
                let mistakes = complaint.mistakes.iter().map(|mistake| format!("\n  {mistake}"));
                let message = complaint.error + &mistakes.collect::<String>();
                Failure::Other { exit, message, help: complaint.help }
            }
        }
    }
}

/// Nobody there, or nobody who lets this user in.
fn absent(socket: &Path, source: &io::Error) -> Failure {
    let shown = socket.display();
    if source.kind() == io::ErrorKind::PermissionDenied {
        return Failure::new(
            Exit::Failed,
            format!("this user may not talk to the server at {shown}"),
            "ask to be let into the group of its state folder, or use the server's own user",
        );
    }
    if source.kind() == io::ErrorKind::InvalidInput {
        return Failure::new(
            Exit::Usage,
            format!("{shown}: {source}"),
            "choose a state folder with a shorter path with --state",
        );
    }
    Failure::new(
        Exit::Failed,
        format!("no server answers at {shown}"),
        "start one with `launchway server`; if it has another state folder, name it with --state",
    )
}

/// Somebody there who does not answer.
fn hangs(doing: &str, Silent { pid, stopped }: Silent, change: bool) -> Failure {
    let process = pid.map_or(String::new(), |pid| format!(" (process {pid})"));
    let pid = pid.map_or("PID".into(), |pid| pid.to_string());
    let later = if change { "; it may still do it when it goes on" } else { "" };
    let (how, look) = match stopped {
        true => ("it is stopped", format!("`kill -CONT {pid}` lets it go on")),
        false => (
            "it takes connections and says nothing",
            format!(
                "its log may say why; if `ps -o stat= -p {pid}` says T, `kill -CONT {pid}` lets it go on"
            ),
        ),
    };
    Failure::new(
        Exit::Failed,
        format!("{doing}: the server{process} does not answer: {how}{later}"),
        format!(
            "{look}; or end it with `kill -9 {pid}` and start it again with `launchway server`: what it \
             runs goes on meanwhile"
        ),
    )
}

/// A text as part of a path or query.
pub fn encode(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    let byte = |byte: u8| match plain(byte) {
        true => char::from(byte).to_string(),
        false => format!("%{byte:02X}"),
    };
    text.bytes().map(byte).collect()
}
