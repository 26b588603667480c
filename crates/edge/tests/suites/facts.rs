//! What the edge counts, and its control socket.

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use crate::common::*;
use domain::Color::{Blue, Green};
use domain::route::{Reason, Verb};
use edge::{Client, ClientError, Edge, EdgeConfig, EdgeError, Limits};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn facts_add_up_to_what_the_clients_saw() {
    let (blue, green) = (Backend::start("blue").await, Backend::start("green").await);
    let edge = TestEdge::start();
    let both = [(Blue, all_to(1, &[&blue])), (Green, all_to(2, &[&green]))];
    edge.client.publish(&table(1, Blue, &both)).await.unwrap();
    let address = edge.address;
    let clients: Vec<_> = (0..6)
        .map(|_| {
            tokio::spawn(async move {
                let mut session = Session::open(address).await;
                let mut classes = [0_u64; 5];
                for path in ["/who", "/status/204", "/status/304", "/status/404", "/status/503"] {
                    for method in ["GET", "POST", "HEAD"] {
                        let reply = session.ask(method, HOST, path, &[], "").await;
                        classes[usize::from(reply.status / 100) - 1] += 1;
                    }
                }
                // Another host is another slot, or none.
                session.get(PREVIEW, "/who").await;
                session.get("nobody.localhost", "/who").await;
                classes
            })
        })
        .collect();
    let mut seen = [0; 5];
    for client in clients {
        let classes = client.await.unwrap();
        seen.iter_mut().zip(classes).for_each(|(sum, n)| *sum += n);
    }
    // Counted before the client has its answer: no waiting here.
    let facts = edge.facts(Blue, "backend").await;
    assert_eq!(facts.classes, seen);
    assert_eq!(facts.latency.count(), facts.total());
    assert_eq!((facts.unreachable(), facts.upgraded), (0, 0));
    assert!(facts.last_request_ms > 0);
    assert_eq!(edge.facts(Green, "backend").await.classes, [0, 6, 0, 0, 0]);
    eventually("nothing is in flight", async || edge.facts(Blue, "backend").await.in_flight == 0)
        .await;
}

#[tokio::test]
async fn a_service_that_nobody_asked_is_told_of_with_nothing_counted() {
    let blue = Backend::start("blue").await;
    let edge = TestEdge::start();
    edge.client.publish(&table(1, Blue, &[(Blue, all_to(1, &[&blue]))])).await.unwrap();
    let status = edge.client.status().await.unwrap();
    let known: Vec<_> = status.facts.iter().map(|(key, facts)| (key.slot, facts.total())).collect();
    assert_eq!(known, [(Blue, 0)]);
}

#[tokio::test]
async fn a_client_gives_up_at_its_deadline_and_says_where_nobody_answered() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("control.sock");
    let missing = Client::new(&path).status().await;
    assert!(matches!(missing, Err(ClientError::Unreachable { .. })), "{missing:?}");
    let _silent = tokio::net::UnixListener::bind(&path).unwrap();
    let client = Client::new(&path).with_deadline(Duration::from_millis(100));
    let late = client.status().await;
    assert!(matches!(late, Err(ClientError::Deadline { .. })), "{late:?}");
}

#[tokio::test]
async fn the_control_socket_is_for_its_owner_and_the_folder_for_one_edge() {
    let edge = TestEdge::start();
    let folder = edge.folder.path().join("edge");
    let mode =
        |name: &str| std::fs::metadata(folder.join(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode("control.sock"), mode(".")), (0o600, 0o700));
    let status = edge.client.status().await.unwrap();
    assert_eq!((status.pid, status.listen), (std::process::id(), edge.address));
    let config =
        |state, listen| EdgeConfig { listen, state, workers: Some(1), ..EdgeConfig::default() };
    let same_folder = config(folder, "127.0.0.1:0".parse().unwrap());
    let second = Edge::start(&same_folder, Limits::default()).map(|_| ());
    assert!(matches!(second, Err(EdgeError::Locked { .. })), "{second:?}");
    let same_port = config(edge.folder.path().join("other"), edge.address);
    let second = Edge::start(&same_port, Limits::default()).map(|_| ());
    assert!(matches!(second, Err(EdgeError::Listen { .. })), "{second:?}");
}

#[tokio::test]
async fn methods_bytes_and_connections_to_replicas_are_counted_for_each_route() {
    let backend = Backend::start("blue").await;
    let at = vec![domain::slot::Endpoint::Http(backend.address)];
    let routes = [("/", "shop", at.clone()), ("/status", "shop", at)];
    let edge = TestEdge::start();
    edge.client.publish(&table(1, Blue, &[(Blue, slot(1, &routes))])).await.unwrap();
    let mut session = Session::open(edge.address).await;
    let who = session.get(HOST, "/who").await;
    session.ask("POST", HOST, "/who", &[], "12345").await;
    session.ask("BREW", HOST, "/status/204", &[], "").await;
    let facts = edge.facts(Blue, "shop").await;
    let methods = [(Verb::Get, 1), (Verb::Post, 1), (Verb::Other, 1)];
    assert_eq!(facts.methods, methods.into());
    assert_eq!(facts.bytes_in, 5);
    assert!(facts.bytes_out >= who.text().len() as u64, "{facts:?}");
    assert_eq!((facts.latency.count(), facts.first_byte.count()), (3, 3));
    assert!((1..=3).contains(&facts.connect.count()), "{facts:?}");
    let routes = edge.client.routes().await.unwrap();
    let counted = routes.iter().map(|r| (r.prefix.as_str(), r.facts.total()));
    assert_eq!(counted.collect::<Vec<_>>(), [("/", 2), ("/status", 1)]);
    let mut sum = domain::route::Facts::default();
    routes.iter().for_each(|route| sum.merge(&route.facts));
    assert_eq!((sum.classes, &sum.latency), (facts.classes, &facts.latency));
}

#[tokio::test]
async fn requests_that_reach_no_route_are_counted_by_reason_and_never_by_what_clients_chose() {
    let backend = Backend::start("blue").await;
    let edge = TestEdge::start();
    let at = vec![domain::slot::Endpoint::Http(backend.address)];
    let only = slot(1, &[("/api", "backend", at)]);
    edge.client.publish(&table(1, Blue, &[(Blue, only)])).await.unwrap();
    for n in 0..20 {
        edge.get(&format!("host{n}.localhost"), "/").await;
        edge.get(HOST, &format!("/path{n}")).await;
    }
    edge.get(PREVIEW, "/").await;
    raw(edge.address, b"GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n").await;
    let status = edge.client.status().await.unwrap();
    let seen: Vec<_> = status
        .turned_away
        .iter()
        .map(|away| (away.environment.is_some(), away.reason, away.status, away.count))
        .collect();
    assert_eq!(
        seen,
        [
            (false, Reason::UnknownHost, 404, 20),
            (false, Reason::Malformed, 400, 1),
            (true, Reason::NoPreview, 404, 1),
            (true, Reason::NoRoute, 404, 20),
        ]
    );
    let reached: u64 = status.facts.iter().map(|(_, facts)| facts.total()).sum();
    assert_eq!(reached, 0, "none of them is counted for a service");
}

#[tokio::test]
async fn why_a_request_failed_is_counted() {
    let gone = Backend::start("gone").await;
    let edge = TestEdge::start();
    edge.client.publish(&simple(1, &[&gone])).await.unwrap();
    gone.die().await;
    assert_eq!(edge.get(HOST, "/x").await.status, 503);
    let facts = edge.facts(Blue, "backend").await;
    assert_eq!((facts.reasons, facts.classes), ([(Reason::Connect, 1)].into(), [0, 0, 0, 0, 1]));
}
