//! The Docker Engine that images are built on: asked for only when a project needs it.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use domain::Digest;
use engine::docker::build::{BuildError, ImageBuilder};
use engine::docker::state_label;
use tokio::sync::{OnceCell, RwLock};

/// One Engine, and by which label images of this installation are known there.
pub struct Images {
    state: String,
    builder: OnceCell<Arc<ImageBuilder>>,
    /// What was made or found a short while ago: it may be on its way into a release.
    recent: Mutex<BTreeMap<Digest, Instant>>,
    /// Held by whoever makes images; alone by whoever removes them.
    pub(crate) making: RwLock<()>,
}

/// After this long, what was made is in a release or in none.
const RECENT: Duration = Duration::from_secs(600);

impl Images {
    /// Of the installation in this state folder. Nothing is asked yet.
    pub fn new(state: &Path) -> Self {
        let state = state_label(state);
        Self {
            state,
            builder: OnceCell::new(),
            recent: Mutex::default(),
            making: RwLock::default(),
        }
    }

    /// The builder. An Engine that did not answer is asked again the next time.
    pub async fn builder(&self) -> Result<Arc<ImageBuilder>, BuildError> {
        let connect = || async { ImageBuilder::connect().await.map(Arc::new) };
        self.builder.get_or_try_init(connect).await.cloned()
    }

    /// Tells two installations on one Engine apart.
    pub fn state(&self) -> &str {
        &self.state
    }

    /// Notes that somebody is about to use the image.
    pub(crate) fn used(&self, image: &Digest) {
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        recent.retain(|_, at| at.elapsed() < RECENT);
        recent.insert(image.clone(), Instant::now());
    }

    pub(crate) fn recently_used(&self, image: &Digest) -> bool {
        let recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        recent.get(image).is_some_and(|at| at.elapsed() < RECENT)
    }
}
