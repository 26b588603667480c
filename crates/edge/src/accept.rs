//! Accepts client connections and speaks HTTP on them.

use std::io::{self, Write};
use std::net::{SocketAddr, TcpStream};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use domain::route::Reason;
use http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{sleep, timeout};

use crate::body::ClientBody;
use crate::fast::{self, Outcome};
use crate::guard::{Guard, State};
use crate::headers::Client;
use crate::http2;
use crate::listener::{BACKLOG, Listener};
use crate::pool::BUFFER;
use crate::proxy::{Connection, handle};
use crate::stream::Stream;
use crate::tls::{self, Presented};
use crate::worker::Worker;

/// What a client gets when there are too many.
const FULL: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 2\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";

/// What a client gets when it has too many connections of its own.
const TOO_MANY: &[u8] = b"HTTP/1.1 429 Too Many Requests\r\nretry-after: 2\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";

/// After the last answer, how long and how much a client may still send before it is cut off. Closing with
/// bytes unread would reset the connection, and the client might lose the answer.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES: usize = 256 * 1024;

/// A client connection as it came.
pub struct Arrival {
    /// What lies below everything, to linger on.
    pub tcp: Stream,
    pub client: Client,
    /// The certificate that the client was shown, over TLS.
    pub presented: Option<Arc<Presented>>,
}

/// Accepts until the edge stops or another one took over.
pub async fn run(worker: &Rc<Worker>, listener: Listener, secure: bool) {
    let mut no_more = pin!(worker.shared.accepts_no_more());
    loop {
        let accepted = tokio::select! {
            () = &mut no_more => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, address)) => open(worker, stream, address, secure),
            Err(error) => {
                // Out of descriptors, most likely: others will end in the meantime.
                tracing::warn!(%error, "cannot accept a connection");
                sleep(Duration::from_millis(50)).await;
            }
        }
    }
    if worker.shared.leaving() {
        // The queue is the next edge's now.
        return;
    }
    // Connections that the kernel has completed already would be reset by closing the listener. No more of them than
    // were waiting: others may come as fast as these are taken.
    for _ in 0..=BACKLOG {
        let Ok((stream, address)) = listener.try_accept() else { return };
        open(worker, stream, address, secure);
    }
}

fn open(worker: &Rc<Worker>, stream: TcpStream, address: SocketAddr, secure: bool) {
    if !worker.has_room() {
        worker.turned_away(None, Reason::TooManyConnections, 503);
        return turn_away(stream, FULL, secure);
    }
    let Some(place) = worker.place(address.ip()) else {
        worker.turned_away(None, Reason::TooManyConnections, 429);
        return turn_away(stream, TOO_MANY, secure);
    };
    let tcp = match tokio::net::TcpStream::from_std(stream) {
        Ok(tcp) => Stream::accepted(tcp),
        Err(error) => return tracing::warn!(%error, "cannot serve a connection"),
    };
    let (worker, open) = (worker.clone(), worker.connection());
    tokio::task::spawn_local(async move {
        serve(worker, tcp, address, secure).await;
        drop((open, place));
    });
}

fn turn_away(mut stream: TcpStream, answer: &[u8], secure: bool) {
    if !secure {
        // One try: a client that cannot take it now is not waited for.
        let _ = stream.write(answer);
    }
}

async fn serve(worker: Rc<Worker>, tcp: Stream, address: SocketAddr, secure: bool) {
    let client = Client::new(address.ip(), secure, &worker.shared.trusted);
    let arrival = Arrival { tcp: tcp.clone(), client, presented: None };
    if secure {
        // A plain connection needs no room for this.
        return Box::pin(serve_tls(worker, tcp, arrival)).await;
    }
    http1(worker, tcp, arrival).await;
}

async fn serve_tls(worker: Rc<Worker>, tcp: Stream, mut arrival: Arrival) {
    let tls = worker.shared.tls.load_full();
    // Nor does one whose handshake is over need room for it.
    let secured = match Box::pin(tls::handshake(&tls, tcp, &worker.shared.limits)).await {
        Ok(Some(secured)) => secured,
        Ok(None) => return,
        Err(error) => return tracing::debug!(%error, "no TLS with a client"),
    };
    // A connection may stay for long; the certificates may change.
    drop(tls);
    arrival.presented = Some(secured.certificate);
    if secured.http2 {
        Box::pin(http2::serve(worker, secured.stream, arrival)).await;
    } else {
        http1(worker, secured.stream, arrival).await;
    }
}

/// Speaks HTTP/1 on `stream`: on the fast path as long as the client asks for nothing unusual.
async fn http1<S>(worker: Rc<Worker>, stream: S, arrival: Arrival)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    if !worker.shared.limits.fast {
        return Box::pin(through_hyper(worker, stream, arrival, Vec::new())).await;
    }
    match fast::serve(&worker, &arrival, stream).await {
        Outcome::Closed => {}
        Outcome::Unusual { stream, unread } => {
            // A connection that stays on the fast path needs no room for this.
            Box::pin(through_hyper(worker, stream, arrival, unread)).await;
        }
    }
}

/// `held` was read from `stream` already.
async fn through_hyper<S>(worker: Rc<Worker>, stream: S, arrival: Arrival, held: Vec<u8>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let tcp = arrival.tcp.clone();
    let state = Arc::new(State::default());
    let guard = Guard::new(stream, held, state.clone(), &worker.shared.limits);
    let mut stop = worker.shared.stop.subscribe();
    let connection = Rc::new(Connection { worker, arrival, state: state.clone() });
    let service = service_fn(move |request: Request<Incoming>| {
        handle(connection.clone(), request.map(ClientBody::Http1))
    });
    let serving = http1::Builder::new()
        .max_buf_size(BUFFER)
        .serve_connection(TokioIo::new(guard), service)
        .with_upgrades();
    tokio::pin!(serving);
    let served = tokio::select! {
        served = serving.as_mut() => served,
        _ = stop.wait_for(|stop| *stop) => {
            serving.as_mut().graceful_shutdown();
            serving.as_mut().await
        }
    };
    if let Err(error) = served {
        tracing::debug!(%error, "client connection ended");
    }
    if state.refused.load(Ordering::Relaxed) {
        linger(&tcp).await;
    }
}

/// Ends a connection whose client may still be sending.
pub async fn linger(stream: &Stream) {
    // Its own time is the bound; how it ends does not matter.
    let _ = timeout(LINGER, drain(stream)).await;
}

async fn drain(stream: &Stream) -> io::Result<()> {
    stream.close_write()?;
    let mut buffer = [0; 4096];
    let mut left = LINGER_BYTES;
    while left > 0 {
        let read = std::future::poll_fn(|cx| stream.poll_fill(cx, &mut buffer)).await?;
        if read == 0 {
            break;
        }
        left = left.saturating_sub(read);
    }
    Ok(())
}
