//! `launchway edge status` asked of a real edge, as a user sees it.

mod project;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use domain::route::{EdgeStatus, Table};
use edge::Client;
use project::{launchway, text};
use serde_json::{Value, json};

/// Killed when dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn ask(address: SocketAddr, host: &str, path: &str) {
    let mut stream = TcpStream::connect(address).expect("connected");
    let request = format!("GET {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).expect("asked");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("answered");
    assert!(answer.starts_with("HTTP/1.1 "), "{answer}");
}

/// One live slot: files at `/`, and at `/api` a replica that is not there.
fn table(site: &Path, gone: SocketAddr) -> Table {
    let route = |prefix: &str, service: &str, endpoint: Value| json!({ "prefix": prefix, "service": service, "endpoints": [endpoint], "health": null });
    let routes = [
        route("/", "web", json!({ "files": site })),
        route("/api", "api", json!({ "http": gone })),
    ];
    let table = json!({ "epoch": 7, "environments": { "staging": {
        "app": "tea", "host": "staging.localhost", "preview_host": "preview.staging.localhost",
        "live": "blue", "drain_deadline": { "secs": 1, "nanos": 0 },
        "slots": { "blue": { "release": "r3", "routes": routes } },
    } } });
    serde_json::from_value(table).expect("a table")
}

#[tokio::test]
async fn the_status_tells_what_a_running_edge_carries_without_a_server() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (state, site) = (folder.path().join("state"), folder.path().join("site"));
    project::write(folder.path(), &[("site/index.html", "<p>tea")]);
    // The edge gives its rights up: it must be let through to its folders.
    open(folder.path());
    std::fs::create_dir_all(state.join("edge")).expect("created");
    open(&state.join("edge"));
    let child = Command::new(env!("CARGO_BIN_EXE_launchway"))
        .args(["edge", "--listen", "127.0.0.1:0", "--access-log", "--folder"])
        .arg(state.join("edge"))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    let _edge = Running(child.expect("it starts"));
    let client = Client::new(state.join("edge/control.sock"));
    let address = up(&client).await.listen;
    let gone = TcpListener::bind("127.0.0.1:0").expect("bound").local_addr().expect("bound");
    client.publish(&table(&site, gone)).await.expect("published");
    for _ in 0..3 {
        ask(address, "staging.localhost", "/");
    }
    ask(address, "staging.localhost", "/api/teas");
    ask(address, "elsewhere.localhost", "/");
    let state = state.to_str().expect("UTF-8");
    let paused = launchway(folder.path(), &["--state", state, "edge", "pause", "staging"]);
    assert_eq!(paused.status.code(), Some(0), "{}", text(&paused.stderr));

    let output = launchway(folder.path(), &["--state", state, "edge", "status", "--total"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let said = text(&output.stdout);
    let lines: Vec<String> =
        said.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    let expected = [
        format!("edge {} · pid ", env!("CARGO_PKG_VERSION")),
        format!("listens http {address} · 0 open"),
        "logs 5 lines written".into(),
        "holds 0 new requests to staging, for ".into(),
        "staging/blue r3 live".into(),
        "ROUTE SERVICE REQUESTS 2XX 3XX 4XX 5XX P50 P99 P99.9 CONNECT NOW WS SSE IN OUT".into(),
        "/ web 3 3 0 0 0 ".into(),
        "/api api 1 0 0 0 1 ".into(),
        "reasons: connect 1".into(),
        "reached no route, since the edge began".into(),
        "- 1 404 unknown host".into(),
        format!("kept out staging/blue api {gone} "),
    ];
    let mut rest = lines.iter();
    for line in &expected {
        assert!(
            rest.any(|seen| seen.starts_with(line)),
            "no line `{line}` in its place in\n{said}"
        );
    }

    let output =
        launchway(folder.path(), &["--state", state, "edge", "status", "--over", "50ms", "--json"]);
    let answer: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert!(answer["over_seconds"].as_f64().is_some_and(|seconds| seconds >= 0.05), "{answer}");
    assert_eq!(answer["status"]["pauses"][0]["environment"], "staging");
    assert_eq!(answer["certificates"], json!([]));
    assert_eq!(answer["routes"].as_array().map(Vec::len), Some(2));
}

fn open(folder: &Path) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o777)).expect("opened");
}

async fn up(client: &Client) -> EdgeStatus {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        match client.status().await {
            Ok(status) => return status,
            Err(error) => assert!(Instant::now() < deadline, "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
