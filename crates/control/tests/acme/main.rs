//! The keeper of certificates against Pebble, a real ACME server, with a real edge.

mod ca;
mod client;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use control::certificates::{Board, Keeper, KeeperConfig};
use domain::EnvironmentName;
use domain::certificate::{CertificateView, Pace, Validity, Wish};
use domain::config::{Acme, CertificateSource, ChallengeKind, Tls};
use edge::{CertificateInfo, Certificates, Client, Edge, EdgeConfig, Limits};
use rustls::pki_types::CertificateDer;
use store::Store;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use ca::Pebble;

const NAMES: [&str; 2] = ["shop.example.com", "www.example.com"];
const EMAIL: &str = "ops@example.com";

/// An edge, a CA that certifies its names, and what a keeper between them needs.
struct Stage {
    ca: Pebble,
    store: Store,
    edge: Option<Edge>,
    http: SocketAddr,
    https: SocketAddr,
    challenge: ChallengeKind,
    folder: tempfile::TempDir,
}

/// A keeper at work.
struct AtWork {
    board: Board,
    task: JoinHandle<()>,
}

impl Stage {
    /// `None` where there is no Pebble. The certificates hold for `life`.
    async fn set(challenge: ChallengeKind, life: Duration) -> Option<Self> {
        let programs = ca::programs()?;
        let folder = tempfile::tempdir().unwrap();
        let config = EdgeConfig {
            state: folder.path().join("edge"),
            https: Some("127.0.0.1:0".parse().unwrap()),
            workers: Some(1),
            ..EdgeConfig::default()
        };
        let edge = Edge::start(&config, Limits::default()).unwrap();
        let (http, https) = (edge.address(), edge.https_address().unwrap());
        let ca = Pebble::start(programs, folder.path(), http, https, life);
        let store = Store::open(&folder.path().join("state")).await.unwrap();
        Some(Self { ca, store, edge: Some(edge), http, https, challenge, folder })
    }

    async fn keeper(&self) -> AtWork {
        let config = KeeperConfig {
            store: self.store.clone(),
            edge: self.client(),
            project: self.folder.path().into(),
            http: self.http,
            https: Some(self.https),
            pace: Pace { first: Duration::from_secs(1), factor: 1, most: Duration::from_secs(1) },
            every: Duration::from_secs(1),
        };
        let acme = Acme {
            email: Some(EMAIL.into()),
            directory: self.ca.directory.clone(),
            challenge: self.challenge,
            trust: Some("root.pem".into()),
        };
        let tls = Tls { certificate: CertificateSource::Acme(acme), redirect: true };
        let wish = Wish { names: NAMES.map(str::to_owned).into(), tls };
        let wishes = BTreeMap::from([(EnvironmentName::new("production").unwrap(), wish)]);
        let board = Board::default();
        let keeper = Keeper::open(config, board.clone()).await.unwrap();
        let (_, changes) = watch::channel(());
        AtWork { board, task: tokio::spawn(keeper.run(move || wishes.clone(), changes)) }
    }

    fn client(&self) -> Client {
        Client::new(self.folder.path().join("edge/control.sock"))
    }

    async fn presented(&self) -> Vec<CertificateInfo> {
        self.client().certificates().await.unwrap()
    }

    /// What a client gets that takes only certificates that lead to `root`.
    async fn served(&self, root: &CertificateDer<'static>) -> CertificateDer<'static> {
        let mut served = BTreeSet::new();
        for name in NAMES {
            let answer = client::get(self.https, name, "/", root.clone()).await.unwrap();
            served.insert(answer.certificate.to_vec());
        }
        assert_eq!(served.len(), 1, "one certificate for both names");
        served.pop_first().unwrap().into()
    }

    /// As it is on the edge's disk.
    fn at_edge(&self) -> Certificates {
        let kept = std::fs::read(self.folder.path().join("edge/certificates.json")).unwrap();
        serde_json::from_slice(&kept).unwrap()
    }

    async fn end(mut self) {
        let edge = self.edge.take().unwrap();
        tokio::task::spawn_blocking(move || edge.stop()).await.unwrap();
    }
}

impl AtWork {
    async fn until(&self, what: &str, holds: impl Fn(&CertificateView) -> bool) -> CertificateView {
        let deadline = Instant::now() + Duration::from_secs(60);
        let mut notes = BTreeSet::new();
        loop {
            if let Some(view) = self.board.seen().into_values().find(&holds) {
                return view;
            }
            notes.extend(self.board.seen().into_values().filter_map(|view| view.note));
            assert!(Instant::now() < deadline, "still not: {what}; said was {notes:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn certified(&self) -> Validity {
        let good = |view: &CertificateView| view.validity.is_some() && view.note.is_none();
        self.until("a certificate", good).await.validity.unwrap()
    }

    async fn renewed(&self, before: Validity) -> Validity {
        let newer = |view: &CertificateView| view.validity.is_some_and(|v| v.from > before.from);
        self.until("a newer certificate", newer).await.validity.unwrap()
    }

    /// Ends it in the middle of whatever it does, as a `kill -9` does.
    async fn die(self) {
        self.task.abort();
        let _ = self.task.await;
    }
}

const LONG: Duration = Duration::from_secs(90 * 24 * 3600);

async fn certified_by(challenge: ChallengeKind) {
    let Some(mut stage) = Stage::set(challenge, LONG).await else { return };
    let root = stage.ca.root().await;
    let keeper = stage.keeper().await;
    keeper.certified().await;
    let presented = stage.presented().await;
    assert_eq!(presented[0].names, NAMES);
    let served = stage.served(&root).await;
    let account = stage.store.acme_account(&stage.ca.directory, EMAIL).await.unwrap();
    assert!(account.unwrap().url.is_some());
    keeper.die().await;
    // The next keeper has what the store has, and asks for nothing: with the CA gone too.
    for gone in [false, true] {
        if gone {
            stage.ca.stop();
        }
        let keeper = stage.keeper().await;
        keeper.certified().await;
        assert_eq!(stage.presented().await, presented);
        assert_eq!(stage.served(&root).await, served);
        keeper.die().await;
    }
    assert_eq!((stage.ca.accounts(), stage.ca.orders()), (1, 1));
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ca_certifies_several_names_over_http_and_a_restart_orders_nothing_anew() {
    certified_by(ChallengeKind::Http01).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ca_certifies_several_names_over_tls_and_a_restart_orders_nothing_anew() {
    certified_by(ChallengeKind::TlsAlpn01).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_is_renewed_at_two_thirds_of_its_life_with_the_same_account() {
    let life = Duration::from_secs(12);
    let Some(stage) = Stage::set(ChallengeKind::Http01, life).await else { return };
    let root = stage.ca.root().await;
    let keeper = stage.keeper().await;
    let first = keeper.certified().await;
    assert_eq!(first.until.since(first.from), life);
    let before = stage.served(&root).await;
    let second = keeper.renewed(first).await;
    assert!(second.from >= first.renewal(), "not before it is due: {first:?} {second:?}");
    keeper.die().await;
    let keeper = stage.keeper().await;
    keeper.until("what the store has", |view| view.validity == Some(second)).await;
    assert_ne!(stage.served(&root).await, before);
    assert_eq!((stage.ca.accounts(), stage.ca.orders()), (1, 2));
    keeper.die().await;
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_old_certificate_stays_in_force_while_the_ca_is_down_or_refuses_or_forgot_us() {
    let life = Duration::from_secs(12);
    let Some(mut stage) = Stage::set(ChallengeKind::Http01, life).await else { return };
    let keeper = stage.keeper().await;
    let first = keeper.certified().await;
    let presented = stage.presented().await;
    stage.ca.stop();
    let waits = |view: &CertificateView, why: &str| {
        let note = view.note.as_deref().unwrap_or_default();
        note.starts_with("waits for 127.0.0.1:")
            && note.contains(why)
            && note.contains("; next try in ")
    };
    let view = keeper.until("it waits for the CA", |view| waits(view, "efused")).await;
    assert_eq!(view.validity, Some(first));
    assert_eq!(stage.presented().await, presented);
    stage.ca.begin(&NAMES[1..]);
    let view = keeper.until("the CA's own words", |view| waits(view, "policy")).await;
    assert_eq!(view.validity, Some(first));
    assert_eq!(stage.presented().await, presented);
    stage.ca.begin(&[]);
    keeper.renewed(first).await;
    keeper.die().await;
    let keeper = stage.keeper().await;
    keeper.until("the new one", |view| view.validity.is_some_and(|v| v.from > first.from)).await;
    stage.served(&stage.ca.root().await).await;
    assert_ne!(stage.presented().await, presented);
    keeper.die().await;
    stage.end().await;
}

async fn killed_in_an_order(challenge: ChallengeKind) {
    let Some(stage) = Stage::set(challenge, LONG).await else { return };
    let challenges = || {
        let Certificates { challenges, .. } = stage.at_edge();
        challenges.http.len() + challenges.tls_alpn.len()
    };
    stage.ca.resolve_names(false);
    let keeper = stage.keeper().await;
    stage.ca.looks().await;
    keeper.die().await;
    assert!(challenges() > 0, "it was in the middle of it");
    stage.ca.resolve_names(true);
    let keeper = stage.keeper().await;
    keeper.until("the end of the first is known", |view| view.note.is_some()).await;
    keeper.certified().await;
    let root = stage.ca.root().await;
    keeper.die().await;
    assert_eq!(stage.presented().await.len(), 1);
    stage.served(&root).await;
    assert_eq!((stage.ca.accounts(), stage.ca.orders()), (1, 2));
    let left = challenges();
    assert_eq!(left, 0, "{left} challenges are still answered");
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_that_a_kill_ended_is_made_again_with_the_same_account_over_http() {
    killed_in_an_order(ChallengeKind::Http01).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_that_a_kill_ended_is_made_again_with_the_same_account_over_tls() {
    killed_in_an_order(ChallengeKind::TlsAlpn01).await;
}
