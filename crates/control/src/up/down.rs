//! Stops a project in reverse order, and takes it away.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use engine::docker::project::{FOLDER, Found, PROJECT, ProjectEngine};
use futures_util::future::try_join_all;

use super::bring::depends;
use super::{Event, Say, UpError, plan};

/// What was taken away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
pub struct Taken {
    pub containers: usize,
    pub networks: usize,
    pub volumes: usize,
}

impl Taken {
    /// There was nothing.
    pub fn nothing(self) -> bool {
        self == Self::default()
    }
}

/// Stops the project's containers, each after those that depend on it; they stay. `now`: by SIGKILL.
pub async fn stop(
    engine: &ProjectEngine,
    project: &str,
    now: bool,
    say: &Say,
) -> Result<(), UpError> {
    let containers = engine.containers(&[(PROJECT, project)]).await?;
    in_reverse(engine, &containers, now, say).await
}

/// Takes away what `up` runs from this folder. Volumes only if told so; what others made or use stays.
pub async fn take_down(
    engine: &ProjectEngine,
    folder: &Path,
    volumes: bool,
    say: &Say,
) -> Result<Taken, UpError> {
    let folder = label(folder)?;
    let ours = [(FOLDER, folder.as_str())];
    let containers = engine.containers(&ours).await?;
    in_reverse(engine, &containers, false, say).await?;
    for found in &containers {
        engine.remove(&found.id, volumes).await?;
        say(Event::Removed(found.name.clone()));
    }
    let mut taken = Taken { containers: containers.len(), ..Taken::default() };
    for network in engine.networks(&ours).await? {
        match engine.remove_network(&network).await? {
            true => {
                taken.networks += 1;
                say(Event::Removed(network));
            }
            false => {
                say(Event::Warning(format!("the network {network} stays: something else is in it")))
            }
        }
    }
    for volume in engine.volumes(&ours).await?.into_iter().filter(|_| volumes) {
        match engine.remove_volume(&volume).await? {
            true => {
                taken.volumes += 1;
                say(Event::Removed(volume));
            }
            false => {
                say(Event::Warning(format!("the volume {volume} stays: something else uses it")))
            }
        }
    }
    Ok(taken)
}

/// What everything of this folder is marked with.
pub(super) fn label(folder: &Path) -> Result<String, UpError> {
    let absolute = std::fs::canonicalize(folder);
    let absolute = absolute.map_err(|why| UpError::Io { path: folder.to_owned(), why })?;
    Ok(absolute.to_string_lossy().into_owned())
}

async fn in_reverse(
    engine: &ProjectEngine,
    containers: &[Found],
    now: bool,
    say: &Say,
) -> Result<(), UpError> {
    let layers: Vec<BTreeSet<String>> = plan::layers(&depends(containers));
    for layer in layers.iter().rev() {
        let here =
            containers.iter().filter(|found| found.running && layer.contains(&found.service));
        let stops = here.map(|found| async {
            say(Event::Stopping(found.name.clone()));
            match now {
                true => engine.kill(&found.id, &found.name).await,
                false => engine.stop(&found.id, &found.name, grace(found)).await,
            }
        });
        try_join_all(stops).await?;
    }
    Ok(())
}

/// As the service says; the Engine knows it too, but is told how long it may take us.
fn grace(found: &Found) -> Duration {
    const USUAL: Duration = Duration::from_secs(10);
    let said = found.labels.get(plan::GRACE).and_then(|text| text.parse().ok());
    said.map_or(USUAL, Duration::from_millis)
}
