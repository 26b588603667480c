//! A thousand slow clients leave the others untouched, and the edge's memory within bounds.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use crate::common::*;
use edge::{Client, Edge, EdgeConfig};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;

const SLOW: usize = 1_000;
/// Ordinary requests: how many, and how often.
const ORDINARY: u32 = 200;
const EACH: Duration = Duration::from_millis(20);
/// How many times the latency of ordinary requests may grow.
const FEW: u32 = 4;
/// What one slow client may cost: a buffer in each direction.
const KIB_EACH: usize = 128;

/// The folder of an edge that is a process of its own, so that its memory is its own.
const FOLDER: &str = "EDGE_OF_ITS_OWN";

struct OwnProcess {
    child: Child,
    client: Client,
    address: SocketAddr,
    _folder: tempfile::TempDir,
}

/// No test: the process that [`OwnProcess`] starts, until its standard input ends.
#[test]
#[ignore = "is started by the test below"]
fn an_edge_of_its_own() {
    let Some(folder) = std::env::var_os(FOLDER).map(PathBuf::from) else { return };
    let edge = Edge::start(&config(&folder), limits()).unwrap();
    std::io::copy(&mut std::io::stdin(), &mut std::io::sink()).unwrap();
    edge.stop();
}

fn config(folder: &Path) -> EdgeConfig {
    EdgeConfig { state: folder.join("edge"), workers: Some(2), ..EdgeConfig::default() }
}

impl OwnProcess {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "suites::slow::an_edge_of_its_own"])
            .env(FOLDER, folder.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let client = Client::new(config(folder.path()).state.join("control.sock"));
        eventually("the edge answers", async || client.status().await.is_ok()).await;
        let address = client.status().await.unwrap().listen;
        Self { child, client, address, _folder: folder }
    }

    /// Resident memory in KiB.
    fn memory(&self) -> usize {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }
}

impl Drop for OwnProcess {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

/// The 99th percentile of the time of ordinary requests at a constant rate. Every one of them is answered.
async fn ordinary(address: SocketAddr) -> Duration {
    let mut asking = JoinSet::new();
    let start = Instant::now();
    for n in 0..ORDINARY {
        asking.spawn(async move {
            let due = start + EACH * n;
            tokio::time::sleep_until(due.into()).await;
            let reply = Session::open(address).await.get(HOST, "/who").await;
            assert_eq!((reply.status, reply.text()), (200, "backend"));
            // From when it should have been sent: a stall counts for all that it holds up.
            due.elapsed()
        });
    }
    let mut times = asking.join_all().await;
    times.sort();
    times[times.len() * 99 / 100]
}

/// Opens the `n`th slow connection, and keeps it slow.
async fn slow(address: SocketAddr, n: usize, there: Arc<AtomicUsize>) {
    let socket = TcpSocket::new_v4().unwrap();
    // What it does not read stays with the edge, and not in the kernel.
    socket.set_recv_buffer_size(4096).unwrap();
    let mut stream = socket.connect(address).await.unwrap();
    there.fetch_add(1, Relaxed);
    let post = format!("POST /upload HTTP/1.1\r\nhost: {HOST}\r\ncontent-length: 100000\r\n\r\n");
    match n % 4 {
        0 => trickle(&mut stream, "GET /who HTTP/1.1\r\nhost: ").await,
        1 => trickle(&mut stream, &post).await,
        2 => {
            let download = format!("GET /download/200 HTTP/1.1\r\nhost: {HOST}\r\n\r\n");
            stream.write_all(download.as_bytes()).await.unwrap();
        }
        _ => {}
    }
    std::future::pending::<()>().await;
}

/// Sends `begin`, and then a byte now and then until it is sent away.
async fn trickle(stream: &mut TcpStream, begin: &str) {
    let mut sent = stream.write_all(begin.as_bytes()).await;
    while sent.is_ok() {
        tokio::time::sleep(Duration::from_millis(500)).await;
        sent = stream.write_all(b"x").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_slow_clients_leave_the_others_untouched() {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
    let backend = Backend::start("backend").await;
    let edge = OwnProcess::start().await;
    edge.client.publish(&simple(1, &[&backend])).await.unwrap();
    ordinary(edge.address).await;
    let before = edge.memory();
    // Another test beside this one may disturb one round, but not all of them.
    let mut rounds = Vec::new();
    let untouched = loop {
        let alone = ordinary(edge.address).await;
        let mut crowd = JoinSet::new();
        let there = Arc::new(AtomicUsize::new(0));
        let served = backend.requests();
        for n in 0..SLOW {
            crowd.spawn(slow(edge.address, n, there.clone()));
        }
        // Half of them are requests that the backend hears of at once: bodies and downloads.
        let all = async || {
            there.load(Relaxed) == SLOW && backend.requests() >= served + (SLOW / 2) as u64
        };
        eventually("the crowd is there", all).await;
        // How it came is over, too.
        ordinary(edge.address).await;
        let crowded = ordinary(edge.address).await;
        let memory = edge.memory().saturating_sub(before);
        assert!(memory < SLOW * KIB_EACH, "{memory} KiB for {SLOW} slow clients");
        println!("p99 alone {alone:?}, with {SLOW} slow clients {crowded:?}, {memory} KiB more");
        rounds.push((alone, crowded));
        if crowded <= alone * FEW {
            break true;
        }
        if rounds.len() == 3 {
            break false;
        }
        crowd.shutdown().await;
    };
    assert!(untouched, "p99 of ordinary requests, alone and with slow clients: {rounds:?}");
}
