//! What the edge's tests share: a backend that says who it is, a client, tables.
#![allow(dead_code, reason = "each test file uses its own part")]

pub mod frames;
pub mod grpc;
pub mod tls;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant};

use bytes::Bytes;
use domain::route::{EnvironmentRoutes, Facts, Route, SlotRoutes, Table};
use domain::slot::Endpoint;
use domain::{AppName, Color, EnvironmentName, Epoch, ReleaseId, ServiceName};
use edge::{Client, Edge, EdgeConfig, Limits};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::{Frame, Incoming};
use hyper::client::conn::http1::SendRequest;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

pub const HOST: &str = "staging.tea.localhost";
pub const PREVIEW: &str = "preview.staging.tea.localhost";

/// An edge in a folder of its own.
pub struct TestEdge {
    pub edge: Option<Edge>,
    pub folder: tempfile::TempDir,
    pub client: Client,
    pub address: SocketAddr,
}

pub fn limits() -> Limits {
    Limits {
        fast: crate::FAST,
        health_interval: Duration::from_millis(50),
        // Tests of what is away for good do not wait long.
        comeback: Duration::from_millis(100),
        half_close: Duration::from_millis(200),
        stop: Duration::from_secs(5),
        ..Limits::default()
    }
}

impl TestEdge {
    pub fn start() -> Self {
        Self::with(limits())
    }

    pub fn with(limits: Limits) -> Self {
        Self::in_folder(tempfile::tempdir().unwrap(), limits)
    }

    pub fn in_folder(folder: tempfile::TempDir, limits: Limits) -> Self {
        let config = EdgeConfig {
            listen: "127.0.0.1:0".parse().unwrap(),
            state: folder.path().join("edge"),
            workers: Some(2),
            https: Some("127.0.0.1:0".parse().unwrap()),
            ..EdgeConfig::default()
        };
        let edge = Edge::start(&config, limits).unwrap();
        let client = Client::new(config.state.join("control.sock"));
        Self { address: edge.address(), edge: Some(edge), folder, client }
    }

    /// Stops it, keeps its folder.
    pub async fn stop(mut self) -> tempfile::TempDir {
        let edge = self.edge.take().unwrap();
        tokio::task::spawn_blocking(move || edge.stop()).await.unwrap();
        self.folder
    }

    pub async fn facts(&self, slot: Color, service: &str) -> Facts {
        let status = self.client.status().await.unwrap();
        let found = status
            .facts
            .into_iter()
            .find(|(key, _)| key.slot == slot && key.service.as_str() == service);
        found.map(|(_, facts)| facts).unwrap_or_default()
    }

    /// The address that carries TLS.
    pub fn https(&self) -> SocketAddr {
        self.edge.as_ref().and_then(Edge::https_address).unwrap()
    }

    pub async fn get(&self, host: &str, path: &str) -> Reply {
        Session::open(self.address).await.get(host, path).await
    }
}

/// One slot's routes: prefix, service, endpoints.
pub fn slot(release: u64, routes: &[(&str, &str, Vec<Endpoint>)]) -> SlotRoutes {
    let route = |(prefix, service, endpoints): &(&str, &str, Vec<Endpoint>)| Route {
        prefix: (*prefix).into(),
        service: ServiceName::new(*service).unwrap(),
        endpoints: endpoints.clone(),
        health: Some("/health".into()),
        max_body: None,
    };
    SlotRoutes { release: ReleaseId::nth(release), routes: routes.iter().map(route).collect() }
}

pub fn staging() -> EnvironmentName {
    EnvironmentName::new("staging").unwrap()
}

pub fn table(epoch: u64, live: Color, slots: &[(Color, SlotRoutes)]) -> Table {
    let environment = EnvironmentRoutes {
        app: AppName::new("tea").unwrap(),
        host: HOST.into(),
        preview_host: PREVIEW.into(),
        live,
        slots: slots.iter().cloned().collect(),
        drain_deadline: Duration::from_millis(300),
        close_spread: Duration::from_millis(20),
        names: Vec::new(),
        https: false,
    };
    Table { epoch: Epoch(epoch), environments: BTreeMap::from([(staging(), environment)]) }
}

/// A table with one slot, blue, with everything at `backends`.
pub fn simple(epoch: u64, backends: &[&Backend]) -> Table {
    table(epoch, Color::Blue, &[(Color::Blue, all_to(1, backends))])
}

pub fn all_to(release: u64, backends: &[&Backend]) -> SlotRoutes {
    let endpoints = backends.iter().map(|b| Endpoint::Http(b.address)).collect();
    slot(release, &[("/", "backend", endpoints)])
}

pub fn files(folder: &Path) -> Vec<Endpoint> {
    vec![Endpoint::Files(folder.into())]
}

/// Polls until `condition` holds; fails after a generous time.
pub async fn eventually(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !condition().await {
        assert!(Instant::now() < deadline, "still not: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A small HTTP server that answers with its name.
pub struct Backend {
    pub address: SocketAddr,
    pub state: Arc<State>,
    task: JoinHandle<()>,
}

pub struct State {
    pub name: String,
    pub requests: AtomicU64,
    pub posts: AtomicU64,
    pub uploaded: AtomicU64,
    pub healthy: AtomicBool,
    /// The codes with which clients of `/ws` have closed; 0 where they said nothing.
    pub closes: std::sync::Mutex<Vec<u16>>,
    /// Ends `/hold` and lets `/events` and `/download` go on.
    pub go: watch::Sender<u64>,
}

type Answer = Response<BoxBody<Bytes, Infallible>>;

impl Backend {
    pub async fn start(name: &str) -> Self {
        Self::on(name, "127.0.0.1:0".parse().unwrap()).await
    }

    pub async fn on(name: &str, address: SocketAddr) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(State {
            name: name.into(),
            requests: AtomicU64::new(0),
            posts: AtomicU64::new(0),
            uploaded: AtomicU64::new(0),
            healthy: AtomicBool::new(true),
            closes: std::sync::Mutex::default(),
            go: watch::Sender::new(0),
        });
        let shared = state.clone();
        let task = tokio::spawn(async move {
            // Aborting the server ends its connections too, as the death of a process does.
            let mut connections = tokio::task::JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let state = shared.clone();
                let service = hyper::service::service_fn(move |request| {
                    let state = state.clone();
                    async move { Ok::<_, Infallible>(answer(state, request).await) }
                });
                connections.spawn(async move {
                    let serving = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service)
                        .with_upgrades();
                    let _ = serving.await;
                });
            }
        });
        Self { address, state, task }
    }

    pub fn go(&self) {
        self.state.go.send_modify(|n| *n += 1);
    }

    pub fn requests(&self) -> u64 {
        self.state.requests.load(SeqCst)
    }

    /// Dies: the port refuses, open connections break.
    pub async fn die(self) -> SocketAddr {
        self.task.abort();
        let _ = self.task.await;
        self.address
    }
}

pub fn full(text: impl Into<Bytes>) -> BoxBody<Bytes, Infallible> {
    Full::new(text.into()).boxed()
}

pub fn streamed(frames: mpsc::Receiver<Frame<Bytes>>) -> BoxBody<Bytes, Infallible> {
    Frames(frames).boxed()
}

struct Frames(mpsc::Receiver<Frame<Bytes>>);

impl hyper::body::Body for Frames {
    type Data = Bytes;
    type Error = Infallible;
    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(cx).map(|frame| frame.map(Ok))
    }
}

async fn answer(state: Arc<State>, mut request: Request<Incoming>) -> Answer {
    let path = request.uri().path().to_owned();
    if path == "/health" {
        let status = if state.healthy.load(SeqCst) { 200 } else { 503 };
        return Response::builder().status(status).body(full("")).unwrap();
    }
    state.requests.fetch_add(1, SeqCst);
    if request.method() == "POST" {
        state.posts.fetch_add(1, SeqCst);
    }
    let mut go = state.go.subscribe();
    let last = path.rsplit('/').next().unwrap_or_default().to_owned();
    match path.split('/').nth(1).unwrap_or_default() {
        "hold" => {
            go.changed().await.unwrap();
            Response::new(full(state.name.clone()))
        }
        "status" => Response::builder()
            .status(last.parse::<u16>().unwrap())
            .body(full(if ["204", "304"].contains(&last.as_str()) { "" } else { "body" }))
            .unwrap(),
        "headers" => {
            let lines =
                request.headers().iter().map(|(n, v)| format!("{n}: {}\n", v.to_str().unwrap()));
            let head = format!("{} {:?}\n", request.uri(), request.version());
            Response::builder()
                .header("connection", "x-hop")
                .header("x-hop", "1")
                .header("x-end", "2")
                .body(full(head + &lines.collect::<String>()))
                .unwrap()
        }
        "echo" => Response::new(full(request.into_body().collect().await.unwrap().to_bytes())),
        "upload" => {
            let mut body = request.into_body();
            while let Some(Ok(frame)) = body.frame().await {
                let length = frame.data_ref().map_or(0, Bytes::len) as u64;
                state.uploaded.fetch_add(length, SeqCst);
            }
            Response::new(full(state.uploaded.load(SeqCst).to_string()))
        }
        "download" => {
            let pieces: usize = last.parse().unwrap();
            let (sender, receiver) = mpsc::channel(1);
            tokio::spawn(async move {
                for n in 0..pieces {
                    let piece = Bytes::from(vec![n as u8; 64 * 1024]);
                    state.uploaded.fetch_add(piece.len() as u64, SeqCst);
                    if sender.send(Frame::data(piece)).await.is_err() {
                        break;
                    }
                }
            });
            Response::new(streamed(receiver))
        }
        "events" => {
            let (sender, receiver) = mpsc::channel(1);
            tokio::spawn(async move {
                for n in 0.. {
                    let event = format!("data: {n}\n\n");
                    if sender.send(Frame::data(event.into())).await.is_err() {
                        break;
                    }
                    go.changed().await.unwrap();
                }
            });
            let response = Response::builder().header("content-type", "text/event-stream");
            response.body(streamed(receiver)).unwrap()
        }
        "trailers" => {
            let (sender, receiver) = mpsc::channel(2);
            let mut trailers = http::HeaderMap::new();
            trailers.insert("x-checksum", "abc".parse().unwrap());
            sender.send(Frame::data("data".into())).await.unwrap();
            sender.send(Frame::trailers(trailers)).await.unwrap();
            Response::builder().header("trailer", "x-checksum").body(streamed(receiver)).unwrap()
        }
        "ws" => websocket(&state, &mut request, last),
        "socket" => {
            let protocol = request.headers()["upgrade"].clone();
            let upgrade = hyper::upgrade::on(&mut request);
            tokio::spawn(async move {
                let mut stream = TokioIo::new(upgrade.await.unwrap());
                let mut buffer = [0; 1024];
                while let Ok(n @ 1..) = stream.read(&mut buffer).await {
                    stream.write_all(&buffer[..n]).await.unwrap();
                }
            });
            Response::builder()
                .status(101)
                .header("connection", "upgrade")
                .header("upgrade", protocol)
                .body(full(""))
                .unwrap()
        }
        _ => Response::new(full(state.name.clone())),
    }
}

/// A WebSocket that answers (`/ws/echo`), talks without being asked (`/ws/busy`), sends one message whose
/// second half waits for `go` (`/ws/slow`), or breaks off without a word at `go` (`/ws/dies`).
fn websocket(state: &Arc<State>, request: &mut Request<Incoming>, manner: String) -> Answer {
    use tokio_tungstenite::WebSocketStream;
    use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
    use tokio_tungstenite::tungstenite::protocol::Role;
    let accept = derive_accept_key(request.headers()["sec-websocket-key"].as_bytes());
    let upgrade = hyper::upgrade::on(request);
    let state = state.clone();
    tokio::spawn(async move {
        let mut stream = TokioIo::new(upgrade.await.unwrap());
        if manner == "dies" {
            state.go.subscribe().changed().await.unwrap();
            return;
        }
        if manner == "slow" {
            let mut go = state.go.subscribe();
            let message = [&[0x82, 126, 0x01, 0x00][..], &[7; 256]].concat();
            stream.write_all(&message[..100]).await.unwrap();
            go.changed().await.unwrap();
            stream.write_all(&message[100..]).await.unwrap();
        }
        let socket = WebSocketStream::from_raw_socket(stream, Role::Server, None).await;
        talk(&state, socket, manner == "busy").await;
    });
    Response::builder()
        .status(101)
        .header("connection", "upgrade")
        .header("upgrade", "websocket")
        .header("sec-websocket-accept", accept)
        .body(full(""))
        .unwrap()
}

async fn talk(
    state: &State,
    mut socket: tokio_tungstenite::WebSocketStream<TokioIo<hyper::upgrade::Upgraded>>,
    busy: bool,
) {
    use futures_util::{SinkExt, StreamExt};
    use tokio_tungstenite::tungstenite::Message;
    let mut ticks = tokio::time::interval(Duration::from_millis(if busy { 1 } else { 3_600_000 }));
    ticks.tick().await;
    let mut size = 1;
    loop {
        let message = tokio::select! {
            message = socket.next() => message,
            _ = ticks.tick() => {
                // Every length of head, and messages longer than a read.
                size = size * 7 % 70_001;
                let _ = socket.send(Message::binary(vec![1; size])).await;
                continue;
            }
        };
        match message {
            Some(Ok(Message::Close(frame))) => {
                let code = frame.map_or(0, |frame| frame.code.into());
                state.closes.lock().unwrap().push(code);
            }
            Some(Ok(Message::Text(text))) if !busy => {
                state.posts.fetch_add(1, SeqCst);
                let _ = socket.send(Message::Text(text)).await;
            }
            Some(Ok(_)) => {}
            Some(Err(_)) | None => return,
        }
    }
}

/// An answer, read to its end.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub headers: http::HeaderMap,
    pub body: Bytes,
}

impl Reply {
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

/// One keep-alive connection to the edge.
pub struct Session {
    sender: SendRequest<BoxBody<Bytes, Infallible>>,
}

impl Session {
    pub async fn open(address: SocketAddr) -> Self {
        Self::over(TcpStream::connect(address).await.unwrap()).await
    }

    /// Speaks HTTP/1 on a stream that is there.
    pub async fn over(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> Self {
        let (sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        Self { sender }
    }

    pub async fn get(&mut self, host: &str, path: &str) -> Reply {
        self.ask("GET", host, path, &[], "").await
    }

    pub async fn ask(
        &mut self,
        method: &str,
        host: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> Reply {
        self.try_ask(method, host, path, headers, body).await.unwrap()
    }

    pub async fn try_ask(
        &mut self,
        method: &str,
        host: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> Result<Reply, hyper::Error> {
        self.sender.ready().await?;
        let response = self.start(method, host, path, headers, full(body.to_owned())).await?;
        let (parts, body) = response.into_parts();
        let body = body.collect().await?.to_bytes();
        Ok(Reply { status: parts.status.as_u16(), headers: parts.headers, body })
    }

    pub async fn start(
        &mut self,
        method: &str,
        host: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: BoxBody<Bytes, Infallible>,
    ) -> Result<Response<Incoming>, hyper::Error> {
        let mut request = Request::builder().method(method).uri(path).header("host", host);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.sender.send_request(request.body(body).unwrap()).await
    }
}

/// A body that the test feeds piece by piece.
pub fn fed() -> (mpsc::Sender<Frame<Bytes>>, BoxBody<Bytes, Infallible>) {
    let (sender, receiver) = mpsc::channel(1);
    (sender, streamed(receiver))
}

/// Sends `bytes` as they are, and reads until the edge closes.
pub async fn raw(address: SocketAddr, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    // The edge may refuse and close before it has read everything.
    let _ = stream.write_all(bytes).await;
    let mut answer = Vec::new();
    let _ = tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut answer))
        .await
        .expect("the edge neither answers to the end nor closes");
    String::from_utf8_lossy(&answer).into_owned()
}

/// Opens a tunnel of plain bytes through the edge to `/socket`.
pub async fn tunnel(address: SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!(
        "GET /socket HTTP/1.1\r\nhost: {HOST}\r\nconnection: Upgrade\r\nupgrade: bytes\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    let head = String::from_utf8(head).unwrap().to_ascii_lowercase();
    assert!(head.starts_with("http/1.1 101") && head.contains("upgrade: bytes"), "{head}");
    stream
}

/// Sends `text` into a tunnel and reads it back.
pub async fn echo(stream: &mut TcpStream, text: &str) {
    stream.write_all(text.as_bytes()).await.unwrap();
    let mut back = vec![0; text.len()];
    stream.read_exact(&mut back).await.unwrap();
    assert_eq!(back, text.as_bytes());
}
