//! One edge takes over from another: real processes, this test's own program started again.

mod common;

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant};

use common::*;
use domain::Color::{Blue, Green};
use domain::route::Table;
use edge::{Client, EdgeConfig, Limits};
use futures_util::{SinkExt, StreamExt};
use tokio::net::TcpStream;
use tokio_tungstenite::client_async;
use tokio_tungstenite::tungstenite::Message;

/// Whether plain requests take the fast path.
pub const FAST: bool = true;

const UPGRADES: usize = 20;

/// Not a test: what the others start as a process of its own, told by its environment.
#[test]
fn the_edge_itself() {
    let Some(state) = std::env::var_os("TEST_EDGE_STATE") else { return };
    let value = |name: &str| std::env::var(name).unwrap();
    let config = EdgeConfig {
        listen: value("TEST_EDGE_LISTEN").parse().unwrap(),
        state: state.into(),
        workers: value("TEST_EDGE_WORKERS").parse().ok(),
        take_over: true,
        ..EdgeConfig::default()
    };
    let limits = Limits { idle: Duration::from_secs(5), ..limits() };
    edge::run(&config, limits).unwrap();
}

/// Kills its process when dropped.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

struct Scene {
    folder: tempfile::TempDir,
    address: SocketAddr,
    client: Client,
}

impl Scene {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        // Free a moment ago: the kernel gives it to nobody else so soon.
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = free.local_addr().unwrap();
        let client = Client::new(folder.path().join("edge/control.sock"));
        Self { address, client, folder }
    }

    fn state(&self) -> PathBuf {
        self.folder.path().join("edge")
    }

    fn spawn(&self, workers: usize) -> Process {
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "the_edge_itself", "--nocapture"])
            .env("TEST_EDGE_STATE", self.state())
            .env("TEST_EDGE_LISTEN", self.address.to_string())
            .env("TEST_EDGE_WORKERS", workers.to_string())
            .stdout(Stdio::null())
            .spawn();
        Process(child.unwrap())
    }

    /// Starts one and waits until it is the edge.
    async fn start(&self, workers: usize) -> Process {
        let process = self.spawn(workers);
        eventually("the new process is the edge", async || {
            self.client.status().await.is_ok_and(|status| status.pid == process.0.id())
        })
        .await;
        process
    }

    async fn get(&self, path: &str) -> Reply {
        Session::open(self.address).await.get(HOST, path).await
    }
}

async fn ended(process: &mut Process) -> Option<i32> {
    let mut code = None;
    eventually("the old process has ended", async || {
        code = process.0.try_wait().unwrap();
        code.is_some()
    })
    .await;
    code.unwrap().code()
}

/// Asks all the time on connections that are kept as long as the edge keeps them.
async fn keep_asking(
    address: SocketAddr,
    method: &str,
    stop: &AtomicBool,
    asked: &AtomicU64,
) -> u64 {
    let mut connections = 0;
    while !stop.load(SeqCst) {
        let mut session = Session::open(address).await;
        connections += 1;
        while !stop.load(SeqCst) {
            let reply = session.ask(method, HOST, "/echo/x", &[], "hello").await;
            assert_eq!((reply.status, reply.text()), (200, "hello"));
            asked.fetch_add(1, SeqCst);
            if reply.header("connection") == "close" {
                break;
            }
        }
    }
    connections
}

/// Talks all the time, and comes back when it is told to go.
async fn keep_talking(address: SocketAddr, stop: &AtomicBool) -> u64 {
    let mut closes = 0;
    while !stop.load(SeqCst) {
        let stream = TcpStream::connect(address).await.unwrap();
        let (mut socket, _) = client_async(format!("ws://{HOST}/ws/echo"), stream).await.unwrap();
        let mut told = false;
        while !told && !stop.load(SeqCst) {
            if socket.send(Message::text("hello")).await.is_err() {
                // Only a Close that is read next may be the reason.
            }
            match socket.next().await {
                Some(Ok(Message::Close(frame))) => {
                    assert_eq!(frame.map(|frame| u16::from(frame.code)), Some(1012));
                    told = true;
                }
                Some(Ok(_)) => tokio::time::sleep(Duration::from_millis(5)).await,
                other => panic!("abnormal close: {other:?}"),
            }
        }
        closes += u64::from(told);
    }
    closes
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twenty_upgrades_under_load_fail_no_request_and_break_no_websocket() {
    let scene = Scene::new();
    let blue = Backend::start("blue").await;
    let mut edge = scene.start(2).await;
    scene.client.publish(&simple(1, &[&blue])).await.unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let asked = Arc::new(AtomicU64::new(0));
    let address = scene.address;
    let clients: Vec<_> = (0..32)
        .map(|n| {
            let (stop, asked) = (stop.clone(), asked.clone());
            let method = if n % 2 == 0 { "GET" } else { "POST" };
            tokio::spawn(async move { keep_asking(address, method, &stop, &asked).await })
        })
        .collect();
    let sockets: Vec<_> = (0..10)
        .map(|_| {
            let stop = stop.clone();
            tokio::spawn(async move { keep_talking(address, &stop).await })
        })
        .collect();
    let fresh = {
        let (stop, asked) = (stop.clone(), asked.clone());
        tokio::spawn(async move {
            while !stop.load(SeqCst) {
                let reply = Session::open(address).await.get(HOST, "/").await;
                assert_eq!((reply.status, reply.text()), (200, "blue"));
                asked.fetch_add(1, SeqCst);
            }
        })
    };
    let mut took = Vec::new();
    for n in 0..UPGRADES {
        let before = asked.load(SeqCst);
        eventually("requests flow", async || asked.load(SeqCst) >= before + 200).await;
        let began = Instant::now();
        // Each has another number of workers than the one before.
        let next = scene.start([3, 1, 2][n % 3]).await;
        took.push(began.elapsed());
        assert_eq!(ended(&mut edge).await, Some(0), "upgrade {n}");
        edge = next;
    }
    stop.store(true, SeqCst);
    let mut connections = 0;
    for client in clients {
        connections += client.await.expect("a request failed");
    }
    let mut closes = 0;
    for socket in sockets {
        closes += socket.await.expect("a WebSocket broke");
    }
    fresh.await.expect("a request on a new connection failed");
    let total = asked.load(SeqCst);
    took.sort();
    println!(
        "{UPGRADES} upgrades (median {:?}): {total} requests on {connections} kept connections and new ones, \
         {closes} WebSockets moved, 0 failed",
        took[took.len() / 2]
    );
    assert!(connections >= UPGRADES as u64, "nobody moved");
    // No number is lost with the edges that counted it.
    eventually("every answer is counted", async || {
        let status = scene.client.status().await.unwrap();
        status.facts.iter().map(|(_, facts)| facts.classes[1]).sum::<u64>() == total
    })
    .await;
}

#[tokio::test]
async fn what_was_under_way_finishes_in_the_old_edge_and_the_new_one_answers_for_it() {
    let scene = Scene::new();
    let (blue, green) = (Backend::start("blue").await, Backend::start("green").await);
    let both = |epoch, live| -> Table {
        let mut table =
            table(epoch, live, &[(Blue, all_to(1, &[&blue])), (Green, all_to(2, &[&green]))]);
        let environment = table.environments.get_mut(&staging()).unwrap();
        environment.drain_deadline =
            if live == Blue { Duration::from_secs(60) } else { Duration::from_millis(100) };
        table
    };
    let mut old = scene.start(1).await;
    scene.client.publish(&both(1, Blue)).await.unwrap();
    let mut slow = Session::open(scene.address).await;
    let held = tokio::spawn(async move {
        let reply = slow.get(HOST, "/hold").await;
        (reply.status, reply.text().to_owned(), reply.header("connection").to_owned())
    });
    let mut idle = Session::open(scene.address).await;
    assert_eq!(idle.get(HOST, "/").await.text(), "blue");
    let stream = TcpStream::connect(scene.address).await.unwrap();
    let (mut socket, _) = client_async(format!("ws://{HOST}/ws/echo"), stream).await.unwrap();
    eventually("the slow request is in flight", async || blue.requests() == 3).await;
    let _new = scene.start(1).await;
    let drain = scene.client.drain(&staging(), Blue).await.unwrap();
    assert_eq!((drain.in_flight, drain.upgraded), (1, 1));
    let finishing = scene.client.status().await.unwrap().finishing;
    let [left] = &finishing[..] else { panic!("one finishes, not {finishing:?}") };
    assert_eq!((left.pid, left.in_flight, left.upgraded), (old.0.id(), 1, 1));
    assert_eq!(left.connections, 3);
    // A connection without a request is answered once more, and told to go.
    let reply = idle.get(HOST, "/").await;
    assert_eq!((reply.text(), reply.header("connection")), ("blue", "close"));
    socket.send(Message::text("still")).await.unwrap();
    assert_eq!(socket.next().await.unwrap().unwrap(), Message::text("still"));
    // The old edge gets the tables of the new one: its slot retires there too.
    scene.client.publish(&both(2, Green)).await.unwrap();
    match socket.next().await {
        Some(Ok(Message::Close(Some(frame)))) => assert_eq!(u16::from(frame.code), 1012),
        other => panic!("abnormal close: {other:?}"),
    }
    assert!(socket.next().await.is_none());
    blue.go();
    assert_eq!(held.await.unwrap(), (200, "blue".into(), "close".into()));
    assert_eq!(ended(&mut old).await, Some(0));
    eventually("blue is drained", async || {
        scene.client.drain(&staging(), Blue).await.is_ok_and(|drain| drain.done())
    })
    .await;
    assert_eq!(scene.get("/").await.text(), "green");
    let sockets = || {
        let files = std::fs::read_dir(scene.state()).unwrap().flatten();
        files.filter(|f| f.file_name().to_string_lossy().starts_with("control-")).count()
    };
    eventually("one control socket is left", async || sockets() == 1).await;
    assert!(scene.client.status().await.unwrap().finishing.is_empty());
    // The numbers of single routes stay too: the two plain ones, the held one, and the socket.
    let routes = scene.client.routes().await.unwrap();
    let blue = routes.iter().find(|route| route.key.slot == Blue).expect("blue was asked");
    assert_eq!((blue.facts.total(), blue.facts.in_flight, blue.facts.upgraded), (4, 0, 0));
}

#[tokio::test]
async fn a_new_edge_that_dies_before_it_is_ready_changes_nothing() {
    let scene = Scene::new();
    let blue = Backend::start("blue").await;
    let old = scene.start(2).await;
    scene.client.publish(&simple(1, &[&blue])).await.unwrap();
    let request: &[u8] = b"POST /handover HTTP/1.1\r\nhost: edge\r\nconnection: upgrade\r\nupgrade: launchway-handover-1\r\n\r\n";
    for (epoch, step) in (2..).zip(["connected", "asked", "offered", "received", "talks nonsense"])
    {
        let mut stream = connect(&scene.state());
        if step != "connected" {
            stream.write_all(request).unwrap();
        }
        match step {
            "offered" => stream.read_exact(&mut [0; 12]).unwrap(),
            // Descriptors that come with bytes read in the ordinary way are closed by the kernel.
            "received" | "talks nonsense" => {
                while stream.read(&mut [0; 1024]).is_ok_and(|n| n > 0) {}
            }
            _ => {}
        }
        if step == "talks nonsense" {
            stream.write_all(b"hello").unwrap();
        }
        if step == "received" {
            // Meanwhile nothing may be published; whoever asks waits.
            let short = scene.client.clone().with_deadline(Duration::from_millis(200));
            assert!(short.publish(&simple(epoch, &[&blue])).await.is_err());
        }
        assert_eq!(scene.get("/").await.text(), "blue", "{step}");
        drop(stream);
        scene.client.publish(&simple(epoch, &[&blue])).await.unwrap();
        let status = scene.client.status().await.unwrap();
        assert_eq!((status.pid, status.epoch.0), (old.0.id(), epoch), "{step}");
        assert_eq!(scene.get("/").await.text(), "blue", "{step}");
    }
}

#[tokio::test]
async fn new_edges_killed_at_any_moment_leave_the_address_answering() {
    let scene = Scene::new();
    let blue = Backend::start("blue").await;
    let mut edges = vec![scene.start(1).await];
    scene.client.publish(&simple(1, &[&blue])).await.unwrap();
    for n in 0..12 {
        let mut next = scene.spawn(1);
        // From before it asks until after it took over, whatever the machine makes of it.
        tokio::time::sleep(Duration::from_millis(n * 3)).await;
        let over = scene.client.status().await.is_ok_and(|status| status.pid == next.0.id());
        if over {
            edges.push(next);
            continue;
        }
        next.0.kill().unwrap();
        next.0.wait().unwrap();
        let status = scene.client.status().await;
        if status.is_err() {
            // It died right behind the last word: its supervisor starts it again.
            edges.push(scene.start(1).await);
        }
        assert_eq!(scene.get("/").await.text(), "blue", "killed after {} ms", n * 3);
        scene.client.publish(&simple(2 + n, &[&blue])).await.unwrap();
    }
    edges.push(scene.start(2).await);
    assert_eq!(scene.get("/").await.text(), "blue");
}

fn connect(state: &Path) -> UnixStream {
    let stream = UnixStream::connect(state.join("control.sock")).unwrap();
    stream.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    stream
}
