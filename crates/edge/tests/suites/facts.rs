//! What the edge counts, and its control socket.

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use crate::common::*;
use domain::Color::{Blue, Green};
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
