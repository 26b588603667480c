//! Follows a server from outside by reading its log: works whether the server runs or not.

use domain::app::App;
use domain::refusal::Refusal;
use std::path::{Path, PathBuf};
use store::{Entry, Store, StoreError};

/// The state as of the last look, and the events it came from.
pub struct Observer {
    state: PathBuf,
    store: Option<Store>,
    pub app: App,
    pub entries: Vec<Entry>,
}

/// Why the log cannot be followed.
#[derive(Debug, thiserror::Error)]
pub enum ObserveError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("event {seq} of the log does not fit those before it: {refusal}")]
    Log { seq: u64, refusal: Refusal },
}

impl Observer {
    /// Follows the log in a server's state folder, whether it is there yet or not.
    pub fn of(state: &Path) -> Self {
        Self { state: state.into(), store: None, app: App::default(), entries: Vec::new() }
    }

    /// Reads what was logged since the last look.
    pub async fn look(&mut self) -> Result<&App, ObserveError> {
        if self.store.is_none() {
            // There is no log before the first server has made it.
            self.store = Store::open_to_read(&self.state).await.ok();
        }
        let Some(store) = &self.store else { return Ok(&self.app) };
        let seq = self.entries.last().map_or(0, |entry| entry.seq);
        for entry in store.after(seq, u32::MAX).await? {
            let refused = |refusal| ObserveError::Log { seq: entry.seq, refusal };
            self.app.step(&entry.event, entry.at).map_err(refused)?;
            self.entries.push(entry);
        }
        Ok(&self.app)
    }
}
