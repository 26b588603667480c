//! Follows a server from outside by reading its log: works whether the server runs or not.

use std::path::Path;
use std::time::{Duration, Instant};

use domain::app::App;
use domain::refusal::Refusal;
use store::{Entry, Store, StoreError};

const PAUSE: Duration = Duration::from_millis(20);

/// The state as of the last look, and the events it came from.
pub struct Observer {
    store: Store,
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
    #[error("{what} did not happen within {limit:?}")]
    Late { what: String, limit: Duration },
}

impl Observer {
    /// Reads the log in a server's state folder.
    pub async fn open(state: &Path) -> Result<Self, ObserveError> {
        let store = Store::open(state).await?;
        Ok(Self { store, app: App::default(), entries: Vec::new() })
    }

    /// Reads what was logged since the last look.
    pub async fn look(&mut self) -> Result<&App, ObserveError> {
        let seq = self.entries.last().map_or(0, |entry| entry.seq);
        for entry in self.store.after(seq, u32::MAX).await? {
            let refused = |refusal| ObserveError::Log { seq: entry.seq, refusal };
            self.app.step(&entry.event, entry.at).map_err(refused)?;
            self.entries.push(entry);
        }
        Ok(&self.app)
    }

    /// Looks until `found` finds something, for `limit` at the most; `what` names it in the error.
    pub async fn wait<T>(
        &mut self,
        what: &str,
        limit: Duration,
        found: impl Fn(&App) -> Option<T>,
    ) -> Result<T, ObserveError> {
        let began = Instant::now();
        loop {
            if let Some(found) = found(self.look().await?) {
                return Ok(found);
            }
            if began.elapsed() > limit {
                return Err(ObserveError::Late { what: what.into(), limit });
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}
