//! Looks at environments, one at a time of each, and none that anybody waits for too long.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex as Lock, PoisonError};
use std::time::Duration;

use domain::EnvironmentName;
use domain::slot::Snapshot;
use domain::units::Span;
use engine::EngineError;
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout_at};

/// The looks under way.
#[derive(Default)]
pub struct Looks(Lock<BTreeMap<EnvironmentName, Arc<Mutex<()>>>>);

impl Looks {
    /// What `looking` sees, if it does within `limit`; else why not.
    pub async fn look(
        &self,
        name: &EnvironmentName,
        limit: Duration,
        looking: impl Future<Output = Result<Snapshot, EngineError>> + Send + 'static,
    ) -> Result<Snapshot, String> {
        let deadline = Instant::now() + limit;
        let late = |_| format!("a new look takes longer than {}", Span(limit));
        let one = timeout_at(deadline, self.place(name).lock_owned()).await.map_err(late)?;
        // It goes on alone when it is late: what it mends is not left half done, and nobody begins another beside it.
        let looking = tokio::spawn(async move {
            let _one = one;
            looking.await
        });
        let seen = timeout_at(deadline, looking).await.map_err(late)?;
        seen.map_err(|error| error.to_string())?.map_err(|error| error.to_string())
    }

    fn place(&self, name: &EnvironmentName) -> Arc<Mutex<()>> {
        let mut places = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        places.entry(name.clone()).or_default().clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_millis(20);
    const PATIENCE: Duration = Duration::from_secs(30);

    async fn at_once() -> Result<Snapshot, EngineError> {
        Ok(Snapshot::default())
    }

    #[tokio::test]
    async fn nobody_waits_for_a_replica_that_hangs_longer_than_for_the_limit() {
        let (looks, staging) = (Looks::default(), "staging".parse().unwrap());
        let (answer, answered) = tokio::sync::oneshot::channel::<()>();
        let hangs = async {
            answered.await.unwrap();
            at_once().await
        };
        let late = Err("a new look takes longer than 20ms".to_owned());
        assert_eq!(looks.look(&staging, LIMIT, hangs).await, late);
        assert_eq!(looks.look(&staging, LIMIT, at_once()).await, late, "one at a time");
        let other = "production".parse().unwrap();
        assert!(looks.look(&other, PATIENCE, at_once()).await.is_ok());
        answer.send(()).expect("the first look goes on");
        assert!(looks.look(&staging, PATIENCE, at_once()).await.is_ok(), "the first is over");
    }
}
