//! Requests that no honest client sends: refused by the edge itself, and never seen by a replica.

use std::time::Duration;

use crate::common::*;
use edge::Limits;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

async fn edge_and_backend(limits: Limits) -> (TestEdge, Backend) {
    let backend = Backend::start("backend").await;
    let edge = TestEdge::with(limits);
    edge.client.publish(&simple(1, &[&backend])).await.unwrap();
    (edge, backend)
}

#[tokio::test]
async fn a_request_that_can_be_read_in_two_ways_is_refused_and_ends_its_connection() {
    let (edge, backend) = edge_and_backend(limits()).await;
    let smuggled = format!("GET /smuggled HTTP/1.1\r\nhost: {HOST}\r\n\r\n");
    let post = format!("POST /echo HTTP/1.1\r\nhost: {HOST}\r\n");
    let big = format!("x-big: {}\r\n", "a".repeat(40_000));
    let many = (0..150).map(|n| format!("x-{n}: 1\r\n")).collect::<String>();
    let long = format!("GET /{} HTTP/1.1\r\nhost: {HOST}\r\n\r\n", "a".repeat(9_000));
    let cases: Vec<(&str, String)> = vec![
        ("400", format!("{post}content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n")),
        ("400", format!("{post}transfer-encoding: chunked\r\ncontent-length: 5\r\n\r\n0\r\n\r\n")),
        ("501", format!("{post}transfer-encoding: chunked, chunked\r\n\r\n0\r\n\r\n")),
        (
            "400",
            format!(
                "{post}transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n"
            ),
        ),
        ("501", format!("{post}transfer-encoding: identity\r\n\r\n")),
        ("400", format!("{post}transfer-encoding : chunked\r\n\r\n0\r\n\r\n")),
        ("400", format!("{post}content-length: 1\r\ncontent-length: 1\r\n\r\na")),
        ("400", format!("{post}content-length: 1\r\ncontent-length: 2\r\n\r\nab")),
        ("400", format!("{post}content-length: -1\r\n\r\n")),
        ("400", format!("{post}host: other.localhost\r\n\r\n")),
        ("400", format!("{post}x-folded: a\r\n b\r\n\r\n")),
        ("400", format!("{post}x-bare: a\nb: c\r\n\r\n")),
        ("400", format!("{post}x-null: a\0\r\n\r\n")),
        ("400", format!("{post}x name: a\r\n\r\n")),
        ("400", "GET / HTTP/1.1\r\nx: no host\r\n\r\n".into()),
        ("400", format!("GET / HTTP/1.1\nhost: {HOST}\n\n")),
        ("400", format!("GET http://other.localhost/ HTTP/1.1\r\nhost: {HOST}\r\n\r\n")),
        ("400", format!("GET /a/../b HTTP/1.1\r\nhost: {HOST}\r\n\r\n")),
        ("400", format!("GET /a/%2e%2e/b HTTP/1.1\r\nhost: {HOST}\r\n\r\n")),
        ("400", format!("GET /a b HTTP/1.1\r\nhost: {HOST}\r\n\r\n")),
        ("400", format!("CONNECT {HOST}:80 HTTP/1.1\r\nhost: {HOST}\r\n\r\n")),
        ("400", format!("REFUSED /200 HTTP/1.1\r\nhost: {HOST}\r\n\r\n")),
        ("505", format!("GET / HTTP/3.0\r\nhost: {HOST}\r\n\r\n")),
        ("400", "\u{16}\u{3}\u{1}\u{2}\0 this is no HTTP\r\n\r\n".into()),
        ("431", format!("{post}{big}\r\n")),
        ("431", format!("{post}{many}\r\n")),
        ("414", long),
    ];
    for (status, request) in cases {
        let answer = raw(edge.address, (request.clone() + &smuggled).as_bytes()).await;
        let shown = &request[..request.len().min(200)];
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{shown}: {answer}");
        assert_eq!(answer.matches("HTTP/1.1").count(), 1, "{shown}: {answer}");
        assert!(answer.contains("connection: close"), "{shown}: {answer}");
    }
    assert_eq!(backend.requests(), 0, "a replica saw a hostile request");
}

#[tokio::test]
async fn an_odd_chunked_body_breaks_off_and_nothing_after_it_is_taken_for_a_request() {
    let (edge, backend) = edge_and_backend(limits()).await;
    let smuggled = format!("GET /smuggled HTTP/1.1\r\nhost: {HOST}\r\n\r\n");
    for body in ["zz\r\n", "3\nabc\n0\n\n", "3\r\nabcd\r\n0\r\n\r\n", "-3\r\nabc\r\n0\r\n\r\n"] {
        let request = format!(
            "POST /upload HTTP/1.1\r\nhost: {HOST}\r\ntransfer-encoding: chunked\r\n\r\n{body}{smuggled}"
        );
        let answer = raw(edge.address, request.as_bytes()).await;
        assert!(!answer.starts_with("HTTP/1.1 2"), "{body:?}: {answer}");
    }
    let mut session = Session::open(edge.address).await;
    session.get(HOST, "/who").await;
    assert_eq!(
        backend.requests() - backend.state.posts.load(std::sync::atomic::Ordering::SeqCst),
        1
    );
}

#[tokio::test]
async fn a_head_that_never_ends_is_cut_off_and_a_silent_connection_is_closed() {
    let short = Duration::from_millis(300);
    let (edge, _backend) = edge_and_backend(Limits { head: short, idle: short, ..limits() }).await;
    let slow = raw(edge.address, b"GET / HTTP/1.1\r\nhost:").await;
    assert!(slow.starts_with("HTTP/1.1 408 "), "{slow}");
    assert_eq!(raw(edge.address, b"").await, "");
    let upload = format!("POST /upload HTTP/1.1\r\nhost: {HOST}\r\ncontent-length: 10\r\n\r\nabc");
    let stalled = raw(edge.address, upload.as_bytes()).await;
    assert!(!stalled.starts_with("HTTP/1.1 2"), "{stalled}");
    // Bytes that trickle do not buy more time for a head.
    let mut stream = TcpStream::connect(edge.address).await.unwrap();
    let (mut reading, mut writing) = stream.split();
    let trickle = async {
        loop {
            if writing.write_all(b"x").await.is_err() {
                std::future::pending::<()>().await;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let mut answer = Vec::new();
    tokio::select! {
        () = trickle => {}
        read = reading.read_to_end(&mut answer) => { read.ok(); }
    }
    assert!(answer.starts_with(b"HTTP/1.1 408 "));
}

#[tokio::test]
async fn a_slow_answer_is_not_mistaken_for_an_idle_client() {
    let idle = Duration::from_millis(200);
    let (edge, backend) = edge_and_backend(Limits { idle, ..limits() }).await;
    let address = edge.address;
    let held = tokio::spawn(async move {
        let mut session = Session::open(address).await;
        let first = session.get(HOST, "/hold").await.text().to_owned();
        (first, session.get(HOST, "/who").await.text().to_owned())
    });
    eventually("the request is in flight", async || backend.requests() == 1).await;
    tokio::time::sleep(idle * 3).await;
    backend.go();
    assert_eq!(held.await.unwrap(), ("backend".into(), "backend".into()));
}

#[tokio::test]
async fn more_connections_than_allowed_are_turned_away() {
    let (edge, _backend) = edge_and_backend(Limits { connections: 4, ..limits() }).await;
    let mut open = Vec::new();
    // Two workers with a share of two each: the fifth connection is one too many for one of them.
    for _ in 0..5 {
        open.push(TcpStream::connect(edge.address).await.unwrap());
    }
    let turned_away = async |stream: &mut TcpStream| {
        let mut byte = [0];
        let read = tokio::time::timeout(Duration::from_millis(200), stream.read(&mut byte)).await;
        matches!(read, Ok(Ok(1)))
    };
    let mut count = 0;
    for stream in &mut open {
        count += usize::from(turned_away(stream).await);
    }
    assert!(count >= 1);
    drop(open);
    eventually("there is room again", async || {
        let mut session = Session::open(edge.address).await;
        session.try_ask("GET", HOST, "/who", &[], "").await.is_ok_and(|reply| reply.status == 200)
    })
    .await;
}
