//! One release of an app: an HTTP server in this process whose every answer says, in its head, at the beginning
//! and at the end of its body, which release it is.
//!
//! Like most servers it does not know of switches: told to stop, it finishes the answers that have an end, and
//! just closes everything else.

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Empty, Full};
use hyper::body::{Body, Frame, Incoming};
use hyper::header::{CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, UPGRADE};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::time::{sleep, timeout};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};

use crate::peers::{Outcome, failing};

/// A download takes this many pieces, one each [`PIECE_EVERY`]: two seconds.
pub const PIECES: usize = 20;
pub const PIECE_EVERY: Duration = Duration::from_millis(100);
pub const PIECE: usize = 10 * 1024;
pub const RELEASE: &str = "x-release";

const ASSET: usize = 4 * 1024;
const API: usize = 256;
/// Between two messages of a WebSocket or a stream of events.
const TICK: Duration = Duration::from_secs(1);
/// For answers under way when the release is stopped.
const GRACE: Duration = Duration::from_millis(500);

/// A running release. Dropping it stops it.
pub struct Release {
    pub address: SocketAddr,
    _stop: watch::Sender<()>,
}

type Answer = Response<BoxBody<Bytes, Infallible>>;

impl Release {
    /// Listens on a free port, in the runtime it is called in.
    pub async fn start(number: u64) -> Outcome<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await;
        let listener = listener.map_err(failing("opening a port for a release"))?;
        let address = listener.local_addr().map_err(failing("naming the port of a release"))?;
        let (stop, stopped) = watch::channel(());
        tokio::spawn(accept(listener, number, stopped));
        Ok(Self { address, _stop: stop })
    }
}

/// The text that all answers of a release begin and end with.
pub fn mark(number: u64) -> String {
    format!("release {number:08}\n")
}

async fn accept(listener: TcpListener, number: u64, mut stopped: watch::Receiver<()>) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stopped.changed() => return,
        };
        match accepted {
            Ok((stream, _)) => drop(tokio::spawn(serve(stream, number, stopped.clone()))),
            // Out of files, most likely: others have to close first.
            Err(_) => sleep(Duration::from_millis(10)).await,
        }
    }
}

async fn serve(stream: TcpStream, number: u64, mut stopped: watch::Receiver<()>) {
    // Only affects speed, so a refusal is no failure.
    let _ = stream.set_nodelay(true);
    let service = service_fn({
        let stopped = stopped.clone();
        move |request| {
            let stopped = stopped.clone();
            async move { Ok::<_, Infallible>(answer(request, number, stopped).await) }
        }
    });
    let serving =
        http1::Builder::new().serve_connection(TokioIo::new(stream), service).with_upgrades();
    tokio::pin!(serving);
    tokio::select! {
        // How a proxy left is seen by the clients behind it.
        _ = &mut serving => return,
        _ = stopped.changed() => {}
    }
    serving.as_mut().graceful_shutdown();
    let _ = timeout(GRACE, serving).await;
}

async fn answer(request: Request<Incoming>, number: u64, stopped: watch::Receiver<()>) -> Answer {
    let head = Response::builder().header(RELEASE, number);
    let answer = match request.uri().path() {
        "/live" => return live(request, number, stopped),
        "/events" => {
            let tick = format!("data: {}\n", mark(number)).into_bytes();
            head.header("content-type", "text/event-stream").body(pieces(tick, usize::MAX, TICK))
        }
        "/download" => head.body(pieces(marked(number, PIECE).into_bytes(), PIECES, PIECE_EVERY)),
        "/upload" | "/order" => {
            let uploaded = request.into_body().collect().await;
            let size = uploaded.map(|body| body.to_bytes().len());
            // The proxy broke off; nobody reads the answer.
            let size = size.unwrap_or(0);
            head.body(full(format!("{}{size}\n{}", mark(number), mark(number))))
        }
        "/asset" => head.body(full(marked(number, ASSET))),
        _ => head.body(full(marked(number, API))),
    };
    answer.unwrap_or_else(|_| Response::new(full("the answer could not be made")))
}

fn full(text: impl Into<Bytes>) -> BoxBody<Bytes, Infallible> {
    Full::new(text.into()).boxed()
}

/// The mark, something, the mark: `size` bytes.
fn marked(number: u64, size: usize) -> String {
    let mark = mark(number);
    format!("{mark}{}\n{mark}", "x".repeat(size - 2 * mark.len() - 1))
}

/// Upgrades, tells the release each second, and ends without a word when the release is stopped.
fn live(request: Request<Incoming>, number: u64, mut stopped: watch::Receiver<()>) -> Answer {
    let Some(key) = request.headers().get(SEC_WEBSOCKET_KEY).cloned() else {
        let mut refused = Response::new(Empty::new().boxed());
        *refused.status_mut() = StatusCode::BAD_REQUEST;
        return refused;
    };
    tokio::spawn(async move {
        let Ok(upgraded) = hyper::upgrade::on(request).await else { return };
        let config = WebSocketConfig::default().read_buffer_size(1024).write_buffer_size(0);
        let io = TokioIo::new(upgraded);
        let mut socket = WebSocketStream::from_raw_socket(io, Role::Server, Some(config)).await;
        let mut tick = tokio::time::interval(TICK);
        loop {
            tokio::select! {
                _ = tick.tick() => if socket.send(mark(number).into()).await.is_err() { return },
                heard = socket.next() => if !matches!(heard, Some(Ok(_))) { return },
                _ = stopped.changed() => return,
            }
        }
    });
    let answer = Response::builder()
        .status(StatusCode::SWITCHING_PROTOCOLS)
        .header(CONNECTION, "upgrade")
        .header(UPGRADE, "websocket")
        .header(SEC_WEBSOCKET_ACCEPT, derive_accept_key(key.as_bytes()))
        .body(Empty::new().boxed());
    answer.unwrap_or_else(|_| Response::new(full("the answer could not be made")))
}

/// `count` times `piece`, one each `every`.
fn pieces(piece: Vec<u8>, count: usize, every: Duration) -> BoxBody<Bytes, Infallible> {
    let (sender, receiver) = mpsc::channel(1);
    let piece = Bytes::from(piece);
    tokio::spawn(async move {
        for _ in 0..count {
            // Nobody listens any more.
            if sender.send(piece.clone()).await.is_err() {
                return;
            }
            tokio::select! {
                () = sleep(every) => {}
                () = sender.closed() => return,
            }
        }
    });
    Pieces(receiver).boxed()
}

struct Pieces(mpsc::Receiver<Bytes>);

impl Body for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(cx).map(|piece| piece.map(|piece| Ok(Frame::data(piece))))
    }
}
