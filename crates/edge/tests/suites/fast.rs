//! What is particular to framing HTTP/1.1 ourselves: pieces, borders, and who leaves when.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use crate::common::*;
use domain::Color::Blue;
use domain::route::Table;
use domain::slot::Endpoint;
use edge::Limits;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

/// A replica that answers every request head with the pieces it was given, and tells what it was sent.
pub struct Scripted {
    pub address: SocketAddr,
    pub heads: mpsc::UnboundedReceiver<String>,
    pub connections: Arc<AtomicU64>,
    /// Connections that the edge closed.
    closed: Arc<AtomicU64>,
}

impl Scripted {
    /// Writes the pieces one after the other, each on its own; then closes the connection if it should.
    pub async fn start(pieces: &[&[u8]], close: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (seen, heads) = mpsc::unbounded_channel();
        let (connections, closed) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let (opened, ended) = (connections.clone(), closed.clone());
        let pieces: Arc<Vec<Vec<u8>>> =
            Arc::new(pieces.iter().map(|piece| piece.to_vec()).collect());
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                stream.set_nodelay(true).unwrap();
                let (pieces, seen) = (pieces.clone(), seen.clone());
                let (opened, ended) = (opened.clone(), ended.clone());
                tokio::spawn(async move {
                    let mut first = true;
                    loop {
                        let mut head = Vec::new();
                        while !head.ends_with(b"\r\n\r\n") {
                            match stream.read_u8().await {
                                Ok(byte) => head.push(byte),
                                Err(_) => {
                                    // A health check sends nothing at all.
                                    ended.fetch_add(u64::from(!first), SeqCst);
                                    return;
                                }
                            }
                        }
                        opened.fetch_add(u64::from(std::mem::take(&mut first)), SeqCst);
                        let _ = seen.send(String::from_utf8(head).unwrap());
                        for (at, piece) in pieces.iter().enumerate() {
                            if at > 0 {
                                tokio::time::sleep(Duration::from_millis(2)).await;
                            }
                            if stream.write_all(piece).await.is_err() {
                                return;
                            }
                        }
                        if close {
                            return;
                        }
                    }
                });
            }
        });
        Self { address, heads, connections, closed }
    }
}

pub fn at(epoch: u64, address: SocketAddr) -> Table {
    let mut slot = slot(1, &[("/", "backend", vec![Endpoint::Http(address)])]);
    slot.routes[0].health = None;
    table(epoch, Blue, &[(Blue, slot)])
}

async fn edge_to(address: SocketAddr, limits: Limits) -> TestEdge {
    let edge = TestEdge::with(limits);
    edge.client.publish(&at(1, address)).await.unwrap();
    edge
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: {HOST}\r\n\r\n")
}

fn last(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: {HOST}\r\nconnection: close\r\n\r\n")
}

/// Reads until what was read ends with `end`.
async fn until(stream: &mut TcpStream, end: &str) -> String {
    let mut read = Vec::new();
    let all = async {
        while !read.ends_with(end.as_bytes()) {
            let n = stream.read_buf(&mut read).await.unwrap();
            assert!(n > 0, "closed after {}", String::from_utf8_lossy(&read));
        }
    };
    let done = tokio::time::timeout(Duration::from_secs(20), all).await;
    let read = String::from_utf8_lossy(&read).into_owned();
    done.unwrap_or_else(|_| panic!("no {end:?} in {read}"));
    read
}

#[tokio::test]
async fn a_body_that_its_replica_leaves_unread_does_not_become_the_next_request() {
    let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\ntea";
    let mut replica = Scripted::start(&[answer], false).await;
    let edge = edge_to(replica.address, limits()).await;
    for method in ["GET", "DELETE"] {
        let mut client = TcpStream::connect(edge.address).await.unwrap();
        let odd = format!("{method} /odd HTTP/1.1\r\nhost: {HOST}\r\ncontent-length: 3\r\n\r\nabc");
        client.write_all(odd.as_bytes()).await.unwrap();
        until(&mut client, "tea").await;
        replica.heads.recv().await.unwrap();
        let mut other = TcpStream::connect(edge.address).await.unwrap();
        other.write_all(get("/next").as_bytes()).await.unwrap();
        until(&mut other, "tea").await;
        let head = replica.heads.recv().await.unwrap();
        assert!(head.starts_with("GET /next HTTP/1.1\r\n"), "after a {method}: {head}");
    }
}

#[tokio::test]
async fn a_connection_changes_its_way_in_mid_life_and_no_request_notices() {
    let backend = Backend::start("backend").await;
    let edge = TestEdge::start();
    edge.client.publish(&simple(1, &[&backend])).await.unwrap();
    let mut stream = TcpStream::connect(edge.address).await.unwrap();
    // Plain, plain with a body, absolute, plain again, and at last a tunnel: all sent at once.
    let post = format!("POST /echo HTTP/1.1\r\nhost: {HOST}\r\ncontent-length: 5\r\n\r\nhello");
    let absolute = format!("GET http://{HOST}/status/202 HTTP/1.1\r\nhost: {HOST}\r\n\r\n");
    let socket = format!(
        "GET /socket HTTP/1.1\r\nhost: {HOST}\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\r\n"
    );
    let all = get("/status/201") + &post + &absolute + &get("/status/203") + &socket;
    stream.write_all(all.as_bytes()).await.unwrap();
    let mut read = String::new();
    for part in ["201 Created", "hello", "202 Accepted", "203 Non", "101 Switching", "\r\n\r\n"] {
        while !read.contains(part) {
            let mut piece = vec![0; 4096];
            let n = stream.read(&mut piece).await.unwrap();
            assert!(n > 0, "no {part} in {read}");
            read.push_str(std::str::from_utf8(&piece[..n]).unwrap());
        }
        read = read.split_once(part).unwrap().1.to_owned();
    }
    echo(&mut stream, "through the tunnel").await;
    assert_eq!(backend.requests(), 5);
    assert_eq!(edge.facts(Blue, "backend").await.classes[1], 4);
}

#[tokio::test]
async fn a_hostile_request_behind_a_plain_one_is_refused_after_its_answer() {
    let backend = Backend::start("backend").await;
    let edge = TestEdge::start();
    edge.client.publish(&simple(1, &[&backend])).await.unwrap();
    let hostile = format!(
        "POST /echo HTTP/1.1\r\nhost: {HOST}\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n"
    );
    let answer =
        raw(edge.address, (get("/status/201") + &hostile + &get("/smuggled")).as_bytes()).await;
    let (first, second) = (answer.find("201 Created").unwrap(), answer.find("400 Bad").unwrap());
    assert!(first < second && answer.matches("HTTP/1.1").count() == 2, "{answer}");
    assert_eq!(backend.requests(), 1);
}

#[tokio::test]
async fn a_request_may_come_in_any_pieces() {
    let backend = Backend::start("backend").await;
    let edge = TestEdge::start();
    edge.client.publish(&simple(1, &[&backend])).await.unwrap();
    let request = format!(
        "POST /echo HTTP/1.1\r\nhost: {HOST}\r\ntransfer-encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n2\r\nde\r\n0\r\nx-sum: 1\r\n\r\n"
    );
    let mut stream = TcpStream::connect(edge.address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    for cut in 1..request.len() {
        let (one, two) = request.as_bytes().split_at(cut);
        stream.write_all(one).await.unwrap();
        tokio::task::yield_now().await;
        stream.write_all(two).await.unwrap();
        let answer = until(&mut stream, "abcde").await;
        assert!(answer.starts_with("HTTP/1.1 200"), "cut at {cut}: {answer}");
    }
    // And byte by byte.
    for byte in request.bytes() {
        stream.write_all(&[byte]).await.unwrap();
        tokio::task::yield_now().await;
    }
    until(&mut stream, "abcde").await;
}

#[tokio::test]
async fn an_answer_may_come_in_any_pieces_and_its_connection_is_used_again() {
    let answer =
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n";
    for cut in 1..answer.len() {
        let (one, two) = answer.split_at(cut);
        let replica = Scripted::start(&[one, two], false).await;
        let edge = edge_to(replica.address, limits()).await;
        let mut session = Session::open(edge.address).await;
        for _ in 0..2 {
            let reply = session.get(HOST, "/").await;
            assert_eq!((reply.status, reply.text()), (200, "abcde"), "cut at {cut}");
        }
        assert_eq!(replica.connections.load(SeqCst), 1, "cut at {cut}");
    }
}

#[tokio::test]
async fn an_answer_until_the_end_of_the_connection_gets_borders() {
    let pieces: [&[u8]; 3] = [b"HTTP/1.1 200 OK\r\n\r\nfirst ", b"and", b" last"];
    let replica = Scripted::start(&pieces, true).await;
    let edge = edge_to(replica.address, limits()).await;
    let mut session = Session::open(edge.address).await;
    for n in 1..=3 {
        let reply = session.get(HOST, "/").await;
        assert_eq!((reply.status, reply.text()), (200, "first and last"));
        assert_eq!(replica.connections.load(SeqCst), n);
    }
}

#[tokio::test]
async fn an_answer_and_the_end_of_its_connection_in_one_packet_lose_nothing() {
    let replica = Scripted::start(&[b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"], true).await;
    let edge = edge_to(replica.address, limits()).await;
    let mut session = Session::open(edge.address).await;
    for _ in 0..200 {
        let reply = session.get(HOST, "/").await;
        assert_eq!((reply.status, reply.text()), (200, "ok"));
    }
}

#[tokio::test]
async fn answers_without_a_body_end_with_their_head() {
    for (method, answer) in [
        ("HEAD", "HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n"),
        ("GET", "HTTP/1.1 304 Not Modified\r\ncontent-length: 1000\r\netag: \"x\"\r\n\r\n"),
        ("GET", "HTTP/1.1 204 No Content\r\n\r\n"),
        ("GET", "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"),
    ] {
        let replica = Scripted::start(&[answer.as_bytes()], false).await;
        let edge = edge_to(replica.address, limits()).await;
        let mut session = Session::open(edge.address).await;
        for _ in 0..3 {
            let reply = session.ask(method, HOST, "/", &[], "").await;
            assert_eq!(reply.body.len(), 0, "{method} {answer}");
            // hyper leaves it out of a 304, where it says nothing that is needed.
            if answer.contains("1000") && (crate::FAST || method == "HEAD") {
                assert_eq!(reply.header("content-length"), "1000", "{method} {answer}");
            }
            assert!(!reply.header("date").is_empty() && reply.header("x-request-id").len() == 32);
        }
        assert_eq!(replica.connections.load(SeqCst), 1, "{method} {answer}");
    }
}

#[tokio::test]
async fn hints_pass_to_the_client_and_a_needless_continue_does_not() {
    let pieces: [&[u8]; 3] = [
        b"HTTP/1.1 100 Continue\r\n\r\n",
        b"HTTP/1.1 103 Early Hints\r\nlink: </style.css>\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
    ];
    let replica = Scripted::start(&pieces, false).await;
    let edge = edge_to(replica.address, limits()).await;
    let answer = raw(edge.address, last("/").as_bytes()).await;
    assert!(!answer.contains("100 Continue") && answer.ends_with("ok"), "{answer}");
    if crate::FAST {
        assert!(
            answer.starts_with("HTTP/1.1 103 Early Hints\r\nlink: </style.css>\r\n"),
            "{answer}"
        );
    }
}

#[tokio::test]
async fn an_answer_with_two_meanings_is_none_and_what_follows_it_is_no_answer_either() {
    let smuggled = "HTTP/1.1 200 OK\r\ncontent-length: 7\r\n\r\nanother";
    for odd in [
        "content-length: 3\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        "content-length: 2\r\ncontent-length: 3\r\n\r\nabc",
        "content-length: -1\r\n\r\n",
        "content-length: 1 2\r\n\r\n",
        "x: a\r\n b: c\r\n\r\n",
    ] {
        let answer = format!("HTTP/1.1 200 OK\r\n{odd}{smuggled}");
        let replica = Scripted::start(&[answer.as_bytes()], false).await;
        let edge = edge_to(replica.address, limits()).await;
        if !crate::FAST && odd.contains("chunked") {
            continue; // hyper believes the chunks
        }
        let both = raw(edge.address, (get("/") + &last("/")).as_bytes()).await;
        assert_eq!(both.matches("HTTP/1.1 502").count(), 2, "{odd}: {both}");
        assert!(!both.contains("another"), "{odd}: {both}");
    }
    // Bytes behind a whole answer belong to no request.
    let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok{smuggled}");
    let replica = Scripted::start(&[answer.as_bytes()], false).await;
    let edge = edge_to(replica.address, limits()).await;
    let both = raw(edge.address, (get("/") + &last("/")).as_bytes()).await;
    assert!(!both.contains("another") && both.matches("\r\n\r\nok").count() == 2, "{both}");
}

#[tokio::test]
async fn an_early_answer_ends_an_upload() {
    let answer = b"HTTP/1.1 413 Content Too Large\r\ncontent-length: 3\r\n\r\nbig";
    let replica = Scripted::start(&[answer], false).await;
    let idle = Duration::from_millis(500);
    let edge = edge_to(replica.address, Limits { idle, ..limits() }).await;
    let mut stream = TcpStream::connect(edge.address).await.unwrap();
    let head = format!("POST / HTTP/1.1\r\nhost: {HOST}\r\ncontent-length: 1000000\r\n\r\nabc");
    stream.write_all(head.as_bytes()).await.unwrap();
    let answer = until(&mut stream, "big").await;
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
    // The rest of the body is not taken for a request.
    let _ = stream.write_all(get("/smuggled").as_bytes()).await;
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest).await;
    assert!(rest.is_empty(), "{}", String::from_utf8_lossy(&rest));
}

#[tokio::test]
async fn a_client_that_leaves_while_it_waits_ends_its_request() {
    let mut replica = Scripted::start(&[], false).await;
    let edge = edge_to(replica.address, limits()).await;
    let mut stream = TcpStream::connect(edge.address).await.unwrap();
    stream.write_all(get("/slow").as_bytes()).await.unwrap();
    assert!(replica.heads.recv().await.unwrap().starts_with("GET /slow "));
    drop(stream);
    eventually("the replica sees it", async || replica.closed.load(SeqCst) == 1).await;
    eventually("nothing is in flight", async || {
        edge.client.drain(&staging(), Blue).await.unwrap().done()
    })
    .await;
}

#[tokio::test]
async fn an_answer_that_breaks_off_breaks_off_for_the_client_and_counts_as_failed() {
    for broken in [
        "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nabc",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\nx\r\n",
    ] {
        let replica = Scripted::start(&[broken.as_bytes()], true).await;
        let edge = edge_to(replica.address, limits()).await;
        let mut session = Session::open(edge.address).await;
        let reply = session.try_ask("GET", HOST, "/", &[], "").await;
        assert!(reply.is_err(), "{broken}: {reply:?}");
        assert_eq!(edge.facts(Blue, "backend").await.classes, [0, 0, 0, 0, 1], "{broken}");
    }
}

#[tokio::test]
async fn a_replica_that_stalls_in_the_middle_of_an_answer_does_not_hold_it_for_ever() {
    let idle = Duration::from_millis(200);
    let stalled = b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc";
    let replica = Scripted::start(&[stalled], false).await;
    let edge = edge_to(replica.address, Limits { idle, ..limits() }).await;
    let answer = raw(edge.address, get("/").as_bytes()).await;
    assert!(answer.ends_with("\r\n\r\nabc"), "{answer}");
    assert_eq!(edge.facts(Blue, "backend").await.classes[4], 1);
}

#[tokio::test]
async fn a_replica_that_does_not_begin_to_answer_is_given_up() {
    let answer = Duration::from_millis(200);
    let replica = Scripted::start(&[], false).await;
    let edge = edge_to(replica.address, Limits { answer, ..limits() }).await;
    let mut session = Session::open(edge.address).await;
    let reply = session.get(HOST, "/").await;
    assert_eq!(reply.status, 504);
    assert_eq!(edge.facts(Blue, "backend").await.unreachable(), 1);
    // The client's connection is as good as before.
    assert_eq!(session.get(HOST, "/").await.status, 504);
}

#[tokio::test]
async fn what_a_replica_is_told_is_the_same_on_both_ways() {
    let mut replica =
        Scripted::start(&[b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"], false).await;
    let edge = edge_to(replica.address, limits()).await;
    let mut stream = TcpStream::connect(edge.address).await.unwrap();
    let request = format!(
        "GET /a?b=c HTTP/1.1\r\nHost: {HOST}\r\nConnection: keep-alive, X-Hop, te\r\nX-Hop: 1\r\nTE: trailers\r\n\
         Keep-Alive: 5\r\nX-Forwarded-For: 6.6.6.6\r\nForwarded: for=6.6.6.6\r\nX-Real-Ip: 6.6.6.6\r\n\
         X_Forwarded_For: 6.6.6.6\r\nX-Request-Id: mine\r\nTraceparent: mine\r\nAccept: */*\r\nCookie: a=b\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let head = replica.heads.recv().await.unwrap().to_ascii_lowercase();
    let mut lines: Vec<&str> = head.trim_end().split("\r\n").collect();
    assert_eq!(lines.remove(0), "get /a?b=c http/1.1");
    lines.sort_unstable();
    let (made, kept): (Vec<&str>, Vec<&str>) = lines
        .into_iter()
        .partition(|line| line.starts_with("x-request-id: ") || line.starts_with("traceparent: "));
    assert_eq!((made[0].len(), made[1].len()), (13 + 55, 14 + 32), "{made:?}");
    let forwarded = format!("forwarded: for=127.0.0.1;host=\"{HOST}\";proto=http");
    let host = format!("host: {HOST}");
    let forwarded_host = format!("x-forwarded-host: {HOST}");
    let expected = [
        "accept: */*",
        "connection: te",
        "cookie: a=b",
        &forwarded,
        &host,
        "te: trailers",
        "x-forwarded-for: 127.0.0.1",
        &forwarded_host,
        "x-forwarded-proto: http",
    ];
    assert_eq!(kept, expected);
}

#[tokio::test]
async fn a_stopping_edge_says_so_in_its_last_answers() {
    let backend = Backend::start("backend").await;
    let edge = TestEdge::start();
    edge.client.publish(&simple(1, &[&backend])).await.unwrap();
    let mut stream = TcpStream::connect(edge.address).await.unwrap();
    stream.write_all(get("/hold").as_bytes()).await.unwrap();
    eventually("the request is in flight", async || backend.requests() == 1).await;
    let address = edge.address;
    let stopping = tokio::spawn(edge.stop());
    eventually("nothing is accepted any more", async || TcpStream::connect(address).await.is_err())
        .await;
    backend.go();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.contains("connection: close\r\n") && answer.ends_with("backend"), "{answer}");
    stopping.await.unwrap();
}
