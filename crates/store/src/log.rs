//! The event log.

use std::fs;
use std::io;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use domain::Timestamp;
use domain::app::Event;
use serde::Serialize;
use sqlx::Row;
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteRow,
    SqliteSynchronous,
};

use crate::StoreError;

/// One logged event.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Entry {
    /// Rises by one; the first is 1.
    pub seq: u64,
    pub at: Timestamp,
    pub event: Event,
}

/// The event log of one application. Clones share it.
#[derive(Debug, Clone)]
pub struct Store {
    pool: SqlitePool,
    path: PathBuf,
}

impl Store {
    /// Opens the log in `folder`, made if it is not there.
    pub async fn open(folder: &Path) -> Result<Self, StoreError> {
        fs::create_dir_all(folder).map_err(|source| StoreError::Io {
            doing: "making",
            path: folder.into(),
            source,
        })?;
        let path = folder.join("events.db");
        keep_private(&path).map_err(|source| StoreError::Io {
            doing: "keeping others out of",
            path: path.clone(),
            source,
        })?;
        let options = SqliteConnectOptions::new()
            .filename(&path)
            .journal_mode(SqliteJournalMode::Wal)
            // An acknowledged event survives a power cut: FULL syncs the log at every commit.
            .synchronous(SqliteSynchronous::Full)
            .busy_timeout(Duration::from_secs(10));
        let pool = SqlitePoolOptions::new().max_connections(1).connect_with(options).await;
        let pool = pool.map_err(|source| StoreError::Sql {
            doing: "opening",
            path: path.clone(),
            source,
        })?;
        let migrated = sqlx::migrate!().run(&pool).await;
        migrated.map_err(|source| StoreError::Migrate { path: path.clone(), source })?;
        Ok(Self { pool, path })
    }

    /// Opens the log in `folder` to look at it, beside whoever owns it.
    pub async fn open_to_read(folder: &Path) -> Result<Self, StoreError> {
        let path = folder.join("events.db");
        let options = SqliteConnectOptions::new()
            .filename(&path)
            .read_only(true)
            .busy_timeout(Duration::from_secs(10));
        let pool = SqlitePoolOptions::new().max_connections(1).connect_with(options).await;
        let failed = |source| StoreError::Sql { doing: "opening", path: path.clone(), source };
        let pool = pool.map_err(failed)?;
        // A server that has just begun may not have made the table yet.
        sqlx::query("SELECT seq FROM events LIMIT 1").execute(&pool).await.map_err(failed)?;
        Ok(Self { pool, path })
    }

    /// Appends one event. When this returns, it is on disk.
    pub async fn append(&self, at: Timestamp, event: &Event) -> Result<u64, StoreError> {
        let body = serde_json::to_string(event).map_err(|error| StoreError::Event {
            seq: 0,
            path: self.path.clone(),
            why: error.to_string(),
        })?;
        let rows = sqlx::query(
            "INSERT INTO events (seq, at, subject, body) \
             SELECT COALESCE(MAX(seq), 0) + 1, $1, $2, $3 FROM events RETURNING seq",
        )
        .bind(at.as_millis())
        .bind(subject(event))
        .bind(body)
        // To the end of the statement, not to its first row: only there a commit that failed is said.
        .fetch_all(&self.pool)
        .await;
        let rows = rows.map_err(|source| self.sql("appending to", source))?;
        let row = rows.first().ok_or_else(|| self.sql("appending to", sqlx::Error::RowNotFound))?;
        Ok(row.get::<i64, _>(0).unsigned_abs())
    }

    /// At most `limit` events after `seq`, oldest first.
    pub async fn after(&self, seq: u64, limit: u32) -> Result<Vec<Entry>, StoreError> {
        let rows =
            sqlx::query("SELECT seq, at, body FROM events WHERE seq > $1 ORDER BY seq LIMIT $2")
                .bind(i64::try_from(seq).unwrap_or(i64::MAX))
                .bind(i64::from(limit))
                .fetch_all(&self.pool)
                .await;
        let rows = rows.map_err(|source| self.sql("reading", source))?;
        rows.iter().map(|row| self.entry(row)).collect()
    }

    fn entry(&self, row: &SqliteRow) -> Result<Entry, StoreError> {
        let seq = row.get::<i64, _>(0).unsigned_abs();
        let event = serde_json::from_str(row.get(2)).map_err(|error| StoreError::Event {
            seq,
            path: self.path.clone(),
            why: error.to_string(),
        })?;
        Ok(Entry { seq, at: Timestamp::from_millis(row.get(1)), event })
    }

    pub(crate) fn pool(&self) -> &SqlitePool {
        &self.pool
    }

    pub(crate) fn sql(&self, doing: &'static str, source: sqlx::Error) -> StoreError {
        StoreError::Sql { doing, path: self.path.clone(), source }
    }
}

/// Events hold the values of variables, so only the owner may read them. SQLite gives the files it makes
/// beside the log the rights of the log. An existing log is not opened here: closing it would let go of
/// the locks that this process has on it.
fn keep_private(path: &Path) -> io::Result<()> {
    match fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        made => return made.map(drop),
    }
    for suffix in ["", "-wal", "-shm"] {
        let mut file = path.as_os_str().to_owned();
        file.push(suffix);
        match fs::set_permissions(&file, fs::Permissions::from_mode(0o600)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// What an event is about, so that the history of one thing is found quickly.
fn subject(event: &Event) -> String {
    match event {
        Event::RunRequested { .. } => "runs".into(),
        Event::Run { run, .. } => run.to_string(),
        Event::DeployRequested { environment, .. }
        | Event::RollbackRequested { environment, .. }
        | Event::Environment { environment, .. } => environment.to_string(),
        Event::Rollout { rollout, .. } => rollout.to_string(),
        Event::Published { .. } => "edge".into(),
        Event::Timer => "time".into(),
    }
}
