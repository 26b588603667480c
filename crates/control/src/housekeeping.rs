//! Removes what no release needs any more: images of containers, and files that were laid out to be mounted. Ends commands
//! that nobody waits for any more.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use domain::app::{App, number};
use domain::config::EngineKind;
use domain::release::Release;
use domain::slot::ArtifactRef;
use engine::{Abandoned, DockerEngine};

use crate::control::Handle;
use crate::pipeline::{Images, Needed};
use crate::world::World;

/// Nothing is that urgent.
const EVERY: Duration = Duration::from_secs(60);
/// The newest releases stay whether an environment has them or not: somebody may deploy one by hand.
const NEWEST: usize = 10;

/// Looks until it is dropped.
pub async fn keep_house(world: Arc<World>, images: Arc<Images>, handle: Handle) {
    let mut seen = None;
    loop {
        let app = handle.app();
        let now = needed(&app);
        // The same releases as before leave nothing new behind.
        if now.is_some()
            && now != seen
            && app.projects.values().any(|p| p.runs_on(EngineKind::Docker))
        {
            let asked = || needed(&handle.app());
            match images.keep(asked).await {
                Ok(gone) => {
                    if gone > 0 {
                        tracing::info!(
                            images = gone,
                            "removed images that no release needs any more"
                        );
                    }
                    seen = now.clone();
                }
                Err(error) => tracing::warn!(%error, "cannot remove old images"),
            }
            if let Some(now) = &now
                && let Err(error) = world.pipeline.keep_mounts(&now.commits).await
            {
                tracing::warn!(%error, "cannot remove old mounts");
            }
        }
        tokio::time::sleep(EVERY).await;
    }
}

/// Ends what `exec` of a killed server left inside of containers, as soon as Docker answers.
pub async fn end_commands(docker: Arc<DockerEngine>, abandoned: Abandoned) {
    while let Err(error) = docker.stop_abandoned(&abandoned).await {
        tracing::warn!(%error, "commands that nobody waits for may still run");
        tokio::time::sleep(EVERY).await;
    }
}

/// What environments, rollouts and people may still ask for; `None` while a run is under way, whose images are in no
/// release yet.
fn needed(app: &App) -> Option<Needed> {
    if app.runs.values().any(|run| !run.ended()) {
        return None;
    }
    let mut newest: Vec<&Release> = app.releases.values().collect();
    newest.sort_by_key(|release| std::cmp::Reverse(number(&release.id)));
    let mut wanted: BTreeSet<_> = newest.iter().take(NEWEST).map(|release| &release.id).collect();
    for environment in app.environments.values() {
        wanted.extend(environment.lineage.iter());
        wanted.extend(environment.slots.values().map(|slot| &slot.release));
    }
    wanted.extend(app.rollouts.values().filter(|r| !r.ended()).map(|rollout| &rollout.release));
    let releases = || wanted.iter().filter_map(|id| app.releases.get(*id));
    let image = |artifact: &ArtifactRef| artifact.digest.clone();
    Some(Needed {
        images: releases().flat_map(|release| release.images.values().map(image)).collect(),
        commits: releases().map(|release| release.commit.id.clone()).collect(),
    })
}
