//! Bodies, upgrades and failures of replicas: what must come through, and what must not be sent twice.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use crate::common::*;
use bytes::Bytes;
use domain::Color::Blue;
use domain::route::Table;
use domain::slot::Endpoint;
use http_body_util::BodyExt;
use hyper::body::Frame;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

#[tokio::test]
async fn events_pass_as_they_come() {
    let backend = Backend::start("backend").await;
    let edge = TestEdge::start();
    edge.client.publish(&simple(1, &[&backend])).await.unwrap();
    let mut session = Session::open(edge.address).await;
    let (_, body) = fed();
    let mut events = session.start("GET", HOST, "/events", &[], body).await.unwrap().into_body();
    for n in 0..5 {
        let event = events.frame().await.unwrap().unwrap().into_data().unwrap();
        assert_eq!(event, format!("data: {n}\n\n"));
        backend.go();
    }
}

#[tokio::test]
async fn an_upload_reaches_the_replica_while_it_is_still_being_sent() {
    let backend = Backend::start("backend").await;
    let edge = TestEdge::start();
    edge.client.publish(&simple(1, &[&backend])).await.unwrap();
    let mut session = Session::open(edge.address).await;
    let (pieces, body) = fed();
    let answer = tokio::spawn(async move {
        let answer = session.start("POST", HOST, "/upload", &[], body).await.unwrap();
        answer.into_body().collect().await.unwrap().to_bytes()
    });
    let piece = Bytes::from(vec![7; 100_000]);
    for n in 1..=40_u64 {
        pieces.send(Frame::data(piece.clone())).await.unwrap();
        eventually("the piece arrived", async || {
            backend.state.uploaded.load(SeqCst) == n * 100_000
        })
        .await;
    }
    drop(pieces);
    assert_eq!(answer.await.unwrap(), "4000000");
    assert_eq!(backend.state.posts.load(SeqCst), 1);
}

#[tokio::test]
async fn a_download_waits_for_a_client_that_does_not_read_and_arrives_whole() {
    let backend = Backend::start("backend").await;
    let edge = TestEdge::start();
    edge.client.publish(&simple(1, &[&backend])).await.unwrap();
    let mut stream = TcpStream::connect(edge.address).await.unwrap();
    let pieces = 2_000_u64;
    let request =
        format!("GET /download/{pieces} HTTP/1.1\r\nhost: {HOST}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let sent = || backend.state.uploaded.load(SeqCst);
    // The kernel's buffers fill, then the replica is held back: far from all of it can be under way.
    let mut last = 0;
    eventually("the replica is held back", async || {
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
        std::mem::replace(&mut last, sent()) == sent() && sent() > 0
    })
    .await;
    assert!(sent() < pieces * 64 * 1024 / 2, "{} bytes are buffered somewhere", sent());
    let mut got = 0;
    let mut buffer = vec![0; 256 * 1024];
    loop {
        match stream.read(&mut buffer).await.unwrap() {
            0 => break,
            n => got += n as u64,
        }
    }
    assert!(got > pieces * 64 * 1024);
}

#[tokio::test]
async fn a_tunnel_carries_both_ways_and_ends_with_either_side() {
    let backend = Backend::start("backend").await;
    let edge = TestEdge::start();
    edge.client.publish(&simple(1, &[&backend])).await.unwrap();
    let mut socket = tunnel(edge.address).await;
    for n in 0..20 {
        echo(&mut socket, &format!("message {n}")).await;
    }
    assert_eq!(edge.facts(Blue, "backend").await.upgraded, 1);
    socket.shutdown().await.unwrap();
    assert_eq!(socket.read(&mut [0; 16]).await.unwrap(), 0);
    eventually("the tunnel is closed", async || edge.facts(Blue, "backend").await.upgraded == 0)
        .await;
}

#[tokio::test]
async fn a_half_closed_tunnel_does_not_stay_open() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    // A replica that neither reads nor closes after the upgrade.
    let replica = tokio::spawn(async move {
        let mut open = Vec::new();
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            if stream.read(&mut [0; 4096]).await.unwrap() == 0 {
                continue; // a health check
            }
            let answer =
                "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: bytes\r\n\r\n";
            stream.write_all(answer.as_bytes()).await.unwrap();
            open.push(stream);
        }
    });
    let edge = TestEdge::start();
    edge.client.publish(&at(1, &[address])).await.unwrap();
    let mut socket = tunnel(edge.address).await;
    socket.shutdown().await.unwrap();
    assert_eq!(socket.read(&mut [0; 16]).await.unwrap(), 0);
    replica.abort();
}

/// A table with these addresses, no health path.
pub fn at(epoch: u64, addresses: &[std::net::SocketAddr]) -> Table {
    let endpoints = addresses.iter().map(|a| Endpoint::Http(*a)).collect();
    let mut slot = slot(1, &[("/", "backend", endpoints)]);
    slot.routes[0].health = None;
    table(epoch, Blue, &[(Blue, slot)])
}

#[tokio::test]
async fn a_client_that_waits_for_100_continue_gets_it_and_trailers_pass() {
    let backend = Backend::start("backend").await;
    let edge = TestEdge::start();
    edge.client.publish(&simple(1, &[&backend])).await.unwrap();
    let mut stream = TcpStream::connect(edge.address).await.unwrap();
    let head = format!(
        "POST /echo HTTP/1.1\r\nhost: {HOST}\r\nexpect: 100-continue\r\ncontent-length: 5\r\nconnection: close\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut interim = [0; 25];
    stream.read_exact(&mut interim).await.unwrap();
    assert_eq!(&interim, b"HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(b"hello").await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("hello"), "{answer}");
    let asked = format!(
        "GET /trailers HTTP/1.1\r\nhost: {HOST}\r\nte: trailers\r\nconnection: te, close\r\n\r\n"
    );
    let answer = raw(edge.address, asked.as_bytes()).await;
    assert!(answer.contains("x-checksum: abc"), "{answer}");
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let backend = Backend::start("backend").await;
    let edge = TestEdge::start();
    edge.client.publish(&simple(1, &[&backend])).await.unwrap();
    let get = |path: &str| format!("GET {path} HTTP/1.1\r\nhost: {HOST}\r\n\r\n");
    let post = format!(
        "POST /echo HTTP/1.1\r\nhost: {HOST}\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
    );
    let bad = "GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n";
    let all = get("/status/201") + &post + "\r\n" + &get("/who") + bad;
    let answer = raw(edge.address, all.as_bytes()).await;
    let places: Vec<_> = ["201 Created", "abcde", "backend", "400 Bad Request"]
        .map(|part| answer.find(part).unwrap_or_else(|| panic!("no {part} in {answer}")))
        .into();
    assert!(places.is_sorted(), "{answer}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dying_replica_costs_no_request_and_is_used_again_when_it_is_back() {
    let (one, two) = (Backend::start("one").await, Backend::start("two").await);
    let edge = TestEdge::start();
    edge.client.publish(&simple(1, &[&one, &two])).await.unwrap();
    let (address, asked) = (edge.address, Arc::new(AtomicU64::new(0)));
    let clients: Vec<_> = (0..4)
        .map(|_| {
            let asked = asked.clone();
            tokio::spawn(async move {
                let mut session = Session::open(address).await;
                for _ in 0..400 {
                    assert_eq!(session.get(HOST, "/who").await.status, 200);
                    asked.fetch_add(1, SeqCst);
                }
            })
        })
        .collect();
    eventually("both serve", async || one.requests() > 20 && two.requests() > 20).await;
    let freed = two.die().await;
    for client in clients {
        client.await.expect("a request failed");
    }
    // A POST that could not be connected goes to the other one; it was never written.
    for _ in 0..20 {
        let reply = Session::open(address).await.ask("POST", HOST, "/who", &[], "x").await;
        assert_eq!(reply.text(), "one");
    }
    eventually("it is reported", async || {
        edge.client
            .status()
            .await
            .unwrap()
            .ejected
            .iter()
            .any(|(_, e, _)| *e == Endpoint::Http(freed))
    })
    .await;
    let two = Backend::on("two", freed).await;
    let mut session = Session::open(address).await;
    eventually("it serves again", async || {
        session.get(HOST, "/who").await;
        two.requests() > 0
    })
    .await;
}

#[tokio::test]
async fn a_replica_that_fails_its_health_check_is_left_alone_unless_all_do() {
    let (one, two) = (Backend::start("one").await, Backend::start("two").await);
    let edge = TestEdge::start();
    edge.client.publish(&simple(1, &[&one, &two])).await.unwrap();
    one.state.healthy.store(false, SeqCst);
    eventually("it is kept out", async || {
        let ejected = edge.client.status().await.unwrap().ejected;
        ejected.len() == 1 && ejected[0].2.contains("503")
    })
    .await;
    let mut session = Session::open(edge.address).await;
    for _ in 0..20 {
        assert_eq!(session.get(HOST, "/who").await.text(), "two");
    }
    two.state.healthy.store(false, SeqCst);
    eventually("both are kept out", async || {
        edge.client.status().await.unwrap().ejected.len() == 2
    })
    .await;
    assert_eq!(session.get(HOST, "/who").await.status, 200);
}

/// A replica that answers its first request on each connection and closes at the second, without an answer.
pub async fn breaks_at_the_second(posts: Arc<AtomicU64>) -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let posts = posts.clone();
            tokio::spawn(async move {
                let mut buffer = [0; 4096];
                for turn in 0.. {
                    let n = stream.read(&mut buffer).await.unwrap_or(0);
                    if n == 0 {
                        return;
                    }
                    if buffer.starts_with(b"POST") {
                        posts.fetch_add(1, SeqCst);
                    }
                    if turn == 1 {
                        return;
                    }
                    let answer = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
                    stream.write_all(answer.as_bytes()).await.unwrap();
                }
            });
        }
    });
    address
}

#[tokio::test]
async fn a_get_is_repeated_when_its_connection_broke_and_a_post_never_is() {
    let posts = Arc::new(AtomicU64::new(0));
    let address = breaks_at_the_second(posts.clone()).await;
    let edge = TestEdge::start();
    edge.client.publish(&at(1, &[address])).await.unwrap();
    let mut session = Session::open(edge.address).await;
    for _ in 0..20 {
        assert_eq!(session.get(HOST, "/").await.status, 200);
    }
    let mut failed = 0;
    for n in 1..=20 {
        let reply = session.ask("POST", HOST, "/", &[], "x=1").await;
        failed += u64::from(reply.status == 502);
        assert_eq!(posts.load(SeqCst), n, "a POST arrived twice, or not at all");
    }
    assert!(failed > 0, "the replica broke off no POST: nothing was tested");
    assert_eq!(edge.facts(Blue, "backend").await.unreachable(), failed);
}

#[tokio::test]
async fn a_post_does_not_take_a_connection_that_the_replica_has_closed() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let posts = Arc::new(AtomicU64::new(0));
    let closed = Arc::new(AtomicU64::new(0));
    let (counted, ended) = (posts.clone(), closed.clone());
    // Closes each connection right after its answer, without having said so.
    tokio::spawn(async move {
        'connections: loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = Vec::new();
            // All of it: closing with bytes unread would reset the connection and lose the answer.
            while !request.ends_with(b"\r\n\r\nx") {
                if stream.read_buf(&mut request).await.unwrap() == 0 {
                    // A health check, or a request that broke off: the client would notice that.
                    continue 'connections;
                }
            }
            counted.fetch_add(1, SeqCst);
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
            drop(stream);
            ended.fetch_add(1, SeqCst);
        }
    });
    let edge = TestEdge::start();
    edge.client.publish(&at(1, &[address])).await.unwrap();
    let mut session = Session::open(edge.address).await;
    for n in 1..=50 {
        assert_eq!(session.ask("POST", HOST, "/", &[], "x").await.status, 200, "POST {n}");
        eventually("the connection is closed", async || closed.load(SeqCst) == n).await;
    }
    assert_eq!(posts.load(SeqCst), 50);
}
