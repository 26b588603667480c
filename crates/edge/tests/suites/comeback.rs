//! A service whose only replica goes and comes back: requests wait for it, within bounds.

use std::time::Duration;

use domain::Color::Blue;
use domain::route::Reason;
use domain::slot::Endpoint;
use edge::Limits;
use http::Request;
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;

use super::fast::at;
use crate::common::tls::*;
use crate::common::*;

const COMEBACK: Duration = Duration::from_secs(15);

fn patient() -> Limits {
    Limits { comeback: COMEBACK, ..limits() }
}

async fn waited(edge: &TestEdge) -> u64 {
    edge.facts(Blue, "backend").await.waited()
}

/// Asks while the replica is away: one that is kept out, so that somebody has asked before.
async fn is_away(edge: &TestEdge) {
    eventually("its absence is seen", async || {
        let status = edge.client.status().await.unwrap();
        !status.ejected.is_empty()
    })
    .await;
}

#[tokio::test]
async fn requests_wait_for_a_lone_replica_that_is_started_again() {
    let backend = Backend::start("before").await;
    let edge = TestEdge::with(patient());
    edge.client.publish(&simple(1, &[&backend])).await.unwrap();
    let mut kept = Session::open(edge.address).await;
    assert_eq!(kept.get(HOST, "/").await.text(), "before");
    let address = backend.die().await;
    let asking = ["GET", "POST"].map(|method| {
        let edge = edge.address;
        tokio::spawn(async move {
            let mut session = Session::open(edge).await;
            session.ask(method, HOST, "/echo", &[], "tea").await
        })
    });
    is_away(&edge).await;
    eventually("both wait", async || edge.facts(Blue, "backend").await.in_flight == 2).await;
    let _back = Backend::on("after", address).await;
    for asked in asking {
        assert_eq!(asked.await.unwrap().text(), "tea");
    }
    assert_eq!(kept.get(HOST, "/").await.text(), "after");
    assert_eq!(waited(&edge).await, 2);
}

#[tokio::test]
async fn so_do_requests_over_http2_with_a_body_and_without() {
    let backend = Backend::start("before").await;
    let (edge, authority) = (TestEdge::with(patient()), Authority::new());
    put(&edge, vec![authority.issue(&[HOST])]).await;
    edge.client.publish(&simple(1, &[&backend])).await.unwrap();
    let streams = Streams::open(&edge, &authority, HOST).await;
    let address = backend.die().await;
    let asking = ["", "tea"].map(|body| {
        let streams = streams.clone();
        let request = Request::post(format!("https://{HOST}/echo")).body(full(body)).unwrap();
        tokio::spawn(async move { read(streams.send(request).await.unwrap()).await.unwrap() })
    });
    is_away(&edge).await;
    let _back = Backend::on("after", address).await;
    for (asked, body) in asking.into_iter().zip(["", "tea"]) {
        assert_eq!(asked.await.unwrap().text(), body);
    }
}

#[tokio::test]
async fn a_service_that_stays_away_is_waited_for_once_and_then_refuses_at_once() {
    let backend = Backend::start("backend").await;
    let short = Duration::from_millis(400);
    let edge = TestEdge::with(Limits { comeback: short, ..limits() });
    edge.client.publish(&simple(1, &[&backend])).await.unwrap();
    backend.die().await;
    let mut session = Session::open(edge.address).await;
    assert_eq!(session.get(HOST, "/").await.status, 503);
    let seen = edge.facts(Blue, "backend").await;
    assert!(seen.latency_at(1.0).unwrap() >= short / 2, "it waited: {seen:?}");
    // Had they waited too, this would take minutes.
    for _ in 0..300 {
        assert_eq!(session.get(HOST, "/").await.status, 503);
    }
    let seen = edge.facts(Blue, "backend").await;
    assert_eq!((seen.reasons[&Reason::Connect], seen.waited()), (301, 0));
}

#[tokio::test]
async fn a_replica_that_dies_with_its_port_still_open_is_waited_for_too() {
    let dying = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = dying.local_addr().unwrap();
    let edge = TestEdge::with(patient());
    edge.client.publish(&at(1, address)).await.unwrap();
    let client = edge.address;
    let asked = tokio::spawn(async move { Session::open(client).await.get(HOST, "/").await });
    let mut requests = 0;
    while requests < 2 {
        let (mut stream, _) = dying.accept().await.unwrap();
        // A health check sends nothing.
        requests += usize::from(stream.read(&mut [0; 1024]).await.unwrap() > 0);
    }
    drop(dying);
    is_away(&edge).await;
    let _back = Backend::on("after", address).await;
    assert_eq!(asked.await.unwrap().text(), "after");
}

#[tokio::test]
async fn two_replicas_that_die_together_are_waited_for_whichever_is_asked_first() {
    // Which one that is, is drawn.
    for _ in 0..6 {
        let dying = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = dying.local_addr().unwrap();
        let dead = Backend::start("dead").await.die().await;
        let edge = TestEdge::with(patient());
        let endpoints = [address, dead].map(Endpoint::Http).to_vec();
        let mut both = slot(1, &[("/", "backend", endpoints)]);
        both.routes[0].health = None;
        edge.client.publish(&table(1, Blue, &[(Blue, both)])).await.unwrap();
        let client = edge.address;
        let asked = tokio::spawn(async move { Session::open(client).await.get(HOST, "/").await });
        let asking = loop {
            let (mut stream, _) = dying.accept().await.unwrap();
            // A health check sends nothing.
            if stream.read(&mut [0; 1024]).await.unwrap() > 0 {
                break stream;
            }
        };
        drop(dying);
        drop(asking);
        eventually("their absence is seen", async || {
            edge.client.status().await.unwrap().ejected.len() == 2
        })
        .await;
        let _back = Backend::on("after", address).await;
        assert_eq!(asked.await.unwrap().text(), "after");
    }
}
