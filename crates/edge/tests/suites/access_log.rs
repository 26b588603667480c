//! The access log of a whole edge: a process of its own, this test's own program started again.

use std::io::Read;
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};

use crate::common::*;
use edge::{Client, EdgeConfig, Limits};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Not a test: what the others start as a process of its own, told by its environment.
#[test]
fn the_edge_that_logs() {
    let Some(state) = std::env::var_os("TEST_LOGGING_EDGE") else { return };
    let access_log = std::env::var("TEST_LOGGING_EDGE_LOGS").unwrap() == "true";
    let config = EdgeConfig {
        listen: "127.0.0.1:0".parse().unwrap(),
        state: state.into(),
        workers: Some(2),
        access_log,
        ..EdgeConfig::default()
    };
    edge::run(&config, Limits { idle: std::time::Duration::from_secs(5), ..limits() }).unwrap();
}

struct Logging {
    child: Child,
    _folder: tempfile::TempDir,
    client: Client,
    address: SocketAddr,
}

impl Logging {
    async fn start(access_log: bool) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().join("edge");
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "suites::access_log::the_edge_that_logs", "--nocapture"])
            .env("TEST_LOGGING_EDGE", &state)
            .env("TEST_LOGGING_EDGE_LOGS", access_log.to_string())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let client = Client::new(state.join("control.sock"));
        eventually("it answers", async || client.status().await.is_ok()).await;
        let address = client.status().await.unwrap().listen;
        Self { child, _folder: folder, client, address }
    }

    /// Stops it and gives the lines of JSON that it wrote.
    fn stop(mut self) -> Vec<serde_json::Value> {
        kill(Pid::from_raw(self.child.id() as i32), Signal::SIGTERM).unwrap();
        let mut out = Vec::new();
        self.child.stdout.take().unwrap().read_to_end(&mut out).unwrap();
        assert!(self.child.wait().unwrap().success());
        let text = String::from_utf8(out).unwrap();
        // The test harness says what it runs, before the first line or in lines of its own.
        let lines = text.lines().filter_map(|line| line.find('{').map(|at| &line[at..]));
        lines
            .map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}")))
            .collect()
    }
}

impl Drop for Logging {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test]
async fn each_request_is_one_line_of_json_whatever_its_bytes_and_refused_or_not() {
    let backend = Backend::start("blue").await;
    let edge = Logging::start(true).await;
    edge.client.publish(&simple(1, &[&backend])).await.unwrap();
    let head = |rest: &str| format!("{rest}connection: close\r\n\r\n").into_bytes();
    let host = format!("host: {HOST}\r\n");
    let every: Vec<u8> = (0..=255).collect();
    let hostile: Vec<(&str, Vec<u8>)> = vec![
        ("plain", head(&format!("GET /a?token=secret HTTP/1.1\r\n{host}"))),
        ("unknown host", head("GET /x HTTP/1.1\r\nhost: elsewhere.example\r\n")),
        ("no host", head("GET /x HTTP/1.1\r\nhost: no\"}{\\\r\n")),
        ("two hosts", head("GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n")),
        ("quotes", head(&format!("GET /\"}}{{\\ HTTP/1.1\r\n{host}"))),
        ("beyond ASCII", [&b"GET /\xff\xfe HTTP/1.1\r\n"[..], &head(&host)].concat()),
        ("agent", head(&format!("GET /b HTTP/1.1\r\n{host}user-agent: \u{9b}31m\"\\\u{202e}\r\n"))),
        ("control", head(&format!("GET /c HTTP/1.1\r\n{host}user-agent: a\u{1b}[31m\r\n"))),
        (
            "smuggling",
            head(&format!(
                "POST / HTTP/1.1\r\n{host}content-length: 1\r\ntransfer-encoding: chunked\r\n"
            )),
        ),
        ("no HTTP", [&every[..], b"\r\n\r\n"].concat()),
        ("a long path", head(&format!("GET /{} HTTP/1.1\r\n{host}", "a".repeat(5000)))),
    ];
    let mut statuses = Vec::new();
    for (name, bytes) in &hostile {
        let answer = raw(edge.address, bytes).await;
        assert!(answer.starts_with("HTTP/1.1 "), "{name}: {answer:?}");
        statuses.push((*name, answer[9..12].parse::<u64>().unwrap()));
    }
    let mut session = Session::open(edge.address).await;
    for _ in 0..5 {
        assert_eq!(session.ask("POST", HOST, "/echo", &[], "tea").await.text(), "tea");
    }
    drop(session);
    let written = edge.client.status().await.unwrap().access_log.unwrap();
    assert_eq!(written.dropped, 0);
    let lines = edge.stop();
    let logged: Vec<u64> = lines.iter().map(|line| line["status"].as_u64().unwrap()).collect();
    let expected: Vec<u64> = statuses.iter().map(|(_, status)| *status).chain([200; 5]).collect();
    assert_eq!(logged, expected, "{statuses:?}\n{lines:#?}");
    assert_eq!((&lines[0]["path"], &lines[0]["environment"]), (&"/a".into(), &"staging".into()));
    assert_eq!(lines[1]["reason"], "unknown_host");
    let last = lines.last().unwrap();
    assert_eq!((&last["bytes_in"], &last["bytes_out"]), (&3.into(), &3.into()));
    assert_eq!(last["upstream"], backend.address.to_string());
    for line in &lines {
        assert!(line["time"].is_string() && line["duration_ms"].is_number(), "{line}");
    }
}

#[tokio::test]
async fn without_the_flag_nothing_is_written() {
    let backend = Backend::start("blue").await;
    let edge = Logging::start(false).await;
    edge.client.publish(&simple(1, &[&backend])).await.unwrap();
    assert_eq!(Session::open(edge.address).await.get(HOST, "/").await.status, 200);
    raw(edge.address, b"GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n").await;
    assert_eq!(edge.client.status().await.unwrap().access_log, None);
    assert_eq!(edge.stop(), Vec::<serde_json::Value>::new());
}
