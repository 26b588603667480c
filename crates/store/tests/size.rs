//! What the log takes on disk.

use domain::app::Event;
use domain::pipeline::RunEvent;
use domain::{RunId, Timestamp};
use store::Store;

#[tokio::test]
async fn the_write_ahead_log_is_taken_over_into_the_database_while_it_grows() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).await.unwrap();
    // A status command that looks on now and then.
    let reader = Store::open_to_read(folder.path()).await.unwrap();
    for n in 0..1500 {
        let event = RunEvent::Refused { mistakes: vec!["x".repeat(8192)] };
        store
            .append(Timestamp::from_millis(n), &Event::Run { run: RunId::nth(1), event })
            .await
            .unwrap();
        if n % 100 == 0 {
            reader.after(0, 10).await.unwrap();
        }
    }
    let size = |name: &str| std::fs::metadata(folder.path().join(name)).unwrap().len();
    assert!(size("events.db") > 6_000_000, "{} bytes in the database", size("events.db"));
    assert!(size("events.db-wal") < 8_000_000, "{} bytes beside it", size("events.db-wal"));
}
