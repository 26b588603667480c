//! Holds back new requests to an environment, for a bounded time and a bounded number.
//!
//! A pause is part of the table in force. So a request either was marked as in flight before the pause was
//! acknowledged, or it is held; nothing slips through, a drain can reach zero, and without a pause it costs
//! nothing. Held requests are not routed yet: they go where the table of the moment that frees them says.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use domain::EnvironmentName;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use crate::live::Live;
use crate::worker::Shared;

/// How long, and how many requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PauseFor {
    /// After this the requests go on by themselves. At most [`PauseFor::LONGEST`].
    pub duration: Duration,
    /// Requests held at a time; further ones are answered with 503.
    pub most: usize,
}

/// What a pause, or its end, found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Paused {
    /// Requests that were being held.
    pub held: usize,
}

/// The pauses in force.
pub type Pauses = HashMap<EnvironmentName, Arc<Pause>>;

/// One pause, shared by the workers.
pub struct Pause {
    pub until: Instant,
    most: usize,
    held: AtomicUsize,
    over: watch::Sender<bool>,
}

/// As many requests are held as may be.
pub struct Full;

struct Held<'a>(&'a Pause);

impl PauseFor {
    /// Shorter than clients and proxies in front of us wait.
    pub const LONGEST: Duration = Duration::from_secs(60);
}

impl Pause {
    pub fn new(wanted: PauseFor) -> Self {
        let until = Instant::now() + wanted.duration;
        Self {
            until,
            most: wanted.most,
            held: AtomicUsize::new(0),
            over: watch::Sender::new(false),
        }
    }

    pub fn held(&self) -> usize {
        self.held.load(Relaxed)
    }

    /// Frees what it holds. The table without it must be in force, or it is held again.
    pub fn end(&self) {
        self.over.send_replace(true);
    }

    fn hold(&self) -> Result<Held<'_>, Full> {
        // Counted first, so that workers cannot exceed the number together.
        let held = Held(self);
        if self.held.fetch_add(1, Relaxed) >= self.most { Err(Full) } else { Ok(held) }
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.held.fetch_sub(1, Relaxed);
    }
}

/// Holds a request for `path` at `host`, if the environment is paused, until it should be routed again.
pub async fn hold(shared: &Shared, host: &str, path: &str) -> Result<(), Full> {
    let live: Arc<Live> = shared.live.load_full();
    let Some(pause) = live.pause(host, path).cloned() else { return Ok(()) };
    // A waiting request keeps no table alive.
    drop(live);
    let _held = pause.hold()?;
    let mut over = pause.over.subscribe();
    // Either way it is routed anew: a pause whose time is over holds nothing, whether it was taken away or not.
    let _ = timeout_at(pause.until, over.wait_for(|over| *over)).await;
    Ok(())
}
