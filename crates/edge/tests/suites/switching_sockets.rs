//! How WebSockets and event streams end: politely, whole, and spread over time.

use std::time::{Duration, Instant};

use crate::common::*;
use domain::Color::{Blue, Green};
use domain::route::Table;
use domain::slot::Endpoint;
use futures_util::{SinkExt, StreamExt};
use http_body_util::BodyExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{WebSocketStream, client_async};

const DEADLINE: Duration = Duration::from_millis(300);
const SPREAD: Duration = Duration::from_millis(1500);

fn both(epoch: u64, live: domain::Color, blue: &Backend, green: &Backend) -> Table {
    let mut table = table(epoch, live, &[(Blue, all_to(1, &[blue])), (Green, all_to(2, &[green]))]);
    let environment = table.environments.get_mut(&staging()).unwrap();
    (environment.drain_deadline, environment.close_spread) = (DEADLINE, SPREAD);
    table
}

/// Time for the frame under way, however busy the machine is.
fn patient() -> edge::Limits {
    edge::Limits { half_close: Duration::from_secs(10), ..limits() }
}

async fn open(edge: &TestEdge, manner: &str) -> WebSocketStream<TcpStream> {
    let stream = TcpStream::connect(edge.address).await.unwrap();
    client_async(format!("ws://{HOST}/ws/{manner}"), stream).await.unwrap().0
}

/// Reads until the connection is over: the code of the Close, and when it came.
async fn closed(mut socket: WebSocketStream<TcpStream>, talks: bool) -> (u16, Instant) {
    let mut close = None;
    loop {
        if talks && close.is_none() {
            let _ = socket.send(Message::text("still here")).await;
        }
        match socket.next().await {
            Some(Ok(Message::Close(frame))) => {
                close = Some((frame.map_or(0, |frame| frame.code.into()), Instant::now()));
            }
            Some(Ok(_)) => {}
            Some(Err(error)) => panic!("abnormal close: {error}"),
            None => return close.expect("the connection ended without a Close"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_websocket_of_a_drained_slot_is_closed_with_1012_at_its_own_time_within_the_spread() {
    let (blue, green) = (Backend::start("blue").await, Backend::start("green").await);
    let edge = TestEdge::with(patient());
    edge.client.publish(&both(1, Blue, &blue, &green)).await.unwrap();
    let mut clients = Vec::new();
    for n in 0..60 {
        let socket = open(&edge, if n % 3 == 0 { "busy" } else { "echo" }).await;
        clients.push(tokio::spawn(closed(socket, n % 3 == 1)));
    }
    let switched = Instant::now();
    edge.client.publish(&both(2, Green, &blue, &green)).await.unwrap();
    let drain = edge.client.drain(&staging(), Blue).await.unwrap();
    assert_eq!(drain.upgraded, 60);
    let mut times = Vec::new();
    for client in clients {
        let (code, at) = client.await.unwrap();
        assert_eq!(code, 1012);
        times.push(at - switched);
    }
    times.sort();
    let (first, last) = (times[0], times[59]);
    println!("closed between {first:?} and {last:?} after the switch");
    assert!(first >= DEADLINE, "{first:?}");
    assert!(last - first > SPREAD / 2, "not spread: {times:?}");
    eventually("blue is drained", async || {
        edge.client.drain(&staging(), Blue).await.unwrap().done()
    })
    .await;
    assert!(switched.elapsed() < DEADLINE + SPREAD + Duration::from_secs(5));
    eventually("the replica was told the same of all of them", async || {
        *blue.state.closes.lock().unwrap() == [1012; 60]
    })
    .await;
}

#[tokio::test]
async fn a_message_under_way_is_finished_before_the_close() {
    let (blue, green) = (Backend::start("blue").await, Backend::start("green").await);
    let edge = TestEdge::with(patient());
    let mut first = both(1, Blue, &blue, &green);
    let mut second = both(2, Green, &blue, &green);
    for table in [&mut first, &mut second] {
        table.environments.get_mut(&staging()).unwrap().close_spread = Duration::ZERO;
    }
    edge.client.publish(&first).await.unwrap();
    let mut socket = open(&edge, "slow").await;
    let mut idle = open(&edge, "echo").await;
    edge.client.publish(&second).await.unwrap();
    // The idle one tells that the deadline of both has come.
    assert!(
        matches!(idle.next().await, Some(Ok(Message::Close(Some(frame)))) if u16::from(frame.code) == 1012)
    );
    blue.go();
    let message = socket.next().await.unwrap().unwrap();
    assert_eq!(message.into_data(), vec![7; 256]);
    assert_eq!(closed(socket, false).await.0, 1012);
}

#[tokio::test]
async fn what_a_client_had_sent_before_it_saw_the_close_still_arrives() {
    let (blue, green) = (Backend::start("blue").await, Backend::start("green").await);
    let edge = TestEdge::with(patient());
    edge.client.publish(&both(1, Blue, &blue, &green)).await.unwrap();
    let mut socket = open(&edge, "echo").await;
    socket.send(Message::text("one")).await.unwrap();
    assert_eq!(socket.next().await.unwrap().unwrap(), Message::text("one"));
    edge.client.publish(&both(2, Green, &blue, &green)).await.unwrap();
    // The close is there, unread; what is sent now is sent by a client that does not know.
    let mut peeked = [0; 1];
    while socket.get_ref().peek(&mut peeked).await.unwrap() == 0 {}
    socket.send(Message::text("two")).await.unwrap();
    assert_eq!(closed(socket, false).await.0, 1012);
    eventually("both messages have arrived", async || {
        blue.state.posts.load(std::sync::atomic::Ordering::SeqCst) == 2
    })
    .await;
}

#[tokio::test]
async fn a_client_that_never_answers_the_close_gets_a_clean_end_and_the_replica_a_close() {
    let (blue, green) = (Backend::start("blue").await, Backend::start("green").await);
    let edge = TestEdge::start();
    edge.client.publish(&both(1, Blue, &blue, &green)).await.unwrap();
    let mut stream = TcpStream::connect(edge.address).await.unwrap();
    let request = format!(
        "GET /ws/echo HTTP/1.1\r\nhost: {HOST}\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
         sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    edge.client.publish(&both(2, Green, &blue, &green)).await.unwrap();
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).await.expect("no reset");
    assert_eq!(rest[..4], [0x88, 17, 0x03, 0xf4], "{rest:?}");
    assert_eq!(rest.len(), 19, "nothing after the Close: {rest:?}");
    eventually("the replica heard of it", async || *blue.state.closes.lock().unwrap() == [1012])
        .await;
}

#[tokio::test]
async fn a_stopping_edge_says_goodbye_to_its_websockets() {
    let blue = Backend::start("blue").await;
    let edge = TestEdge::with(patient());
    edge.client.publish(&simple(1, &[&blue])).await.unwrap();
    let clients: Vec<_> = [open(&edge, "echo").await, open(&edge, "busy").await]
        .map(|socket| tokio::spawn(closed(socket, false)))
        .into();
    edge.stop().await;
    for client in clients {
        assert_eq!(client.await.unwrap().0, 1012);
    }
}

#[tokio::test]
async fn a_replica_that_dies_after_its_slot_lost_the_traffic_takes_nobody_by_surprise() {
    let (blue, green) = (Backend::start("blue").await, Backend::start("green").await);
    let edge = TestEdge::start();
    let mut switched = both(2, Green, &blue, &green);
    switched.environments.get_mut(&staging()).unwrap().drain_deadline = Duration::from_secs(60);
    edge.client.publish(&both(1, Blue, &blue, &green)).await.unwrap();
    let socket = open(&edge, "dies").await;
    edge.client.publish(&switched).await.unwrap();
    blue.go();
    assert_eq!(closed(socket, false).await.0, 1012);
}

#[tokio::test]
async fn event_streams_end_whole_and_at_their_own_times_within_the_spread() {
    let (blue, green) = (Backend::start("blue").await, Backend::start("green").await);
    let edge = TestEdge::start();
    edge.client.publish(&both(1, Blue, &blue, &green)).await.unwrap();
    let mut clients = Vec::new();
    for _ in 0..30 {
        let mut session = Session::open(edge.address).await;
        let (sender, body) = fed();
        drop(sender);
        let stream = session.start("GET", HOST, "/events", &[], body).await.unwrap();
        clients.push(tokio::spawn(async move {
            let end = stream.into_body().collect().await.map(|_| Instant::now());
            (end, session)
        }));
    }
    let switched = Instant::now();
    edge.client.publish(&both(2, Green, &blue, &green)).await.unwrap();
    let mut times = Vec::new();
    for client in clients {
        let (end, mut session) = client.await.unwrap();
        times.push(end.expect("the whole of a body") - switched);
        assert_eq!(session.get(HOST, "/").await.text(), "green");
    }
    times.sort();
    println!("ended between {:?} and {:?} after the switch", times[0], times[29]);
    assert!(times[0] >= DEADLINE && times[29] - times[0] > SPREAD / 3, "{times:?}");
}

#[tokio::test]
async fn an_event_stream_whose_time_is_over_within_a_chunk_ends_whole() {
    let (blue, green) = (Backend::start("blue").await, Backend::start("green").await);
    let replica = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = replica.local_addr().unwrap();
    let edge = TestEdge::with(patient());
    let halves = |epoch, live| {
        let mut table = both(epoch, live, &blue, &green);
        let environment = table.environments.get_mut(&staging()).unwrap();
        environment.close_spread = Duration::ZERO;
        let mut events = slot(1, &[("/half", "events", vec![Endpoint::Http(address)])]).routes;
        events[0].health = None;
        environment.slots.get_mut(&Blue).unwrap().routes.extend(events);
        table
    };
    edge.client.publish(&halves(1, Blue)).await.unwrap();
    let mut idle = open(&edge, "echo").await;
    let mut client = TcpStream::connect(edge.address).await.unwrap();
    let request = format!("GET /half HTTP/1.1\r\nhost: {HOST}\r\n\r\n");
    client.write_all(request.as_bytes()).await.unwrap();
    // Looking whether a replica takes connections sends nothing.
    let mut server = loop {
        let (mut stream, _) = replica.accept().await.unwrap();
        if stream.read(&mut [0; 4096]).await.unwrap() > 0 {
            break stream;
        }
    };
    let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked";
    server.write_all(format!("{head}\r\n\r\n9\r\ndata:").as_bytes()).await.unwrap();
    let mut seen = Vec::new();
    while !seen.ends_with(b"data:") {
        seen.push(client.read_u8().await.unwrap());
    }
    edge.client.publish(&halves(2, Green)).await.unwrap();
    // The idle one tells that the deadline of both has come.
    assert!(matches!(idle.next().await, Some(Ok(Message::Close(_)))));
    let _ = server.write_all(b" 0\n\n\r\n").await;
    while !seen.ends_with(b"0\r\n\r\n") {
        seen.push(client.read_u8().await.expect("it ends whole"));
    }
    let mut session = Session::open(edge.address).await;
    assert_eq!(session.get(HOST, "/").await.text(), "green");
}
