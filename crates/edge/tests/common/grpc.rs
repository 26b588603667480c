//! A server that speaks HTTP/2 only and answers as gRPC servers do: data, then a status in the trailers.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use domain::Color;
use domain::route::Table;
use domain::slot::Endpoint;
use http::HeaderMap;
use http_body_util::BodyExt;
use http_body_util::combinators::BoxBody;
use hyper::body::{Frame, Incoming};
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet};

pub struct GrpcBackend {
    address: SocketAddr,
    state: Arc<State>,
    task: JoinHandle<()>,
}

#[derive(Default)]
struct State {
    connections: AtomicUsize,
    seen: Mutex<HeaderMap>,
}

impl GrpcBackend {
    pub async fn start() -> Self {
        Self::on("127.0.0.1:0".parse().unwrap()).await
    }

    pub async fn on(address: SocketAddr) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(State::default());
        let shared = state.clone();
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let state = shared.clone();
                let service = hyper::service::service_fn(move |request| {
                    let state = state.clone();
                    async move { Ok::<_, Infallible>(echo(&state, request)) }
                });
                let state = shared.clone();
                connections.spawn(async move {
                    let mut first = [0];
                    if matches!(stream.peek(&mut first).await, Ok(1)) {
                        state.connections.fetch_add(1, SeqCst);
                    }
                    let serving = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                        .serve_connection(TokioIo::new(stream), service);
                    // A health check connects and leaves.
                    let _ = serving.await;
                });
            }
        });
        Self { address, state, task }
    }

    /// Everything goes to it; its health is that it takes connections.
    pub fn table(&self, epoch: u64) -> Table {
        let endpoints = vec![Endpoint::Http(self.address)];
        let mut slot = super::slot(1, &[("/", "backend", endpoints)]);
        slot.routes[0].health = None;
        super::table(epoch, Color::Blue, &[(Color::Blue, slot)])
    }

    /// Connections on which something was said.
    pub fn connections(&self) -> usize {
        self.state.connections.load(SeqCst)
    }

    /// The fields of the last request.
    pub fn seen(&self) -> HeaderMap {
        self.state.seen.lock().unwrap().clone()
    }

    pub async fn die(self) -> SocketAddr {
        self.task.abort();
        let _ = self.task.await;
        self.address
    }
}

/// Sends each piece back as it comes, then the trailers.
fn echo(state: &State, request: Request<Incoming>) -> Response<BoxBody<Bytes, Infallible>> {
    *state.seen.lock().unwrap() = request.headers().clone();
    let (sender, receiver) = mpsc::channel(1);
    let mut body = request.into_body();
    tokio::spawn(async move {
        while let Some(Ok(frame)) = body.frame().await {
            if let Ok(data) = frame.into_data()
                && sender.send(Frame::data(data)).await.is_err()
            {
                return;
            }
        }
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", "0".parse().unwrap());
        let _ = sender.send(Frame::trailers(trailers)).await;
    });
    let response = Response::builder().header("content-type", "application/grpc");
    response.body(super::streamed(receiver)).unwrap()
}
