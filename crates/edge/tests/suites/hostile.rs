//! Requests that no honest client sends: refused by the edge itself, and never seen by a replica.

mod cases;

use std::io::ErrorKind::{NotFound, PermissionDenied};
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::common::*;
use bytes::Bytes;
use cases::{CASES, Case};
use domain::Color;
use domain::slot::Endpoint;
use edge::Limits;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const SHORT: Duration = Duration::from_secs(1);

async fn edge_and_backend(limits: Limits) -> (TestEdge, Backend) {
    let backend = Backend::start("backend").await;
    let edge = TestEdge::with(limits);
    edge.client.publish(&simple(1, &[&backend])).await.unwrap();
    (edge, backend)
}

/// Every case against the edge and against nginx in front of the same backend, each on a connection of its own.
#[tokio::test]
async fn no_hostile_request_gets_more_than_it_should() {
    let backend = Recorder::start().await;
    let edge = TestEdge::with(Limits { head: SHORT, idle: SHORT, ..limits() });
    let endpoints = vec![Endpoint::Http(backend.address)];
    let routes = slot(1, &[("/", "backend", endpoints)]);
    edge.client.publish(&table(1, Color::Blue, &[(Color::Blue, routes)])).await.unwrap();
    let nginx = Nginx::in_front_of(backend.address).await;
    let ours = answers(edge.address, "e").await;
    let theirs = match &nginx {
        Some(nginx) => answers(nginx.address, "n").await,
        None => vec![Vec::new(); CASES.len()],
    };
    let mut rows =
        String::from("| request | must be | edge | nginx |\n| --- | --- | --- | --- |\n");
    let mut wrong = Vec::new();
    for (n, case) in CASES.iter().enumerate() {
        let (edge_said, nginx_said) = (&ours[n], &theirs[n]);
        wrong.extend(judge(n, case, edge_said, nginx_said, &backend));
        let row = [case.name, &show(case.answer), &show(edge_said), &show(nginx_said), case.laxer];
        rows += &format!("| {} | {} | {} | {}{} |\n", row[0], row[1], row[2], row[3], row[4]);
    }
    println!("{rows}");
    if let Ok(path) = std::env::var("HOSTILE_TABLE") {
        std::fs::write(path, &rows).unwrap();
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(CASES.len() >= 60, "{} cases", CASES.len());
}

/// What is wrong about the answers to a case.
fn judge(n: usize, case: &Case, edge: &[u16], nginx: &[u16], backend: &Recorder) -> Vec<String> {
    let mut wrong = Vec::new();
    let first = edge.first().copied().unwrap_or(0);
    let name = case.name;
    if !case.answer.contains(&first) {
        wrong.push(format!("{name}: answered {first}, not one of {:?}", case.answer));
    }
    if edge.len() > case.answers {
        wrong.push(format!("{name}: {} answers: {edge:?}", edge.len()));
    }
    let meant = usize::from(case.seen);
    let (own, hidden) = (backend.count(&format!("/c{n}e")), backend.count(&format!("/s{n}e")));
    if own > meant || hidden > usize::from(case.pipelined) {
        wrong.push(format!("{name}: the backend saw it {own} times, and {hidden} hidden requests"));
    }
    let good = |answers: &[u16]| answers.first().is_some_and(|status| (200..300).contains(status));
    if !nginx.is_empty() && good(edge) && !good(nginx) && case.laxer.is_empty() {
        wrong.push(format!(
            "{name}: nginx refuses it with {nginx:?}, and nothing says why we do not"
        ));
    }
    wrong
}

fn show(statuses: &[u16]) -> String {
    let text = statuses.iter().map(|status| match status {
        0 => "closed".into(),
        status => status.to_string(),
    });
    if statuses.is_empty() { "closed".into() } else { text.collect::<Vec<_>>().join(", ") }
}

/// The statuses of all answers to each case from whoever listens at `address`.
async fn answers(address: SocketAddr, to: &str) -> Vec<Vec<u16>> {
    let mut asking = tokio::task::JoinSet::new();
    for (n, case) in CASES.iter().enumerate() {
        let bytes = request(n, case, to);
        asking.spawn(async move { (n, exchange(address, &bytes, case.closes).await) });
    }
    let mut answers = vec![Vec::new(); CASES.len()];
    while let Some(answer) = asking.join_next().await {
        let (n, statuses) = answer.unwrap();
        answers[n] = statuses;
    }
    answers
}

fn request(n: usize, case: &Case, to: &str) -> Vec<u8> {
    let host = format!("host: {HOST}\r\n");
    let hidden = format!("GET /s{n}{to} HTTP/1.1\r\n{host}\r\n");
    let many = (0..150).map(|n| format!("x-{n}: 1\r\n")).collect::<String>();
    let places = [
        ("@P", format!("/c{n}{to}")),
        ("@H", host),
        ("@L", hidden.len().to_string()),
        ("@S", hidden),
        ("@LONG", "a".repeat(9_000)),
        ("@BIG", "a".repeat(40_000)),
        ("@MANY", many),
        ("@N", HOST.to_owned()),
    ];
    // The longer names first: one begins like another.
    let mut text = case.sent.to_owned();
    for name in ["@LONG", "@MANY", "@BIG", "@P", "@H", "@L", "@S", "@N"] {
        let value = places.iter().find(|(place, _)| *place == name).map_or("", |(_, value)| value);
        text = text.replace(name, value);
    }
    text.into_bytes()
}

async fn exchange(address: SocketAddr, bytes: &[u8], closes: bool) -> Vec<u16> {
    let mut stream = TcpStream::connect(address).await.unwrap();
    // It may be refused and closed before it is read to its end.
    let _ = stream.write_all(bytes).await;
    if closes {
        let _ = stream.shutdown().await;
    }
    let mut answer = Vec::new();
    let reading = stream.read_to_end(&mut answer);
    let ended = tokio::time::timeout(Duration::from_secs(30), reading).await;
    assert!(
        ended.is_ok(),
        "neither answered to the end nor closed: {:?}",
        &bytes[..bytes.len().min(200)]
    );
    let text = String::from_utf8_lossy(&answer);
    let mut statuses: Vec<u16> =
        text.split("HTTP/1.").skip(1).filter_map(|answer| answer.get(2..5)?.parse().ok()).collect();
    // A page without a head is an answer of HTTP/0.9.
    if statuses.is_empty() && !answer.is_empty() {
        statuses.push(if text.contains("recorded") { 200 } else { 400 });
    }
    statuses
}

/// A backend that notes the target of every request that it sees.
struct Recorder {
    address: SocketAddr,
    seen: Arc<Mutex<Vec<String>>>,
}

impl Recorder {
    async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let shared = seen.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let seen = shared.clone();
                let service = service_fn(move |request: Request<Incoming>| {
                    let seen = seen.clone();
                    async move {
                        seen.lock().unwrap().push(request.uri().to_string());
                        request.into_body().collect().await?;
                        let body = Full::new(Bytes::from_static(b"recorded"));
                        Ok::<_, hyper::Error>(Response::new(body))
                    }
                });
                let serving = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service);
                tokio::spawn(serving);
            }
        });
        Self { address, seen }
    }

    /// How many requests had a target that contains `path`, as a whole segment.
    fn count(&self, path: &str) -> usize {
        let seen = self.seen.lock().unwrap();
        let of = |target: &&String| {
            target.match_indices(path).any(|(at, _)| {
                !target[at + path.len()..].starts_with(|c: char| c.is_ascii_alphanumeric())
            })
        };
        seen.iter().filter(of).count()
    }
}

/// A real nginx in a folder of its own.
struct Nginx {
    address: SocketAddr,
    child: std::process::Child,
    _folder: tempfile::TempDir,
}

impl Nginx {
    /// `None`, said loudly, where it is not installed; in CI that fails.
    async fn in_front_of(backend: SocketAddr) -> Option<Self> {
        for _ in 0..5 {
            // The port may be taken between the probe and nginx: another one then.
            match Self::start(backend).await {
                Ok(started) => return Some(started),
                // `nobody` may not search every folder of root's PATH, and then hears this instead of "not found".
                Err(error) if matches!(error.kind(), NotFound | PermissionDenied) => {
                    assert!(std::env::var_os("CI").is_none(), "nginx is not installed: dev/setup");
                    eprintln!(
                        "SKIPPED: no comparison with nginx, which is not installed: dev/setup installs it"
                    );
                    return None;
                }
                Err(error) => eprintln!("nginx: {error}"),
            }
        }
        panic!("nginx does not start");
    }

    async fn start(backend: SocketAddr) -> std::io::Result<Self> {
        let folder = tempfile::tempdir()?;
        let probe = std::net::TcpListener::bind("127.0.0.1:0")?;
        let address = probe.local_addr()?;
        drop(probe);
        let at = folder.path().display();
        let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
        let temporary = temporary.map(|kind| format!("{kind}_temp_path {at}/{kind};")).join(" ");
        let configuration = format!(
            "daemon off; pid {at}/pid; worker_processes 1; error_log {at}/error.log crit;
             events {{ worker_connections 512; }}
             http {{
                 access_log off; {temporary}
                 client_header_timeout 1s; client_body_timeout 1s; keepalive_timeout 1s;
                 send_timeout 1s; lingering_time 1s; lingering_timeout 1s;
                 server {{ listen {address} default_server; return 404; }}
                 server {{
                     listen {address}; server_name {HOST};
                     location / {{
                         proxy_pass http://{backend}; proxy_http_version 1.1;
                         proxy_set_header Connection \"\"; proxy_set_header Host $host;
                     }}
                 }}
             }}"
        );
        let file = folder.path().join("nginx.conf");
        std::fs::write(&file, configuration)?;
        let mut command = std::process::Command::new("nginx");
        command.arg("-c").arg(&file).arg("-e").arg(folder.path().join("error.log"));
        // Not as root, here as in production.
        if nix::unistd::geteuid().is_root() {
            let nobody = nix::unistd::User::from_name("nobody")?;
            let nobody = nobody.ok_or_else(|| std::io::Error::other("no user nobody"))?;
            std::os::unix::fs::chown(
                folder.path(),
                Some(nobody.uid.into()),
                Some(nobody.gid.into()),
            )?;
            command.uid(nobody.uid.into()).gid(nobody.gid.into());
        }
        let mut child = command.stdin(Stdio::null()).spawn()?;
        let deadline = Instant::now() + Duration::from_secs(20);
        while TcpStream::connect(address).await.is_err() {
            if let Some(status) = child.try_wait()? {
                return Err(std::io::Error::other(format!("ended with {status}")));
            }
            assert!(Instant::now() < deadline, "nginx does not listen");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok(Self { address, child, _folder: folder })
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // SIGTERM, so that the master ends its worker too.
        let pid = nix::unistd::Pid::from_raw(self.child.id() as i32);
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
        let _ = self.child.wait();
    }
}

#[tokio::test]
async fn a_head_that_never_ends_is_cut_off_and_a_silent_connection_is_closed() {
    let short = Duration::from_millis(300);
    let (edge, _backend) = edge_and_backend(Limits { head: short, idle: short, ..limits() }).await;
    let slow = raw(edge.address, b"GET / HTTP/1.1\r\nhost:").await;
    assert!(slow.starts_with("HTTP/1.1 408 "), "{slow}");
    assert_eq!(raw(edge.address, b"").await, "");
    let upload = format!("POST /upload HTTP/1.1\r\nhost: {HOST}\r\ncontent-length: 10\r\n\r\nabc");
    let stalled = raw(edge.address, upload.as_bytes()).await;
    assert!(!stalled.starts_with("HTTP/1.1 2"), "{stalled}");
    // Bytes that trickle do not buy more time for a head.
    let mut stream = TcpStream::connect(edge.address).await.unwrap();
    let (mut reading, mut writing) = stream.split();
    let trickle = async {
        loop {
            if writing.write_all(b"x").await.is_err() {
                std::future::pending::<()>().await;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let mut answer = Vec::new();
    tokio::select! {
        () = trickle => {}
        read = reading.read_to_end(&mut answer) => { read.ok(); }
    }
    assert!(answer.starts_with(b"HTTP/1.1 408 "));
}

#[tokio::test]
async fn a_slow_answer_is_not_mistaken_for_an_idle_client() {
    let idle = Duration::from_millis(200);
    let (edge, backend) = edge_and_backend(Limits { idle, ..limits() }).await;
    let address = edge.address;
    let held = tokio::spawn(async move {
        let mut session = Session::open(address).await;
        let first = session.get(HOST, "/hold").await.text().to_owned();
        (first, session.get(HOST, "/who").await.text().to_owned())
    });
    eventually("the request is in flight", async || backend.requests() == 1).await;
    tokio::time::sleep(idle * 3).await;
    backend.go();
    assert_eq!(held.await.unwrap(), ("backend".into(), "backend".into()));
}

#[tokio::test]
async fn more_connections_than_allowed_are_turned_away() {
    let (edge, _backend) = edge_and_backend(Limits { connections: 4, ..limits() }).await;
    let mut open = Vec::new();
    // Two workers with a share of two each: the fifth connection is one too many for one of them.
    for _ in 0..5 {
        open.push(TcpStream::connect(edge.address).await.unwrap());
    }
    let turned_away = async |stream: &mut TcpStream| {
        let mut byte = [0];
        let read = tokio::time::timeout(Duration::from_millis(200), stream.read(&mut byte)).await;
        matches!(read, Ok(Ok(1)))
    };
    let mut count = 0;
    for stream in &mut open {
        count += usize::from(turned_away(stream).await);
    }
    assert!(count >= 1);
    drop(open);
    eventually("there is room again", async || {
        let mut session = Session::open(edge.address).await;
        session.try_ask("GET", HOST, "/who", &[], "").await.is_ok_and(|reply| reply.status == 200)
    })
    .await;
}
