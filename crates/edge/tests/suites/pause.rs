//! Requests that are held for a while, and where they go afterwards.

use std::time::Duration;

use crate::common::*;
use domain::Color::{Blue, Green};
use domain::EnvironmentName;
use domain::route::Table;
use edge::{ClientError, PauseFor};
use tokio::task::JoinHandle;

const LONG: PauseFor = PauseFor { duration: Duration::from_secs(60), most: 100 };

fn both(epoch: u64, live: domain::Color, blue: &Backend, green: &Backend) -> Table {
    table(epoch, live, &[(Blue, all_to(1, &[blue])), (Green, all_to(2, &[green]))])
}

async fn ask(edge: &TestEdge, path: &'static str) -> JoinHandle<(u16, String)> {
    let mut session = Session::open(edge.address).await;
    tokio::spawn(async move {
        let reply = session.get(HOST, path).await;
        (reply.status, reply.text().to_owned())
    })
}

/// Pausing again tells how many are held, and holds them again.
async fn held(edge: &TestEdge, wanted: PauseFor) -> usize {
    edge.client.pause(&staging(), wanted).await.unwrap().held
}

#[tokio::test]
async fn a_pause_around_a_switch_sends_all_held_requests_to_the_new_slot() {
    let (blue, green) = (Backend::start("blue").await, Backend::start("green").await);
    let edge = TestEdge::start();
    edge.client.publish(&both(1, Blue, &blue, &green)).await.unwrap();
    let in_flight = ask(&edge, "/hold").await;
    eventually("one is in flight", async || blue.requests() == 1).await;
    assert_eq!(held(&edge, LONG).await, 0);
    let mut waiting = Vec::new();
    for _ in 0..20 {
        waiting.push(ask(&edge, "/").await);
    }
    eventually("twenty are held", async || held(&edge, LONG).await == 20).await;
    // What was in flight goes on, and the drain reaches zero while all others wait.
    blue.go();
    assert_eq!(in_flight.await.unwrap(), (200, "blue".into()));
    eventually("blue carries nothing", async || {
        edge.client.drain(&staging(), Blue).await.unwrap().done()
    })
    .await;
    // Checks before the switch are not held.
    assert_eq!(edge.get(PREVIEW, "/").await.text(), "green");
    edge.client.publish(&both(2, Green, &blue, &green)).await.unwrap();
    assert_eq!(edge.client.resume(&staging()).await.unwrap().held, 20);
    for request in waiting {
        assert_eq!(request.await.unwrap(), (200, "green".into()));
    }
    assert_eq!(blue.requests(), 1);
    assert_eq!(edge.client.resume(&staging()).await.unwrap().held, 0);
}

#[tokio::test]
async fn a_pause_ends_by_itself_and_holds_no_more_than_it_may() {
    let blue = Backend::start("blue").await;
    let edge = TestEdge::start();
    edge.client.publish(&simple(1, &[&blue])).await.unwrap();
    let short = PauseFor { duration: Duration::from_millis(400), most: 2 };
    let two = [ask(&edge, "/").await, ask(&edge, "/").await];
    for request in two {
        assert_eq!(request.await.unwrap().0, 200);
    }
    let before = blue.requests();
    edge.client.pause(&staging(), short).await.unwrap();
    let mut all = Vec::new();
    for _ in 0..6 {
        all.push(ask(&edge, "/").await);
    }
    let mut statuses = Vec::new();
    for request in all {
        statuses.push(request.await.unwrap().0);
    }
    statuses.sort();
    assert_eq!(statuses, [200, 200, 503, 503, 503, 503]);
    assert_eq!(blue.requests(), before + 2);
    edge.client.pause(&staging(), PauseFor { most: 1, ..LONG }).await.unwrap();
    let (one, other) = (edge.get(HOST, "/"), edge.get(HOST, "/"));
    let refused = tokio::select! { reply = one => reply, reply = other => reply };
    assert_eq!((refused.status, refused.header("retry-after")), (503, "2"));
}

#[tokio::test]
async fn a_held_client_that_leaves_is_dropped_and_frees_its_place() {
    let blue = Backend::start("blue").await;
    let edge = TestEdge::start();
    edge.client.publish(&simple(1, &[&blue])).await.unwrap();
    held(&edge, LONG).await;
    let waiting = ask(&edge, "/").await;
    eventually("one is held", async || held(&edge, LONG).await == 1).await;
    waiting.abort();
    eventually("nobody is held", async || held(&edge, LONG).await == 0).await;
    edge.client.resume(&staging()).await.unwrap();
    assert_eq!(edge.get(HOST, "/").await.text(), "blue");
    assert_eq!(blue.requests(), 1, "the request of the client that left was not sent");
}

#[tokio::test]
async fn a_pause_without_bounds_or_of_an_unknown_environment_is_refused_and_none_outlives_the_edge()
{
    let blue = Backend::start("blue").await;
    let edge = TestEdge::start();
    edge.client.publish(&simple(1, &[&blue])).await.unwrap();
    for wrong in [
        PauseFor { duration: Duration::ZERO, ..LONG },
        PauseFor { duration: Duration::from_secs(3600), ..LONG },
        PauseFor { most: 0, ..LONG },
        PauseFor { most: usize::MAX, ..LONG },
    ] {
        let refused = edge.client.pause(&staging(), wrong).await;
        assert!(matches!(refused, Err(ClientError::Refused(_))), "{wrong:?}: {refused:?}");
    }
    let unknown = EnvironmentName::new("nowhere").unwrap();
    for refused in [edge.client.pause(&unknown, LONG).await, edge.client.resume(&unknown).await] {
        let Err(ClientError::Unknown(said)) = refused else { panic!("{refused:?}") };
        assert_eq!(said, "the edge routes no environment nowhere; it routes staging");
    }
    held(&edge, LONG).await;
    let edge = TestEdge::in_folder(edge.stop().await, limits());
    assert_eq!(edge.get(HOST, "/").await.text(), "blue");
}
