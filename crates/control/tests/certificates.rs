//! The keeper of certificates from files, with a real edge.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use control::certificates::{Board, Keeper, KeeperConfig};
use domain::EnvironmentName;
use domain::certificate::{Pace, Wish};
use domain::config::{CertificateSource, Tls};
use edge::{Client, Edge, EdgeConfig, Limits};
use store::Store;
use tokio::sync::watch;
use tokio::time::timeout;

const PATIENCE: Duration = Duration::from_secs(60);

fn wish(folder: &Path, names: &[&str]) -> BTreeMap<EnvironmentName, Wish> {
    let key = rcgen::KeyPair::generate().unwrap();
    let params = rcgen::CertificateParams::new(vec!["shop.example.com".to_owned()]).unwrap();
    std::fs::write(folder.join("chain.pem"), params.self_signed(&key).unwrap().pem()).unwrap();
    std::fs::write(folder.join("key.pem"), key.serialize_pem()).unwrap();
    let files = CertificateSource::Files { certificate: "chain.pem".into(), key: "key.pem".into() };
    let names = names.iter().map(|&name| name.to_owned()).collect();
    let wish = Wish { names, tls: Tls { certificate: files, redirect: true } };
    BTreeMap::from([(EnvironmentName::new("production").unwrap(), wish)])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_environment_has_its_certificate_at_once_and_is_told_whom_it_does_not_serve() {
    let folder = tempfile::tempdir().unwrap();
    let config = EdgeConfig {
        state: folder.path().join("edge"),
        https: Some("127.0.0.1:0".parse().unwrap()),
        workers: Some(1),
        ..EdgeConfig::default()
    };
    let edge = Edge::start(&config, Limits::default()).unwrap();
    let client = Client::new(folder.path().join("edge/control.sock"));
    let config = KeeperConfig {
        store: Store::open(&folder.path().join("state")).await.unwrap(),
        edge: client.clone(),
        project: folder.path().into(),
        http: edge.address(),
        https: edge.https_address(),
        pace: Pace::default(),
        // Nothing comes of looking now and then.
        every: 100 * PATIENCE,
    };
    let board = Board::default();
    let keeper = Keeper::open(config, board.clone()).await.unwrap();
    let (wishes, changes) = watch::channel(BTreeMap::new());
    let wanted = wishes.subscribe();
    let keeping = tokio::spawn(keeper.run(move || wanted.borrow().clone(), changes));
    wishes.send_replace(wish(folder.path(), &["shop.example.com", "www.example.com"]));
    let told = async {
        while board.seen().is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, told).await.expect("it is seen to at once");
    assert_eq!(client.certificates().await.unwrap().len(), 1);
    let note = board.seen().into_values().next().unwrap().note.unwrap();
    assert!(note.contains("not for www.example.com:"), "{note}");
    keeping.abort();
    tokio::task::spawn_blocking(move || edge.stop()).await.unwrap();
}
