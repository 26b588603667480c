//! What is kept beside the log: a certificate and an account are never lost, half, or readable by others.

use std::io::BufRead;
use std::path::Path;

use domain::Timestamp;
use domain::app::Event;
use domain::certificate::Attempts;
use sqlx::migrate::Migrator;
use sqlx::sqlite::{SqliteConnectOptions, SqlitePool};
use store::{AcmeAccount, Store, StoredCertificate};

const CA: &str = "https://ca.example.com/dir";

fn names() -> Vec<String> {
    ["shop.example.com", "www.example.com"].map(str::to_owned).into()
}

fn certificate(n: u32) -> StoredCertificate {
    let text = |what: &str| format!("{what} {n}\n").repeat(200);
    StoredCertificate {
        directory: CA.into(),
        names: names(),
        chain: text("chain"),
        key: text("key"),
    }
}

fn account(n: u32) -> AcmeAccount {
    let (email, url) = ("ops@example.com".into(), Some(format!("{CA}/account/{n}")));
    AcmeAccount { directory: CA.into(), email, key: n.to_be_bytes().repeat(40), url }
}

fn attempts(n: u32) -> Attempts {
    Attempts { failures: n, next: Timestamp::from_millis(i64::from(n) * 1000) }
}

/// Writes for ever, printing each number once all of it was acknowledged. Run by the test below.
#[test]
#[ignore = "the child of `a_keeper_that_is_killed_loses_nothing_it_acknowledged`"]
fn keep_until_killed() {
    let folder = std::env::var_os("STORE_FOLDER").expect("run by its parent");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let store = Store::open(folder.as_ref()).await.unwrap();
        for n in 1..=1_000_000 {
            store.keep_acme_attempts(CA, &names(), attempts(n)).await.unwrap();
            store.keep_acme_account(&account(n)).await.unwrap();
            store.keep_certificate(&certificate(n)).await.unwrap();
            println!("acknowledged {n}");
        }
    });
}

#[tokio::test]
async fn a_keeper_that_is_killed_loses_nothing_it_acknowledged() {
    for round in 0..5 {
        let folder = tempfile::tempdir().unwrap();
        let mut child = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "keep_until_killed", "--nocapture"])
            .env("STORE_FOLDER", folder.path())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let lines = std::io::BufReader::new(child.stdout.take().unwrap()).lines();
        let mut acknowledged: u32 = 0;
        for line in lines.map_while(Result::ok) {
            let Some((_, n)) = line.split_once("acknowledged ") else { continue };
            acknowledged = n.parse().unwrap();
            if acknowledged == 5 + 11 * round {
                child.kill().unwrap();
            }
        }
        child.wait().unwrap();
        let store = Store::open(folder.path()).await.unwrap();
        let kept = store.certificates().await.unwrap();
        let [kept] = kept.as_slice() else {
            panic!("{} certificates for the same names", kept.len())
        };
        // The last one, or the one under way when it was killed: chain and key of the same.
        let newest = [acknowledged, acknowledged + 1].map(certificate);
        assert!(newest.contains(kept), "not what was acknowledged as {acknowledged}");
        let known = store.acme_account(CA, "ops@example.com").await.unwrap().unwrap();
        assert!([acknowledged, acknowledged + 1].map(account).contains(&known));
        let known = store.acme_attempts(CA, &names()).await.unwrap();
        assert!([acknowledged, acknowledged + 1].map(attempts).contains(&known));
    }
}

#[tokio::test]
async fn only_the_owner_may_read_keys_and_printing_shows_none() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).await.unwrap();
    store.keep_acme_account(&account(1)).await.unwrap();
    store.keep_certificate(&certificate(1)).await.unwrap();
    for name in ["events.db", "events.db-wal", "events.db-shm"] {
        let mode = folder.path().join(name).metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
    let shown = format!("{:?} {:?}", account(1), certificate(1));
    assert!(shown.contains("www.example.com") && !shown.contains("key 1"), "{shown}");
}

#[tokio::test]
async fn a_log_from_before_certificates_keeps_its_events_and_takes_certificates() {
    let folder = tempfile::tempdir().unwrap();
    older_log(folder.path()).await;
    let store = Store::open(folder.path()).await.unwrap();
    let kept = store.after(0, 10).await.unwrap();
    assert_eq!(kept.len(), 2);
    assert!(kept.iter().all(|entry| entry.event == Event::Timer));
    assert_eq!(store.append(Timestamp::from_millis(3), &Event::Timer).await.unwrap(), 3);
    assert_eq!(store.certificates().await.unwrap(), []);
    assert_eq!(store.acme_attempts(CA, &names()).await.unwrap(), Attempts::default());
    store.keep_certificate(&certificate(7)).await.unwrap();
    assert_eq!(store.certificates().await.unwrap(), [certificate(7)]);
}

/// As the launchway before wrote it: with the first migration only.
async fn older_log(folder: &Path) {
    let migrations = tempfile::tempdir().unwrap();
    let first = Path::new(env!("CARGO_MANIFEST_DIR")).join("migrations/0001_events.sql");
    std::fs::copy(first, migrations.path().join("0001_events.sql")).unwrap();
    let path = folder.join("events.db");
    let options = SqliteConnectOptions::new().filename(&path).create_if_missing(true);
    let pool = SqlitePool::connect_with(options).await.unwrap();
    Migrator::new(migrations.path()).await.unwrap().run(&pool).await.unwrap();
    for seq in 1..=2 {
        sqlx::query("INSERT INTO events (seq, at, subject, body) VALUES ($1, $1, 'time', $2)")
            .bind(seq)
            .bind(serde_json::to_string(&Event::Timer).unwrap())
            .execute(&pool)
            .await
            .unwrap();
    }
    pool.close().await;
}
