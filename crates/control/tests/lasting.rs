//! Clients that stay, against servers on loopback that end their connections in every way.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use control::load::{ClientKind, Lasting, LastingLoad, LastingReport, Target};
use futures_util::{SinkExt as _, StreamExt as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, sleep};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

/// A server whose nth connection is given to `serve`.
async fn server<F, R>(serve: F) -> SocketAddr
where
    F: Fn(TcpStream, usize) -> R + Send + Sync + 'static,
    R: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let count = AtomicUsize::new(0);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream, count.fetch_add(1, Ordering::SeqCst)));
        }
    });
    address
}

async fn socket(stream: TcpStream) -> WebSocketStream<TcpStream> {
    let mut socket = tokio_tungstenite::accept_async(stream).await.unwrap();
    socket.send("tea".into()).await.unwrap();
    socket
}

async fn close(mut socket: WebSocketStream<TcpStream>, code: u16) {
    let frame = CloseFrame { code: CloseCode::from(code), reason: "".into() };
    socket.close(Some(frame)).await.unwrap();
    while socket.next().await.is_some() {}
}

/// The head of an answer that streams events in chunks.
const EVENTS: &str = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\n\
                      transfer-encoding: chunked\r\n\r\n9\r\ndata: x\n\n\r\n";

async fn events(stream: &mut TcpStream, rest: &str) {
    let mut request = [0; 4096];
    let _ = stream.read(&mut request).await.unwrap();
    stream.write_all(EVENTS.as_bytes()).await.unwrap();
    stream.write_all(rest.as_bytes()).await.unwrap();
}

fn load(connect: SocketAddr) -> LastingLoad {
    LastingLoad::new(Target { connect, host: "shop.localhost".into() })
}

fn websocket(connect: SocketAddr) -> Lasting {
    Lasting::start(LastingLoad { websockets: 1, ..load(connect) })
}

fn event_stream(connect: SocketAddr) -> Lasting {
    Lasting::start(LastingLoad { event_streams: 1, ..load(connect) })
}

/// The first report that satisfies `done`.
async fn until(lasting: &Lasting, done: impl Fn(&LastingReport) -> bool) -> LastingReport {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let report = lasting.report();
        if done(&report) {
            return report;
        }
        assert!(Instant::now() < deadline, "not within ten seconds: {report:#?}");
        sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_websocket_that_is_told_to_come_back_comes_back_and_was_closed_politely() {
    let codes = [1012, 1001, 1000];
    let address = server(move |stream, nth| async move {
        let socket = socket(stream).await;
        match codes.get(nth) {
            Some(code) => close(socket, *code).await,
            None => std::future::pending().await,
        }
    })
    .await;
    let lasting = websocket(address);
    let report = until(&lasting, |report| report.websockets.messages == 4).await;
    let counts = report.websockets;
    assert_eq!((counts.open, counts.opened, counts.abnormal), (1, 4, 0));
    let polite: Vec<_> = counts.polite.iter().map(|(code, n)| (code.as_str(), *n)).collect();
    assert_eq!(polite, [("1000", 1), ("1001", 1), ("1012", 1)]);
    assert!(report.incidents.is_empty());
}

#[tokio::test]
async fn a_websocket_whose_connection_just_ends_was_closed_abnormally() {
    let address = server(|stream, nth| async move {
        let socket = socket(stream).await;
        match nth {
            0 => drop(socket),
            1 => {
                // A reset instead of an end.
                socket.get_ref().set_zero_linger().unwrap();
                drop(socket);
            }
            2 => close(socket, 1011).await,
            _ => std::future::pending().await,
        }
    })
    .await;
    let lasting = websocket(address);
    let report = until(&lasting, |report| report.websockets.messages == 4).await;
    assert_eq!((report.websockets.abnormal, report.polite()), (3, 0), "{report:#?}");
    let why: Vec<&str> = report.incidents.iter().map(|incident| incident.why.as_str()).collect();
    assert!(why[0].starts_with("1006") && why[1].starts_with("1006"), "{why:?}");
    assert!(why[2].contains("1011"), "{why:?}");
}

#[tokio::test]
async fn a_stream_that_ends_between_two_events_ended_politely_and_any_other_end_is_abnormal() {
    let address = server(|mut stream, nth| async move {
        match nth {
            0 => events(&mut stream, "0\r\n\r\n").await,
            1 => events(&mut stream, "").await,
            2 => events(&mut stream, "8\r\ndata: y\n\r\n0\r\n\r\n").await,
            3 => events(&mut stream, "20\r\ndata: y\n").await,
            _ => {
                events(&mut stream, "").await;
                std::future::pending().await
            }
        }
    })
    .await;
    let lasting = event_stream(address);
    let report = until(&lasting, |report| report.event_streams.opened == 5).await;
    let counts = &report.event_streams;
    assert_eq!((counts.polite.get("end"), counts.abnormal), (Some(&1), 3), "{report:#?}");
    assert!(report.incidents[1].why.contains("in the middle of an event"), "{report:#?}");
    assert!(report.incidents.iter().all(|i| i.client == ClientKind::EventStream && !i.opening));
}

#[tokio::test]
async fn an_open_that_fails_is_counted_apart_and_tried_again() {
    let address = server(|mut stream, nth| async move {
        if nth < 2 {
            let mut request = [0; 4096];
            let _ = stream.read(&mut request).await.unwrap();
            let busy = "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n";
            stream.write_all(busy.as_bytes()).await.unwrap();
            return;
        }
        socket(stream).await.next().await;
    })
    .await;
    let lasting = websocket(address);
    let report = until(&lasting, |report| report.websockets.messages == 1).await;
    assert_eq!((report.websockets.failed_opens, report.abnormal()), (2, 0));
    assert!(report.incidents[0].opening && report.incidents[0].why.contains("503"));
}

#[tokio::test]
async fn silence_is_counted_and_a_connection_that_stays_silent_is_given_up() {
    let served = Arc::new(AtomicUsize::new(0));
    let address = server({
        let served = Arc::clone(&served);
        move |stream, _| {
            served.fetch_add(1, Ordering::SeqCst);
            async move {
                socket(stream).await.next().await;
            }
        }
    })
    .await;
    let silence = Duration::from_millis(30);
    let lasting = Lasting::start(LastingLoad { websockets: 1, silence, ..load(address) });
    let report = until(&lasting, |report| report.websockets.opened == 2).await;
    assert!(report.websockets.silences >= 6, "{report:#?}");
    assert!(report.incidents[0].why.contains("silent"), "{report:#?}");
    assert_eq!(lasting.stop().await.websockets.abnormal, 1);
    assert_eq!(served.load(Ordering::SeqCst), 2);
}
