//! Remembers. The event log in SQLite: append only, one writer, on disk before it is acknowledged.
//! Beside it, in the same file: certificates and accounts at CAs.

mod certificates;
mod lock;
mod log;

pub use certificates::{AcmeAccount, StoredCertificate};
pub use lock::Lock;
pub use log::{Entry, Store};

/// Why the store could not do it.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("{doing} {path}: {source}")]
    Io { doing: &'static str, path: std::path::PathBuf, source: std::io::Error },
    #[error("{doing} the event log {path}: {source}")]
    Sql { doing: &'static str, path: std::path::PathBuf, source: sqlx::Error },
    #[error(
        "migrating the event log {path}: {source}; a newer launchway may have written it: use that one"
    )]
    Migrate { path: std::path::PathBuf, source: sqlx::migrate::MigrateError },
    #[error(
        "event {seq} in {path} cannot be read: {why}; a newer launchway may have written it: use that one"
    )]
    Event { seq: u64, path: std::path::PathBuf, why: String },
    #[error("{path} is held by process {pid}: another launchway works with this state folder")]
    Held { path: std::path::PathBuf, pid: String },
}
