//! Accepts client connections and speaks HTTP on them.

use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use std::net::SocketAddr;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};

use crate::guard::{Guard, State};
use crate::headers::Client;
use crate::pool::BUFFER;
use crate::proxy::{Connection, handle};
use crate::stream::Stream;
use crate::worker::Worker;

/// What a client gets when there are too many.
const FULL: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 2\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";

/// After the last answer, how long and how much a client may still send before it is cut off. Closing with
/// bytes unread would reset the connection, and the client might lose the answer.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES: usize = 256 * 1024;

/// Accepts until the edge stops.
pub async fn run(worker: &Rc<Worker>, listener: TcpListener) {
    let mut stop = worker.shared.stop.subscribe();
    loop {
        let accepted = tokio::select! {
            _ = stop.wait_for(|stop| *stop) => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, address)) => open(worker, stream, address),
            Err(error) => {
                // Out of descriptors, most likely: others will end in the meantime.
                tracing::warn!(%error, "cannot accept a connection");
                sleep(Duration::from_millis(50)).await;
            }
        }
    }
    // Connections that the kernel has completed already would be reset by closing the listener.
    while let Ok(Ok((stream, address))) = timeout(Duration::ZERO, listener.accept()).await {
        open(worker, stream, address);
    }
}

fn open(worker: &Rc<Worker>, stream: TcpStream, address: SocketAddr) {
    if !worker.has_room() {
        // One try: a client that cannot take it now is not waited for.
        let _ = stream.try_write(FULL);
        return;
    }
    let (worker, open) = (worker.clone(), worker.connection());
    tokio::task::spawn_local(async move {
        serve(worker, stream, address).await;
        drop(open);
    });
}

async fn serve(worker: Rc<Worker>, stream: TcpStream, address: SocketAddr) {
    // Without it the end of an answer may wait for an acknowledgement; nothing breaks.
    let _ = stream.set_nodelay(true);
    let stream = Stream(Arc::new(stream));
    let client = Client::new(address.ip(), false, &worker.shared.trusted);
    http1(worker, stream.clone(), stream, client, Vec::new()).await;
}

/// Speaks HTTP/1 on `stream`, from which `held` was read already; `tcp` is what lies below it.
pub async fn http1<S>(worker: Rc<Worker>, stream: S, tcp: Stream, client: Client, held: Vec<u8>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let state = Arc::new(State::default());
    let guard = Guard::new(stream, held, state.clone(), &worker.shared.limits);
    let mut stop = worker.shared.stop.subscribe();
    let connection = Rc::new(Connection { worker, client, state: state.clone() });
    let service = service_fn(move |request| handle(connection.clone(), request));
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
        // Its own time is the bound; how it ends does not matter.
        let _ = timeout(LINGER, linger(&tcp)).await;
    }
}

async fn linger(stream: &Stream) -> io::Result<()> {
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
