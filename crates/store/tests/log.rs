//! The log as a user depends on it: whole, in order, and never losing what it acknowledged.

use domain::app::Event;
use domain::{CommitId, Epoch, Identity, Timestamp};
use store::{Lock, Store, StoreError};

fn event(n: u64) -> Event {
    if n.is_multiple_of(2) {
        return Event::Published { epoch: Epoch(n) };
    }
    Event::RunRequested {
        commit: CommitId::new(format!("{n:040x}")).unwrap(),
        branch: Some("develop".into()),
        deploy_to: None,
        by: Identity::new("ada").unwrap(),
    }
}

#[tokio::test]
async fn what_was_appended_is_read_in_order_after_opening_again() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).await.unwrap();
    for n in 1..=20 {
        assert_eq!(store.append(Timestamp::from_millis(n as i64), &event(n)).await.unwrap(), n);
    }
    drop(store);
    let store = Store::open(folder.path()).await.unwrap();
    let first = store.after(0, 12).await.unwrap();
    let rest = store.after(12, 100).await.unwrap();
    let all: Vec<_> = first.into_iter().chain(rest).collect();
    assert_eq!(all.len(), 20);
    assert!(all.iter().zip(1..).all(|(entry, n)| entry.seq == n && entry.event == event(n)));
}

#[test]
fn a_second_owner_of_a_state_folder_is_told_who_has_it() {
    let folder = tempfile::tempdir().unwrap();
    let lock = Lock::take(folder.path()).unwrap();
    let refused = Lock::take(folder.path()).unwrap_err();
    assert!(
        matches!(&refused, StoreError::Held { pid, .. } if *pid == std::process::id().to_string())
    );
    assert!(refused.to_string().contains("SIGTERM") && refused.to_string().contains("--state"));
    drop(lock);
    Lock::take(folder.path()).unwrap();
}

/// Writes for ever, printing each sequence number once it was acknowledged. Run by the test below.
#[test]
#[ignore = "the child of `a_writer_that_is_killed_loses_nothing_it_acknowledged`"]
fn write_until_killed() {
    let folder = std::env::var_os("STORE_FOLDER").expect("run by its parent");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let store = Store::open(folder.as_ref()).await.unwrap();
        for n in 1..=1_000_000 {
            let seq = store.append(Timestamp::from_millis(n), &event(n as u64)).await.unwrap();
            println!("acknowledged {seq}");
        }
    });
}

#[tokio::test]
async fn a_writer_that_is_killed_loses_nothing_it_acknowledged() {
    use std::io::BufRead;
    let folder = tempfile::tempdir().unwrap();
    for round in 0..5u64 {
        let mut child = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "write_until_killed", "--nocapture"])
            .env("STORE_FOLDER", folder.path())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let lines = std::io::BufReader::new(child.stdout.take().unwrap()).lines();
        let mut acknowledged = 0;
        let mut seen = 0;
        for line in lines.map_while(Result::ok) {
            let Some((_, seq)) = line.split_once("acknowledged ") else { continue };
            acknowledged = seq.parse().unwrap();
            seen += 1;
            if seen == 30 + 17 * round {
                child.kill().unwrap();
            }
        }
        child.wait().unwrap();
        let store = Store::open(folder.path()).await.unwrap();
        let kept = store.after(0, u32::MAX).await.unwrap();
        assert!(kept.len() as u64 >= acknowledged, "{} kept of {acknowledged}", kept.len());
        assert!(kept.iter().zip(1..).all(|(entry, n)| entry.seq == n));
    }
}

#[tokio::test]
async fn a_full_disk_acknowledges_nothing_that_is_not_kept() {
    let folder = tempfile::tempdir().unwrap();
    drop(Store::open(folder.path()).await.unwrap());
    // No file may grow over 256 blocks; that is told by an error, as a full disk is, not by a signal.
    let output = std::process::Command::new("/bin/sh")
        .args(["-c", r#"trap "" XFSZ; ulimit -f 256; exec "$0" "$@""#])
        .arg(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "write_until_killed", "--nocapture"])
        .env("STORE_FOLDER", folder.path())
        .output()
        .unwrap();
    assert!(!output.status.success(), "the log was refused at some point");
    let text = String::from_utf8_lossy(&output.stdout);
    let last = text.lines().filter_map(|line| line.split_once("acknowledged ")).next_back();
    let acknowledged: usize = last.expect("some were taken").1.parse().unwrap();
    let store = Store::open(folder.path()).await.unwrap();
    assert_eq!(store.after(0, u32::MAX).await.unwrap().len(), acknowledged);
}

#[tokio::test]
async fn a_log_is_read_beside_its_owner_and_after_it() {
    let folder = tempfile::tempdir().unwrap();
    assert!(Store::open_to_read(folder.path()).await.is_err(), "looking makes no log");
    let owner = Store::open(folder.path()).await.unwrap();
    owner.append(Timestamp::from_millis(1), &Event::Timer).await.unwrap();
    let reader = Store::open_to_read(folder.path()).await.unwrap();
    assert_eq!(reader.after(0, 10).await.unwrap().len(), 1);
    owner.append(Timestamp::from_millis(2), &Event::Timer).await.unwrap();
    assert_eq!(reader.after(0, 10).await.unwrap().len(), 2);
    assert!(reader.append(Timestamp::from_millis(3), &Event::Timer).await.is_err());
    drop((owner, reader));
    let later = Store::open_to_read(folder.path()).await.unwrap();
    assert_eq!(later.after(0, 10).await.unwrap().len(), 2);
}

#[tokio::test]
async fn only_the_owner_may_read_the_log_and_an_older_one_is_closed_too() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let files = ["events.db", "events.db-wal", "events.db-shm"].map(|n| folder.path().join(n));
    let modes = || files.clone().map(|f| f.metadata().unwrap().permissions().mode() & 0o777);
    let owner = Store::open(folder.path()).await.unwrap();
    owner.append(Timestamp::from_millis(1), &Event::Timer).await.unwrap();
    assert_eq!(modes(), [0o600; 3]);
    for file in &files {
        std::fs::set_permissions(file, std::fs::Permissions::from_mode(0o644)).unwrap();
    }
    let again = Store::open(folder.path()).await.unwrap();
    assert_eq!(again.after(0, 10).await.unwrap().len(), 1);
    assert_eq!(modes(), [0o600; 3]);
}
