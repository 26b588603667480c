//! What happens to requests and connections when another slot gets the traffic.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};

use crate::common::*;
use domain::Color::{Blue, Green};
use domain::Epoch;
use domain::route::Table;
use edge::ClientError;
use http_body_util::BodyExt;
use tokio::io::AsyncReadExt;

fn both(epoch: u64, live: domain::Color, blue: &Backend, green: &Backend) -> Table {
    table(epoch, live, &[(Blue, all_to(1, &[blue])), (Green, all_to(2, &[green]))])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_switch_under_load_loses_nothing_and_nothing_new_reaches_the_old_slot() {
    let (blue, green) = (Backend::start("blue").await, Backend::start("green").await);
    let edge = TestEdge::start();
    edge.client.publish(&both(1, Blue, &blue, &green)).await.unwrap();
    let (stop, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let clients: Vec<_> = (0..8)
        .map(|n| {
            let (stop, asked, address) = (stop.clone(), asked.clone(), edge.address);
            tokio::spawn(async move {
                let mut session = Session::open(address).await;
                let method = if n % 2 == 0 { "GET" } else { "POST" };
                while !stop.load(SeqCst) {
                    let reply = session.ask(method, HOST, "/echo/x", &[], "hello").await;
                    assert_eq!((reply.status, reply.text()), (200, "hello"));
                    asked.fetch_add(1, SeqCst);
                }
            })
        })
        .collect();
    let mut live = Blue;
    for epoch in 2..22 {
        let seen = asked.load(SeqCst);
        eventually("requests flow", async || asked.load(SeqCst) >= seen + 40).await;
        let (old, new) = match live {
            Blue => (&blue, &green),
            Green => (&green, &blue),
        };
        live = live.other();
        edge.client.publish(&both(epoch, live, &blue, &green)).await.unwrap();
        // Only what was in flight at the switch may still arrive; then the old slot is silent.
        eventually("the old slot is drained", async || {
            edge.client.drain(&staging(), live.other()).await.unwrap().done()
        })
        .await;
        let silent = old.requests();
        let before = new.requests();
        eventually("the new slot serves", async || new.requests() >= before + 40).await;
        assert_eq!(old.requests(), silent, "epoch {epoch}");
    }
    stop.store(true, SeqCst);
    for client in clients {
        client.await.expect("a request failed");
    }
    assert_eq!(blue.requests() + green.requests(), asked.load(SeqCst));
}

#[tokio::test]
async fn a_connection_moves_at_a_request_boundary_and_a_request_in_flight_finishes_where_it_began()
{
    let (blue, green) = (Backend::start("blue").await, Backend::start("green").await);
    let edge = TestEdge::start();
    edge.client.publish(&both(1, Blue, &blue, &green)).await.unwrap();
    let mut kept = Session::open(edge.address).await;
    assert_eq!(kept.get(HOST, "/").await.text(), "blue");
    let mut slow = Session::open(edge.address).await;
    let held = tokio::spawn(async move {
        let reply = slow.get(HOST, "/hold").await;
        (reply.text().to_owned(), slow.get(HOST, "/").await.text().to_owned())
    });
    eventually("the slow request is in flight", async || blue.requests() == 2).await;
    edge.client.publish(&both(2, Green, &blue, &green)).await.unwrap();
    assert_eq!(kept.get(HOST, "/").await.text(), "green");
    let drain = edge.client.drain(&staging(), Blue).await.unwrap();
    assert_eq!((drain.in_flight, drain.upgraded, drain.oldest_ms.is_some()), (1, 0, true));
    let last = edge.facts(Blue, "backend").await.last_request_ms;
    blue.go();
    assert_eq!(held.await.unwrap(), ("blue".into(), "green".into()));
    eventually("blue is drained", async || {
        edge.client.drain(&staging(), Blue).await.unwrap().done()
    })
    .await;
    assert_eq!(edge.facts(Blue, "backend").await.last_request_ms, last);
    // Facts of a slot that left the table can still be read.
    edge.client.publish(&table(3, Green, &[(Green, all_to(2, &[&green]))])).await.unwrap();
    assert_eq!(edge.facts(Blue, "backend").await.total(), 2);
}

#[tokio::test]
async fn an_older_epoch_and_another_content_of_the_same_epoch_are_refused() {
    let (blue, green) = (Backend::start("blue").await, Backend::start("green").await);
    let edge = TestEdge::start();
    let current = both(5, Blue, &blue, &green);
    assert!(edge.client.publish(&current).await.unwrap().changed);
    let again = edge.client.publish(&current).await.unwrap();
    assert_eq!((again.epoch, again.changed), (Epoch(5), false));
    let stale = edge.client.publish(&both(4, Green, &blue, &green)).await;
    assert!(
        matches!(stale, Err(ClientError::StaleEpoch { offered: Epoch(4), in_force: Epoch(5) })),
        "{stale:?}"
    );
    let conflict = edge.client.publish(&both(5, Green, &blue, &green)).await;
    assert!(matches!(conflict, Err(ClientError::Refused(_))), "{conflict:?}");
    assert_eq!(edge.client.status().await.unwrap().epoch, Epoch(5));
    assert_eq!(edge.get(HOST, "/").await.text(), "blue");
    let mut clash = both(6, Blue, &blue, &green);
    clash.environments.get_mut(&staging()).unwrap().preview_host = HOST.into();
    assert!(matches!(edge.client.publish(&clash).await, Err(ClientError::Refused(_))));
}

#[tokio::test]
async fn an_edge_that_starts_alone_serves_from_the_table_on_disk() {
    let blue = Backend::start("blue").await;
    let edge = TestEdge::start();
    edge.client.publish(&simple(7, &[&blue])).await.unwrap();
    let folder = edge.stop().await;
    let edge = TestEdge::in_folder(folder, limits());
    assert_eq!(edge.get(HOST, "/").await.text(), "blue");
    let stale = edge.client.publish(&simple(6, &[&blue])).await;
    assert!(matches!(stale, Err(ClientError::StaleEpoch { .. })), "{stale:?}");
    let folder = edge.stop().await;
    std::fs::write(folder.path().join("edge/table.json"), "{").unwrap();
    let edge = TestEdge::in_folder(folder, limits());
    assert_eq!(edge.get(HOST, "/").await.status, 404);
    assert!(edge.folder.path().join("edge/table.json.bad").exists());
    edge.client.publish(&simple(1, &[&blue])).await.unwrap();
    assert_eq!(edge.get(HOST, "/").await.text(), "blue");
}

#[tokio::test]
async fn a_tunnel_and_an_event_stream_stay_until_the_drain_deadline_and_then_end() {
    let (blue, green) = (Backend::start("blue").await, Backend::start("green").await);
    let edge = TestEdge::start();
    let mut first = both(1, Blue, &blue, &green);
    let mut second = both(2, Green, &blue, &green);
    for table in [&mut first, &mut second] {
        let environment = table.environments.get_mut(&staging()).unwrap();
        environment.drain_deadline = std::time::Duration::from_millis(500);
    }
    edge.client.publish(&first).await.unwrap();
    let mut socket = tunnel(edge.address).await;
    echo(&mut socket, "before").await;
    let mut session = Session::open(edge.address).await;
    let (_sender, body) = fed();
    drop(_sender);
    let stream = session.start("GET", HOST, "/events", &[], body).await.unwrap();
    let mut events = stream.into_body();
    assert_eq!(events.frame().await.unwrap().unwrap().data_ref().unwrap(), "data: 0\n\n");
    let drain = edge.client.drain(&staging(), Blue).await.unwrap();
    assert_eq!((drain.in_flight, drain.upgraded), (1, 1));
    edge.client.publish(&second).await.unwrap();
    echo(&mut socket, "after the switch").await;
    blue.go();
    assert_eq!(events.frame().await.unwrap().unwrap().data_ref().unwrap(), "data: 1\n\n");
    // Both end by themselves, and cleanly: an end of file, and the end of a whole body.
    assert_eq!(socket.read(&mut [0; 16]).await.unwrap(), 0);
    assert!(events.frame().await.is_none());
    eventually("blue is drained", async || {
        edge.client.drain(&staging(), Blue).await.unwrap().done()
    })
    .await;
    assert_eq!(edge.facts(Blue, "backend").await.classes, [1, 1, 0, 0, 0]);
    // The client's connection outlives the stream that ended.
    assert_eq!(session.get(HOST, "/").await.text(), "green");
}

#[tokio::test]
async fn a_stopping_edge_answers_what_is_in_flight() {
    let blue = Backend::start("blue").await;
    let edge = TestEdge::start();
    edge.client.publish(&simple(1, &[&blue])).await.unwrap();
    let address = edge.address;
    let mut slow = Session::open(address).await;
    let held = tokio::spawn(async move { slow.get(HOST, "/hold").await.text().to_owned() });
    let mut idle = tokio::net::TcpStream::connect(address).await.unwrap();
    eventually("the request is in flight", async || blue.requests() == 1).await;
    let stopping = tokio::spawn(edge.stop());
    eventually("nothing is accepted any more", async || {
        tokio::net::TcpStream::connect(address).await.is_err()
    })
    .await;
    assert_eq!(idle.read(&mut [0; 16]).await.unwrap(), 0);
    blue.go();
    assert_eq!(held.await.unwrap(), "blue");
    stopping.await.unwrap();
}
