//! Locks by name among the tasks of this process.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::OwnedMutexGuard;

/// One lock per name; those that nobody wants are forgotten.
#[derive(Default)]
pub(crate) struct Locks {
    by_name: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
}

impl Locks {
    /// Waits for the lock called `name`.
    pub async fn take(&self, name: &str) -> OwnedMutexGuard<()> {
        let lock = {
            let mut by_name = self.by_name.lock().unwrap_or_else(PoisonError::into_inner);
            by_name.retain(|_, lock| Arc::strong_count(lock) > 1);
            by_name.entry(name.to_owned()).or_default().clone()
        };
        lock.lock_owned().await
    }
}
