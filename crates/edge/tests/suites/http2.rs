//! HTTP/2 with clients: everything that HTTP/1 carries, stream by stream; and gRPC behind the edge.

use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use bytes::Bytes;
use domain::Color;
use edge::Limits;
use http::{HeaderMap, Method, Request};
use http_body_util::BodyExt;
use hyper::body::Frame;

use crate::common::frames::*;
use crate::common::grpc::GrpcBackend;
use crate::common::tls::*;
use crate::common::*;

async fn carrying() -> (Backend, TestEdge, Streams) {
    let (backend, (edge, authority)) = (Backend::start("tea").await, secured(&[HOST]).await);
    edge.client.publish(&simple(1, &[&backend])).await.unwrap();
    let streams = Streams::open(&edge, &authority, HOST).await;
    (backend, edge, streams)
}

fn url(path: &str) -> String {
    format!("https://{HOST}{path}")
}

#[tokio::test]
async fn requests_and_answers_pass_whole() {
    let (_backend, _edge, streams) = carrying().await;
    let reply = streams.get(HOST, "/headers?a=b").await;
    assert!(reply.text().starts_with("/headers?a=b HTTP/1.1\n"), "{}", reply.text());
    assert!(reply.text().contains(&format!("\nhost: {HOST}\n")), "{}", reply.text());
    assert!(!reply.headers.contains_key("connection") && !reply.headers.contains_key("x-hop"));
    assert_eq!(reply.header("x-end"), "2");
    assert_eq!(reply.header("x-request-id").len(), 32);

    let cookies = Request::get(url("/headers")).header("cookie", "a=1").header("cookie", "b=2");
    let reply = read(streams.send(cookies.body(empty()).unwrap()).await.unwrap()).await.unwrap();
    assert!(reply.text().contains("\ncookie: a=1; b=2\n"), "{}", reply.text());

    let head = Request::head(url("/")).body(empty()).unwrap();
    let reply = read(streams.send(head).await.unwrap()).await.unwrap();
    assert_eq!((reply.status, reply.header("content-length"), reply.text()), (200, "3", ""));
    for status in [204, 304, 404, 500] {
        assert_eq!(streams.get(HOST, &format!("/status/{status}")).await.status, status);
    }
    assert_eq!(streams.get("nobody.example", "/").await.status, 404);
}

#[tokio::test]
async fn a_body_without_a_length_arrives_with_any_method() {
    let (_backend, _edge, streams) = carrying().await;
    for method in [Method::POST, Method::GET, Method::DELETE] {
        let (sender, body) = fed();
        let request = Request::builder().method(method.clone()).uri(url("/echo")).body(body);
        let answer = tokio::spawn({
            let streams = streams.clone();
            async move { read(streams.send(request.unwrap()).await.unwrap()).await.unwrap() }
        });
        sender.send(Frame::data("some ".into())).await.unwrap();
        sender.send(Frame::data("leaves".into())).await.unwrap();
        drop(sender);
        assert_eq!(answer.await.unwrap().text(), "some leaves", "{method}");
    }
}

#[tokio::test]
async fn many_requests_share_a_connection_and_none_waits_for_another() {
    let (backend, _edge, streams) = carrying().await;
    let held: Vec<_> = (0..50)
        .map(|_| {
            let streams = streams.clone();
            tokio::spawn(async move { streams.get(HOST, "/hold").await })
        })
        .collect();
    eventually("all are held", async || backend.requests() == 50).await;
    assert_eq!(streams.get(HOST, "/").await.text(), "tea");
    backend.go();
    for reply in held {
        assert_eq!(reply.await.unwrap().text(), "tea");
    }
}

#[tokio::test]
async fn trailers_pass_from_a_replica() {
    let (_backend, _edge, streams) = carrying().await;
    let request = Request::get(url("/trailers")).header("te", "trailers").body(empty()).unwrap();
    let body = streams.send(request).await.unwrap().into_body().collect().await.unwrap();
    assert_eq!(body.trailers().unwrap()["x-checksum"], "abc");
    assert_eq!(body.to_bytes(), "data");
}

#[tokio::test]
async fn a_download_is_not_read_faster_than_its_client_reads() {
    let (backend, _edge, streams) = carrying().await;
    let request = Request::get(url("/download/1000")).body(empty()).unwrap();
    let mut body = streams.send(request).await.unwrap().into_body();
    body.frame().await.unwrap().unwrap();
    // 64 MB are on offer; what fits into buffers on the way is far less.
    let mut last = 0;
    eventually("nothing moves any more", async || {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let now = backend.state.uploaded.load(SeqCst);
        std::mem::replace(&mut last, now) == now
    })
    .await;
    assert!(last < 24 << 20, "{last} bytes were taken for a client that does not read");
    // Others on the same connection go on.
    assert_eq!(streams.get(HOST, "/").await.text(), "tea");
    let mut read = 64 * 1024;
    while let Some(frame) = body.frame().await {
        read += frame.unwrap().data_ref().map_or(0, Bytes::len);
    }
    assert!(read > 62 << 20, "{read}");
}

#[tokio::test]
async fn an_upload_is_not_taken_faster_than_its_replica_takes_it() {
    let (_backend, _edge, streams) = carrying().await;
    // `/hold` reads no body.
    let (sender, body) = fed();
    let request = Request::post(url("/hold")).body(body).unwrap();
    let pending = tokio::spawn(async move { streams.send(request).await });
    let mut sent = 0;
    let piece = Bytes::from(vec![7; 64 * 1024]);
    while let Ok(Ok(())) =
        tokio::time::timeout(Duration::from_millis(500), sender.send(Frame::data(piece.clone())))
            .await
    {
        sent += piece.len();
        assert!(sent < 64 << 20, "the edge takes what nobody reads");
    }
    pending.abort();
}

#[tokio::test]
async fn an_answer_that_is_not_read_is_given_up_alone() {
    let short = Limits { idle: Duration::from_millis(300), ..limits() };
    let (backend, edge) = (Backend::start("tea").await, TestEdge::with(short));
    let authority = Authority::new();
    put(&edge, vec![authority.issue(&[HOST])]).await;
    edge.client.publish(&simple(1, &[&backend])).await.unwrap();
    let streams = Streams::open(&edge, &authority, HOST).await;
    let request = Request::get(url("/download/1000")).body(empty()).unwrap();
    let mut body = streams.send(request).await.unwrap().into_body();
    eventually("the replica is free again", async || {
        // Keeps the connection in use meanwhile.
        assert_eq!(streams.get(HOST, "/").await.text(), "tea");
        edge.facts(Color::Blue, "backend").await.in_flight == 0
    })
    .await;
    let end = loop {
        match body.frame().await {
            Some(Ok(_)) => {}
            other => break other,
        }
    };
    assert!(matches!(end, Some(Err(_))), "the answer broke off and the client was not told");
    assert_eq!(streams.get(HOST, "/").await.text(), "tea");
}

#[tokio::test]
async fn a_switch_under_load_loses_nothing_and_each_stream_is_routed_by_itself() {
    let (blue, green) = (Backend::start("blue").await, Backend::start("green").await);
    let (edge, authority) = secured(&[HOST]).await;
    let slots = [(Color::Blue, all_to(1, &[&blue])), (Color::Green, all_to(2, &[&green]))];
    edge.client.publish(&table(1, Color::Blue, &slots)).await.unwrap();
    let streams = Streams::open(&edge, &authority, HOST).await;
    let clients: Vec<_> = (0..8)
        .map(|_| {
            let streams = streams.clone();
            tokio::spawn(async move {
                for _ in 0..200 {
                    let reply = streams.get(HOST, "/").await;
                    assert!(["blue", "green"].contains(&reply.text()), "{}", reply.status);
                }
            })
        })
        .collect();
    let mut live = Color::Blue;
    for epoch in 2..22 {
        live = live.other();
        edge.client.publish(&table(epoch, live, &slots)).await.unwrap();
        // The acknowledged table routes the next stream of an old connection.
        assert_eq!(streams.get(HOST, "/").await.text(), live.as_str());
    }
    for client in clients {
        client.await.unwrap();
    }
}

#[tokio::test]
async fn a_stopping_edge_says_goaway_and_answers_what_is_under_way() {
    let (backend, (edge, authority)) = (Backend::start("tea").await, secured(&[HOST]).await);
    edge.client.publish(&simple(1, &[&backend])).await.unwrap();
    let (streams, end) = Streams::with_end(&edge, &authority, HOST).await;
    let held = tokio::spawn({
        let streams = streams.clone();
        async move { streams.get(HOST, "/hold").await }
    });
    eventually("it is held", async || backend.requests() == 1).await;
    let stopped = tokio::spawn(edge.stop());
    eventually("the client was told to go", async || streams.try_get(HOST, "/").await.is_err())
        .await;
    backend.go();
    assert_eq!(held.await.unwrap().text(), "tea");
    end.await.unwrap().expect("the connection ended well");
    stopped.await.unwrap();
}

#[tokio::test]
async fn an_idle_connection_is_closed_with_goaway() {
    let short = Limits { idle: Duration::from_millis(200), ..limits() };
    let (edge, authority) = (TestEdge::with(short), Authority::new());
    put(&edge, vec![authority.issue(&[HOST])]).await;
    let (_streams, end) = Streams::with_end(&edge, &authority, HOST).await;
    let ended = tokio::time::timeout(Duration::from_secs(20), end).await;
    ended.expect("it stays for ever").unwrap().expect("it ended well");
}

#[tokio::test]
async fn what_is_refused_in_http_1_is_refused_in_http_2() {
    let (backend, _edge, streams) = carrying().await;
    for path in ["/a/../b", "/%2e%2e/x", "/a/..;x/b", "/a%00", "/a%", "/a\\b", "/a|b"] {
        let Ok(request) = Request::get(url(path)).body(empty()) else { continue };
        let reply = read(streams.send(request).await.unwrap()).await.unwrap();
        assert_eq!(reply.status, 400, "{path}");
    }
    let refused = async |request: Request<_>| {
        read(streams.send(request).await.unwrap()).await.unwrap().status
    };
    let two = Request::get(url("/")).header("host", "other.example").body(empty()).unwrap();
    assert_eq!(refused(two).await, 400);
    let user = Request::get(format!("https://me@{HOST}/")).body(empty()).unwrap();
    assert_eq!(refused(user).await, 400);
    let stand_in = Request::builder().method("REFUSED").uri(url("/200")).body(empty()).unwrap();
    assert_eq!(refused(stand_in).await, 400);
    let long = Request::get(url(&format!("/{}", "a".repeat(9000)))).body(empty()).unwrap();
    assert_eq!(refused(long).await, 414);
    let mut many = Request::get(url("/")).body(empty()).unwrap();
    for n in 0..120 {
        let name = http::HeaderName::try_from(format!("x-{n}")).unwrap();
        many.headers_mut().insert(name, "1".parse().unwrap());
    }
    assert_eq!(refused(many).await, 431);
    assert_eq!(backend.requests(), 0);
    // The same host twice is one host.
    let same = Request::get(url("/")).header("host", HOST).body(empty()).unwrap();
    assert_eq!(refused(same).await, 200);
    assert_eq!(streams.get(HOST, "/").await.text(), "tea");
}

#[tokio::test]
async fn fields_of_one_connection_reset_the_stream() {
    let (backend, (edge, authority)) = (Backend::start("tea").await, secured(&[HOST]).await);
    edge.client.publish(&simple(1, &[&backend])).await.unwrap();
    let odd = [
        ("connection", "close"),
        ("keep-alive", "5"),
        ("proxy-connection", "close"),
        ("transfer-encoding", "chunked"),
        ("upgrade", "websocket"),
        ("te", "gzip"),
        ("X-Upper", "1"),
        // Read as HTTP/1 it would promise a body that never comes.
        ("content-length", " 50"),
        ("content-length", "50\t"),
        (":status", "200"),
    ];
    for (name, value) in odd {
        let mut client = Framed::open(&edge, &authority, &[]).await;
        let fields = [head("GET", "/"), field(name, value)].concat();
        client.send(HEADERS, WHOLE, 1, &fields).await;
        let reset = client.find(RST_STREAM).await;
        assert_eq!((reset.stream, reset.number(0)), (1, PROTOCOL_ERROR), "{name}");
    }
    assert_eq!(backend.requests(), 0);
}

#[tokio::test]
async fn a_client_that_resets_what_it_asks_for_is_sent_away() {
    let (backend, (edge, authority)) = (Backend::start("tea").await, secured(&[HOST]).await);
    edge.client.publish(&simple(1, &[&backend])).await.unwrap();
    let mut client = Framed::open(&edge, &authority, &[]).await;
    for n in 0..2000 {
        client.get(2 * n + 1, "/hold").await;
        client.send(RST_STREAM, 0, 2 * n + 1, &8u32.to_be_bytes()).await;
    }
    assert_eq!(client.goaway().await, ENHANCE_YOUR_CALM);
    assert!(backend.requests() < 500, "{} requests reached the replica", backend.requests());
    let mut session = Session::open(edge.address).await;
    assert_eq!(session.get(HOST, "/").await.text(), "tea");
}

#[tokio::test]
async fn grpc_passes_over_one_shared_connection() {
    let (grpc, (edge, authority)) = (GrpcBackend::start().await, secured(&[HOST]).await);
    edge.client.publish(&grpc.table(1)).await.unwrap();
    let streams = Streams::open(&edge, &authority, HOST).await;
    for n in 0..20 {
        let call = Request::post(url("/tea.Shop/Order"))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(full(format!("order {n}")))
            .unwrap();
        let response = streams.send(call).await.unwrap();
        assert_eq!(response.headers()["content-type"], "application/grpc");
        let body = response.into_body().collect().await.unwrap();
        assert_eq!(body.trailers().unwrap()["grpc-status"], "0");
        assert_eq!(body.to_bytes(), format!("order {n}"));
    }
    assert!(grpc.connections() <= 2, "{} connections of two workers", grpc.connections());
    let seen = grpc.seen();
    assert_eq!(
        (seen["te"].as_bytes(), seen["x-forwarded-proto"].as_bytes()),
        (&b"trailers"[..], &b"https"[..])
    );
    assert!(!seen.contains_key("connection") && !seen.contains_key("transfer-encoding"));
}

#[tokio::test]
async fn a_grpc_call_without_a_message_reaches_its_server() {
    let (grpc, (edge, authority)) = (GrpcBackend::start().await, secured(&[HOST]).await);
    edge.client.publish(&grpc.table(1)).await.unwrap();
    let streams = Streams::open(&edge, &authority, HOST).await;
    let call = Request::post(url("/tea.Shop/List")).header("content-type", "application/grpc");
    let call = call.header("te", "trailers").body(empty()).unwrap();
    let body = streams.send(call).await.unwrap().into_body().collect().await.unwrap();
    assert_eq!(body.trailers().expect("it has a status")["grpc-status"], "0");
}

#[tokio::test]
async fn a_grpc_stream_flows_both_ways_and_ends_as_unavailable_when_its_slot_is_gone() {
    let (grpc, (edge, authority)) = (GrpcBackend::start().await, secured(&[HOST]).await);
    edge.client.publish(&grpc.table(1)).await.unwrap();
    let streams = Streams::open(&edge, &authority, HOST).await;
    let (sender, body) = fed();
    let call = Request::post(url("/tea.Shop/Chat"))
        .header("content-type", "application/grpc+proto")
        .header("te", "trailers")
        .body(body)
        .unwrap();
    let mut answer = streams.send(call).await.unwrap().into_body();
    for word in ["one", "two"] {
        sender.send(Frame::data(word.into())).await.unwrap();
        assert_eq!(answer.frame().await.unwrap().unwrap().into_data().unwrap(), word);
    }
    let other = Backend::start("green").await;
    let green = [(Color::Green, all_to(2, &[&other]))];
    edge.client.publish(&table(2, Color::Green, &green)).await.unwrap();
    let trailers: HeaderMap =
        answer.frame().await.expect("it ends with trailers").unwrap().into_trailers().unwrap();
    assert_eq!(trailers["grpc-status"], "14");
}

#[tokio::test]
async fn a_grpc_server_that_restarts_is_reached_again() {
    let (grpc, (edge, authority)) = (GrpcBackend::start().await, secured(&[HOST]).await);
    edge.client.publish(&grpc.table(1)).await.unwrap();
    let streams = Streams::open(&edge, &authority, HOST).await;
    let call = || {
        let call = Request::post(url("/tea.Shop/Order")).header("content-type", "application/grpc");
        call.header("te", "trailers").body(full("order")).unwrap()
    };
    assert_eq!(streams.send(call()).await.unwrap().status(), 200);
    let address = grpc.die().await;
    assert!(streams.send(call()).await.unwrap().status().is_server_error());
    let _again = GrpcBackend::on(address).await;
    eventually("it answers again", async || {
        streams.send(call()).await.unwrap().status().is_success()
    })
    .await;
}
