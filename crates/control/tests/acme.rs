//! The keeper of certificates against Pebble, a real ACME server, with a real edge.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use control::certificates::{Board, Keeper, KeeperConfig};
use domain::EnvironmentName;
use domain::certificate::{CertificateView, Pace, Wish};
use domain::config::{Acme, CertificateSource, ChallengeKind, Tls};
use edge::{Client, Edge, EdgeConfig, Limits};
use store::Store;

struct Pebble {
    servers: Vec<Child>,
    directory: String,
}

impl Drop for Pebble {
    fn drop(&mut self) {
        for server in &mut self.servers {
            let _ = server.kill();
            let _ = server.wait();
        }
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Where Pebble is; `None`, loudly, where it cannot be built outside CI.
fn programs() -> Option<PathBuf> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../dev/pebble");
    let built = Command::new(script).stderr(Stdio::inherit()).output().unwrap();
    if built.status.success() {
        return Some(String::from_utf8(built.stdout).unwrap().trim().into());
    }
    assert!(std::env::var_os("CI").is_none(), "Pebble could not be built");
    eprintln!("NOT TESTED: Pebble could not be built, so nobody knows whether ACME works");
    None
}

/// A CA that knows every name as 127.0.0.1, and looks at the ports of the edge.
fn pebble(programs: &Path, folder: &Path, http: SocketAddr, https: SocketAddr) -> Pebble {
    let key = rcgen::KeyPair::generate().unwrap();
    let params = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    let certificate = params.self_signed(&key).unwrap();
    std::fs::write(folder.join("root.pem"), certificate.pem()).unwrap();
    std::fs::write(folder.join("key.pem"), key.serialize_pem()).unwrap();
    let (listen, management, dns) = (free_port(), free_port(), free_port());
    let config = serde_json::json!({ "pebble": {
        "listenAddress": format!("127.0.0.1:{listen}"),
        "managementListenAddress": format!("127.0.0.1:{management}"),
        "certificate": folder.join("root.pem"),
        "privateKey": folder.join("key.pem"),
        "httpPort": http.port(),
        "tlsPort": https.port(),
        "ocspResponderURL": "",
        "externalAccountBindingRequired": false,
    }});
    std::fs::write(folder.join("pebble.json"), config.to_string()).unwrap();
    let start = |command: &mut Command| {
        command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    };
    let names = start(Command::new(programs.join("pebble-challtestsrv")).args([
        "-dnsserver",
        &format!("127.0.0.1:{dns}"),
        "-defaultIPv6",
        "",
        "-defaultIPv4",
        "127.0.0.1",
        "-http01",
        "",
        "-https01",
        "",
        "-tlsalpn01",
        "",
        "-doh",
        "",
        "-management",
        &format!("127.0.0.1:{}", free_port()),
    ]));
    let ca = start(
        Command::new(programs.join("pebble"))
            .arg("-config")
            .arg(folder.join("pebble.json"))
            .args(["-dnsserver", &format!("127.0.0.1:{dns}")])
            .env("PEBBLE_VA_NOSLEEP", "1"),
    );
    Pebble { servers: vec![names, ca], directory: format!("https://127.0.0.1:{listen}/dir") }
}

async fn until(board: &Board, what: &str, holds: impl Fn(&CertificateView) -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    let mut notes = std::collections::BTreeSet::new();
    while !board.seen().values().any(&holds) {
        notes.extend(board.seen().into_values().filter_map(|view| view.note));
        assert!(Instant::now() < deadline, "still not: {what}; said was {notes:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn certified_by(challenge: ChallengeKind) {
    let Some(programs) = programs() else { return };
    let folder = tempfile::tempdir().unwrap();
    let config = EdgeConfig {
        state: folder.path().join("edge"),
        https: Some("127.0.0.1:0".parse().unwrap()),
        workers: Some(1),
        ..EdgeConfig::default()
    };
    let edge = Edge::start(&config, Limits::default()).unwrap();
    let (http, https) = (edge.address(), edge.https_address().unwrap());
    let ca = pebble(&programs, folder.path(), http, https);
    let keeper = |store| KeeperConfig {
        store,
        edge: Client::new(config.state.join("control.sock")),
        project: folder.path().into(),
        http,
        https: Some(https),
        pace: Pace { first: Duration::from_secs(1), factor: 2, most: Duration::from_secs(4) },
    };
    let acme = Acme {
        email: Some("ops@example.com".into()),
        directory: ca.directory.clone(),
        challenge,
        trust: Some("root.pem".into()),
    };
    let tls = Tls { certificate: CertificateSource::Acme(acme), redirect: true };
    let names = vec!["shop.example.com".to_owned(), "www.example.com".to_owned()];
    let wish = Wish { names, tls };
    let wishes = BTreeMap::from([(EnvironmentName::new("production").unwrap(), wish)]);
    let store = Store::open(&folder.path().join("state")).await.unwrap();
    let board = Board::default();
    let run = Keeper::open(keeper(store.clone()), board.clone()).await.unwrap();
    let again = wishes.clone();
    let task = tokio::spawn(run.run(move || wishes.clone()));
    until(&board, "a certificate", |view| view.validity.is_some()).await;
    let client = Client::new(config.state.join("control.sock"));
    let served = client.certificates().await.unwrap();
    assert_eq!(served[0].names, ["shop.example.com", "www.example.com"]);
    let account = store.acme_account(&ca.directory, "ops@example.com").await.unwrap();
    assert!(account.unwrap().url.is_some());
    task.abort();
    let _ = task.await;
    // The next keeper has what the store has: with the CA gone too.
    drop(ca);
    let board = Board::default();
    let run = Keeper::open(keeper(store), board.clone()).await.unwrap();
    let task = tokio::spawn(run.run(move || again.clone()));
    until(&board, "the same certificate", |view| view.validity.is_some() && view.note.is_none())
        .await;
    assert_eq!(client.certificates().await.unwrap(), served);
    task.abort();
    tokio::task::spawn_blocking(move || edge.stop()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ca_certifies_several_names_over_http_and_a_restart_keeps_what_it_gave() {
    certified_by(ChallengeKind::Http01).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ca_certifies_several_names_over_tls_and_a_restart_keeps_what_it_gave() {
    certified_by(ChallengeKind::TlsAlpn01).await;
}
