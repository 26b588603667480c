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
    #[error("{doing} {path}: {source}{}", way_out(source))]
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
    #[error(
        "{path} is held by process {pid}: another launchway works with this state folder; stop that one (SIGTERM \
         leaves alone what is live), or give this one a folder of its own with --state"
    )]
    Held { path: std::path::PathBuf, pid: String },
}

/// What a person can do about it, where that is known.
fn way_out(source: &std::io::Error) -> &'static str {
    match source.kind() {
        std::io::ErrorKind::PermissionDenied => {
            "; run launchway as the user whom that folder belongs to, or give it another with --state"
        }
        std::io::ErrorKind::StorageFull => "; make room on that disk",
        _ => "",
    }
}
