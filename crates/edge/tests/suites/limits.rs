//! What one client may take, and who is believed about where a request comes from.

use std::net::SocketAddr;
use std::time::Duration;

use crate::common::*;
use domain::Color;
use domain::route::Table;
use domain::units::Size;
use edge::{Client, Edge, EdgeConfig, Limits};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A table whose one route takes bodies of at most ten bytes.
fn ten_bytes(backend: &Backend) -> Table {
    let mut slot = all_to(1, &[backend]);
    slot.routes[0].max_body = Some(Size(10));
    table(1, Color::Blue, &[(Color::Blue, slot)])
}

fn post(framing: &str, body: &str) -> String {
    format!("POST /echo HTTP/1.1\r\nhost: {HOST}\r\nconnection: close\r\n{framing}\r\n\r\n{body}")
}

#[tokio::test]
async fn a_body_that_is_too_large_by_its_length_never_reaches_a_replica() {
    let backend = Backend::start("backend").await;
    let edge = TestEdge::start();
    edge.client.publish(&ten_bytes(&backend)).await.unwrap();
    let within = raw(edge.address, post("content-length: 10", "0123456789").as_bytes()).await;
    assert!(within.starts_with("HTTP/1.1 200 ") && within.ends_with("0123456789"), "{within}");
    let beyond = raw(edge.address, post("content-length: 11", "0123456789a").as_bytes()).await;
    assert!(beyond.starts_with("HTTP/1.1 413 "), "{beyond}");
    // A client that asks before it sends hears it without having sent anything.
    let asking = post("content-length: 5000\r\nexpect: 100-continue", "");
    let told = raw(edge.address, asking.as_bytes()).await;
    assert!(told.starts_with("HTTP/1.1 413 "), "{told}");
    assert_eq!(backend.requests(), 1);
}

#[tokio::test]
async fn a_body_that_turns_out_too_large_is_cut_and_ends_its_connection() {
    let backend = Backend::start("backend").await;
    let edge = TestEdge::start();
    edge.client.publish(&ten_bytes(&backend)).await.unwrap();
    let chunked = "transfer-encoding: chunked";
    let within = post(chunked, "5\r\n01234\r\n5\r\n56789\r\n0\r\n\r\n");
    let within = raw(edge.address, within.as_bytes()).await;
    assert!(within.starts_with("HTTP/1.1 200 ") && within.contains("0123456789"), "{within}");
    let hidden = format!("GET /hidden HTTP/1.1\r\nhost: {HOST}\r\n\r\n");
    let mut beyond = post(chunked, "5\r\n01234\r\n4000\r\n") + &"x".repeat(0x4000);
    beyond += &format!("\r\n0\r\n\r\n{hidden}");
    let beyond = raw(edge.address, beyond.as_bytes()).await;
    assert!(beyond.starts_with("HTTP/1.1 413 "), "{beyond}");
    assert_eq!(beyond.matches("HTTP/1.1").count(), 1, "{beyond}");
}

#[tokio::test]
async fn a_body_that_is_none_is_answered_with_400_and_ends_its_connection() {
    let backend = Backend::start("backend").await;
    let edge = TestEdge::start();
    edge.client.publish(&simple(1, &[&backend])).await.unwrap();
    let odd = [
        "zz\r\n",
        "0x3\r\nabc\r\n",
        "3\r\nabcX\r\n",
        "3\r\nabc\r\nzz\r\n",
        "ffffffffffffffffff\r\n",
        "3\nabc\n0\n\n",
    ];
    for body in odd {
        let asked = post("transfer-encoding: chunked", body);
        let told = raw(edge.address, asked.as_bytes()).await;
        assert!(told.starts_with("HTTP/1.1 400 "), "{body:?}: {told:?}");
        assert!(told.contains("x-request-id: "), "{body:?}: {told:?}");
    }
}

#[tokio::test]
async fn a_body_that_trickles_is_cut_and_one_that_flows_is_not() {
    let idle = Duration::from_millis(400);
    let backend = Backend::start("backend").await;
    let edge = TestEdge::with(Limits { idle, ..limits() });
    edge.client.publish(&simple(1, &[&backend])).await.unwrap();
    for (piece, status) in [(1, "408"), (20_000, "200")] {
        let stream = TcpStream::connect(edge.address).await.unwrap();
        let (mut reading, mut writing) = stream.into_split();
        let total = piece * 16;
        let sending = tokio::spawn(async move {
            let head = post(&format!("content-length: {total}"), "");
            let mut sent = writing.write_all(head.as_bytes()).await;
            for _ in 0..16 {
                tokio::time::sleep(idle / 8).await;
                sent = sent.and(writing.write_all(&vec![b'x'; piece]).await);
            }
            // Cut off or not: what was answered tells. Ending it here would look like leaving.
            (sent, writing)
        });
        let mut answer = Vec::new();
        let _ =
            tokio::time::timeout(Duration::from_secs(20), reading.read_to_end(&mut answer)).await;
        let answer = String::from_utf8_lossy(&answer[..answer.len().min(200)]).into_owned();
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{piece}: {answer}");
        drop(sending.await.unwrap());
    }
}

/// An edge of one worker that believes `trusted`.
fn edge_that_trusts(
    trusted: &[&str],
    limits: Limits,
) -> (Edge, SocketAddr, Client, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let config = EdgeConfig {
        state: folder.path().join("edge"),
        workers: Some(1),
        trusted_proxies: trusted.iter().map(|network| network.parse().unwrap()).collect(),
        ..EdgeConfig::default()
    };
    let edge = Edge::start(&config, limits).unwrap();
    let (address, client) = (edge.address(), Client::new(config.state.join("control.sock")));
    (edge, address, client, folder)
}

#[tokio::test]
async fn one_address_has_its_number_of_connections_and_a_trusted_proxy_as_many_as_it_needs() {
    let limits = || Limits { connections_per_address: 3, ..limits() };
    for (trusted, turned_away) in [(&["10.0.0.0/8"][..], 2), (&["10.0.0.0/8", "127.0.0.1/32"], 0)] {
        let (edge, address, _client, _folder) = edge_that_trusts(trusted, limits());
        let mut open = Vec::new();
        for _ in 0..5 {
            open.push(TcpStream::connect(address).await.unwrap());
        }
        let mut told = 0;
        for stream in &mut open {
            let mut answer = Vec::new();
            let reading = stream.read_to_end(&mut answer);
            // Whoever has a place hears nothing.
            if tokio::time::timeout(Duration::from_millis(200), reading).await.is_ok() {
                assert!(answer.starts_with(b"HTTP/1.1 429 "), "{answer:?}");
                told += 1;
            }
        }
        assert_eq!(told, turned_away);
        drop(open);
        eventually("the places are free again", async || {
            let nobody =
                raw(address, b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
            nobody.starts_with("HTTP/1.1 404 ")
        })
        .await;
        tokio::task::spawn_blocking(move || edge.stop()).await.unwrap();
    }
}

#[tokio::test]
async fn a_trusted_proxy_is_believed_and_what_it_said_is_passed_on() {
    let backend = Backend::start("backend").await;
    let (edge, address, client, _folder) = edge_that_trusts(&["::ffff:127.0.0.0/104"], limits());
    client.publish(&simple(1, &[&backend])).await.unwrap();
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let sent = [
        ("x-forwarded-for", "6.6.6.6, 1.2.3.4"),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-host", "shop.example"),
        ("x-forwarded-port", "443"),
        ("x-request-id", "mine-1"),
        ("traceparent", trace),
        ("tracestate", "a=b"),
    ];
    let reply = Session::open(address).await.ask("GET", HOST, "/headers", &sent, "").await;
    let ours = format!("for=127.0.0.1;host=\"{HOST}\";proto=http");
    for line in [
        "x-forwarded-for: 6.6.6.6, 1.2.3.4, 127.0.0.1".to_owned(),
        "x-forwarded-proto: https".into(),
        "x-forwarded-host: shop.example".into(),
        "x-forwarded-port: 443".into(),
        format!("forwarded: for=6.6.6.6, for=1.2.3.4, {ours}"),
        "x-request-id: mine-1".into(),
        format!("traceparent: {trace}"),
        "tracestate: a=b".into(),
    ] {
        assert!(reply.text().lines().any(|l| l == line), "no `{line}` in {}", reply.text());
    }
    assert_eq!(reply.header("x-request-id"), "mine-1");
    tokio::task::spawn_blocking(move || edge.stop()).await.unwrap();
}
