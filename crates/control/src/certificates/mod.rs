//! The keeper of certificates: reads them from files, has them from CAs, and gives them to the edge.
//!
//! ```text
//!   App ── wishes ──▶ files: read again when they changed ─┐
//!                     CAs: account, order, challenges ─────┼──▶ the whole set ──▶ edge
//!                     store: what CAs gave, attempts ──────┘    again, when it has another one
//! ```
//!
//! What was good stays in force until something better is there. Domain decides when an order is due;
//! nothing here is forgotten by a crash but an order under way, which is begun again after its time.

mod acme;
mod answered;
mod files;
mod pair;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use domain::certificate::{Attempts, CertificateView, Pace, Wish};
use domain::config::{Acme, CertificateSource};
use domain::{EnvironmentName, Timestamp};
use edge::{Certificate, Certificates, Challenge, Challenges, Client, PrivateKey};
use store::{Store, StoredCertificate};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::clock::wall;
use files::Files;
use pair::Pair;

/// Orders under way at once, of all environments together.
const MOST_ORDERS: usize = 4;
/// For a whole order, the CA's validation included.
const DEADLINE: Duration = Duration::from_secs(300);

/// What a keeper works with.
#[derive(Debug, Clone)]
pub struct KeeperConfig {
    pub store: Store,
    pub edge: Client,
    /// Paths in the configuration begin here.
    pub project: PathBuf,
    /// Where the edge carries plain traffic, and TLS if it does.
    pub http: SocketAddr,
    pub https: Option<SocketAddr>,
    pub pace: Pace,
    /// How often files and due dates are looked at.
    pub every: Duration,
}

/// What is told of the certificates; clones share it.
#[derive(Debug, Clone, Default)]
pub struct Board(Arc<Mutex<BTreeMap<EnvironmentName, CertificateView>>>);

/// Keeps certificates until it is dropped.
pub struct Keeper {
    shared: Arc<Shared>,
    board: Board,
    files: Files,
    issued: BTreeMap<Subject, Pair>,
    orders: JoinSet<(Subject, Result<Pair, acme::OrderError>)>,
    under_way: BTreeSet<Subject>,
    failed: BTreeMap<Subject, String>,
    said: BTreeMap<EnvironmentName, Option<String>>,
}

/// Which CA and which names, sorted; or which files.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Subject {
    directory: String,
    names: Vec<String>,
}

/// What orders under way and the keeper share.
struct Shared {
    config: KeeperConfig,
    offered: Mutex<Certificates>,
    /// What the edge took last. Held while it is given something: an older set never replaces a newer one.
    taken: tokio::sync::Mutex<Option<Certificates>>,
}

impl Board {
    /// Of every environment that wants a certificate.
    pub fn seen(&self) -> BTreeMap<EnvironmentName, CertificateView> {
        lock(&self.0).clone()
    }
}

impl Subject {
    fn of_acme(acme: &Acme, names: &[String]) -> Self {
        let mut names = names.to_vec();
        names.sort();
        names.dedup();
        Self { directory: acme.directory.clone(), names }
    }

    fn of_files(certificate: &Path, key: &Path) -> Self {
        let directory = format!("{} {}", certificate.display(), key.display());
        Self { directory, names: Vec::new() }
    }
}

impl Keeper {
    /// A keeper that knows what the store kept.
    pub async fn open(config: KeeperConfig, board: Board) -> Result<Self, store::StoreError> {
        let mut issued = BTreeMap::new();
        for kept in config.store.certificates().await? {
            let subject = Subject { directory: kept.directory, names: kept.names };
            match Pair::check(kept.chain, kept.key) {
                Ok(pair) => drop(issued.insert(subject, pair)),
                Err(error) => {
                    tracing::warn!(names = ?subject.names, %error, "a kept certificate is of no use")
                }
            }
        }
        let shared = Shared { config, offered: Mutex::default(), taken: Default::default() };
        Ok(Self {
            shared: Arc::new(shared),
            board,
            files: Files::default(),
            issued,
            orders: JoinSet::new(),
            under_way: BTreeSet::new(),
            failed: BTreeMap::new(),
            said: BTreeMap::new(),
        })
    }

    /// Looks at what is wanted again and again, and at once when `changes` brings another wish.
    pub async fn run<T>(
        mut self,
        wishes: impl Fn() -> BTreeMap<EnvironmentName, Wish>,
        mut changes: watch::Receiver<T>,
    ) {
        let mut ticks = tokio::time::interval(self.shared.config.every);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut wanted = BTreeMap::new();
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                Some(ended) = self.orders.join_next() => self.ended(ended).await,
                // A first client comes as soon as an environment answers.
                Ok(()) = changes.changed() => {
                    if wishes() == wanted {
                        continue;
                    }
                }
            }
            wanted = wishes();
            self.look(&wanted).await;
        }
    }

    async fn look(&mut self, wishes: &BTreeMap<EnvironmentName, Wish>) {
        let now = wall();
        let (mut certificates, mut views) = (Vec::new(), BTreeMap::new());
        for (environment, wish) in wishes {
            let (pair, source, note) = match &wish.tls.certificate {
                CertificateSource::Files { certificate, key } => {
                    let (pair, note) = self.read_files(certificate, key).await;
                    let refused = || pair.as_ref()?.refused(&wish.names, now);
                    let note = note.or_else(|| Some(format!("{certificate}: {}", refused()?)));
                    (pair, certificate.clone(), note)
                }
                CertificateSource::Acme(acme) => {
                    let subject = Subject::of_acme(acme, &wish.names);
                    let note = self.see_to(acme, &subject, now).await;
                    let pair = self.issued.get(&subject).or_else(|| self.substitute(&subject));
                    (pair.cloned(), acme.directory.clone(), note)
                }
            };
            let deaf = self.shared.config.https.is_none().then(|| {
                "the server has no address for TLS: start it with --https ADDRESS".to_owned()
            });
            let note = [deaf, note].into_iter().flatten().collect::<Vec<_>>().join("; ");
            let note = Some(note).filter(|note| !note.is_empty());
            self.say(environment, &note);
            let view = CertificateView {
                names: wish.names.clone(),
                source,
                validity: pair.as_ref().map(|pair| pair.validity),
                note,
            };
            views.insert(environment.clone(), view);
            certificates.extend(pair.map(|pair| Certificate {
                names: wish.names.clone(),
                chain: pair.chain,
                key: PrivateKey::new(pair.key),
            }));
        }
        self.said.retain(|environment, _| wishes.contains_key(environment));
        // In this order: what is told to be in force is.
        self.shared.offer(|offered| offered.certificates = certificates).await;
        *lock(&self.board.0) = views;
    }

    /// What the files say. What was good is in the store too, so that broken files take nothing away from whoever starts
    /// a server again.
    async fn read_files(&mut self, certificate: &str, key: &str) -> (Option<Pair>, Option<String>) {
        let project = &self.shared.config.project;
        let (certificate, key) = (project.join(certificate), project.join(key));
        let subject = Subject::of_files(&certificate, &key);
        let read = self.files.read(certificate, key);
        let kept = self.issued.get(&subject);
        let pair = match read {
            Ok(pair) => pair,
            Err(why) => {
                let stays = kept.map_or("", |_| "; the one before stays in force");
                return (kept.cloned(), Some(why + stays));
            }
        };
        if kept.is_none_or(|kept| (&kept.chain, &kept.key) != (&pair.chain, &pair.key)) {
            if let Err(error) = self.keep(&subject, &pair).await {
                tracing::warn!(%error, "a certificate is in force and not in the store");
            }
            self.issued.insert(subject, pair.clone());
        }
        (Some(pair), None)
    }

    /// Begins an order where one is due. Says what is waited for.
    async fn see_to(&mut self, acme: &Acme, subject: &Subject, now: Timestamp) -> Option<String> {
        let pair = self.issued.get(subject);
        let due = pair.is_none_or(|pair| pair.validity.due(now));
        if !due {
            return None;
        }
        let host = acme.directory.split('/').nth(2).unwrap_or(&acme.directory);
        if self.under_way.contains(subject) {
            return Some(format!("an order is under way at {host}"));
        }
        let store = self.shared.config.store.clone();
        let attempts = match store.acme_attempts(&subject.directory, &subject.names).await {
            Ok(attempts) => attempts,
            Err(error) => return Some(error.to_string()),
        };
        if !attempts.allows(now) {
            let wait = match attempts.next.since(now).as_millis().div_ceil(1000) {
                seconds @ 0..60 => format!("{seconds}s"),
                seconds => format!("{}m", seconds.div_ceil(60)),
            };
            let why =
                self.failed.get(subject).map_or("the order before did not end", String::as_str);
            return Some(format!("waits for {host}: {why}; next try in {wait}"));
        }
        if self.orders.len() >= MOST_ORDERS {
            return Some("waits for its turn: other orders are under way".into());
        }
        let begun = attempts.begun(now, &self.shared.config.pace, rand::random::<f64>());
        if let Err(error) =
            store.keep_acme_attempts(&subject.directory, &subject.names, begun).await
        {
            return Some(error.to_string());
        }
        let (shared, acme, of) = (self.shared.clone(), acme.clone(), subject.clone());
        self.under_way.insert(subject.clone());
        tracing::info!(names = ?subject.names, directory = subject.directory, "ordering a certificate");
        self.orders.spawn(async move {
            let ordered =
                tokio::time::timeout(DEADLINE, acme::order(&shared, &acme, &of.names)).await;
            let late = || Err(acme::OrderError::Late { within: DEADLINE });
            (of, ordered.unwrap_or_else(|_| late()))
        });
        Some(format!("an order is under way at {host}"))
    }

    async fn ended(
        &mut self,
        ended: Result<(Subject, Result<Pair, acme::OrderError>), tokio::task::JoinError>,
    ) {
        let (subject, result) = match ended {
            Ok(ended) => ended,
            Err(error) => {
                tracing::error!(%error, "an order ended unexpectedly");
                // Which one is not said: those that go on are told apart by their attempts.
                self.under_way.clear();
                return;
            }
        };
        self.under_way.remove(&subject);
        match self.kept(&subject, result).await {
            Ok(pair) => {
                tracing::info!(names = ?subject.names, until = %pair.validity.until, "a certificate is there");
                self.failed.remove(&subject);
                self.issued.insert(subject, pair);
            }
            Err(why) => drop(self.failed.insert(subject, why)),
        }
    }

    /// On disk before it is in force: a restart never asks for it again.
    async fn kept(
        &self,
        subject: &Subject,
        result: Result<Pair, acme::OrderError>,
    ) -> Result<Pair, String> {
        let pair = result.map_err(|error| error.to_string())?;
        let store = &self.shared.config.store;
        self.keep(subject, &pair).await.map_err(|error| error.to_string())?;
        let attempts = Attempts::succeeded(wall(), &self.shared.config.pace);
        let noted = store.keep_acme_attempts(&subject.directory, &subject.names, attempts).await;
        noted.map_err(|error| error.to_string())?;
        Ok(pair)
    }

    async fn keep(&self, subject: &Subject, pair: &Pair) -> Result<(), store::StoreError> {
        let kept = StoredCertificate {
            directory: subject.directory.clone(),
            names: subject.names.clone(),
            chain: pair.chain.clone(),
            key: pair.key.clone(),
        };
        self.shared.config.store.keep_certificate(&kept).await
    }

    /// A certificate for other names of the same CA that still covers some, while the right one is not there.
    fn substitute(&self, subject: &Subject) -> Option<&Pair> {
        let now = wall();
        let shared = |(other, _): &(&Subject, &Pair)| {
            other.names.iter().filter(|name| subject.names.contains(name)).count()
        };
        let valid = self.issued.iter().filter(|(other, pair)| {
            other.directory == subject.directory && !pair.validity.expired(now)
        });
        valid.filter(|found| shared(found) > 0).max_by_key(shared).map(|(_, pair)| pair)
    }

    /// Once for each thing that is wrong, not each second; how long it will wait still is no news.
    fn say(&mut self, environment: &EnvironmentName, note: &Option<String>) {
        let news =
            note.as_ref().map(|note| note.split("; next try").next().unwrap_or(note).to_owned());
        let before = self.said.insert(environment.clone(), news.clone()).flatten();
        if let Some(news) = news.filter(|news| before.as_ref() != Some(news)) {
            tracing::warn!(%environment, "certificate: {news}");
        }
    }
}

impl Shared {
    /// Changes what the edge shall have, and gives it to the edge if that has something else.
    async fn offer(&self, change: impl FnOnce(&mut Certificates)) {
        let mut taken = self.taken.lock().await;
        let wanted = {
            let mut offered = lock(&self.offered);
            change(&mut offered);
            offered.clone()
        };
        let client = &self.config.edge;
        let known = taken.as_ref() == Some(&wanted);
        if known && client.certificates().await.is_ok_and(|has| same(&has, &wanted)) {
            return;
        }
        match client.put_certificates(&wanted).await {
            Ok(_) => *taken = Some(wanted),
            Err(error) => {
                let before = taken.take();
                let none = |all: &Certificates| *all == Certificates::default();
                match none(&wanted) && before.as_ref().is_none_or(none) {
                    // Nobody misses anything: an edge that just starts is asked again.
                    true => {
                        tracing::debug!(%error, "the edge was not told that there is no certificate")
                    }
                    false => {
                        tracing::warn!(%error, "the edge does not take the certificates; tried again")
                    }
                }
            }
        }
    }

    async fn challenge(&self, change: impl FnOnce(&mut Challenges)) {
        self.offer(|offered| change(&mut offered.challenges)).await;
    }

    async fn answer_http(&self, token: &str, authorization: &str) {
        let (token, authorization) = (token.to_owned(), authorization.to_owned());
        self.challenge(|challenges| drop(challenges.http.insert(token, authorization))).await;
    }

    async fn answer_tls(&self, name: &str, challenge: Challenge) {
        self.challenge(|challenges| drop(challenges.tls_alpn.insert(name.to_owned(), challenge)))
            .await;
    }
}

/// Whether the edge has these certificates, whatever challenges it has.
fn same(has: &[edge::CertificateInfo], wanted: &Certificates) -> bool {
    let prints =
        wanted.certificates.iter().map(|certificate| pair::fingerprint(&certificate.chain));
    prints.eq(has.iter().map(|info| Some(info.fingerprint.clone())))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
