//! Watches the branches that environments follow: a new head is a new run.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use domain::app::{App, Event};
use domain::{CommitId, Identity};

use crate::control::Handle;
use crate::pipeline::PlanError;
use crate::world::World;

/// Between two looks at the files of references.
const LOOK: Duration = Duration::from_millis(50);
/// Git is asked this often even if they look the same.
const ASK: Duration = Duration::from_millis(500);

/// Asks for a run of every new head until it is dropped.
pub async fn watch(world: Arc<World>, handle: Handle) {
    let mut known: BTreeMap<String, CommitId> = BTreeMap::new();
    let (mut seen, mut asked) = (None, None::<Instant>);
    let mut ticks = tokio::time::interval(LOOK);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let stamp = Some(world.pipeline.stamp().await);
        if stamp == seen && asked.is_some_and(|asked| asked.elapsed() < ASK) {
            continue;
        }
        (seen, asked) = (stamp, Some(Instant::now()));
        let heads = match world.pipeline.branches().await {
            Ok(heads) => heads,
            Err(error) => {
                tracing::warn!(%error, "cannot look at the branches");
                continue;
            }
        };
        for (branch, head) in heads {
            if known.get(&branch) != Some(&head) && consider(&world, &handle, &branch, &head).await
            {
                known.insert(branch, head);
            }
        }
    }
}

/// Asks for a run if an environment follows the branch. Says whether the head is dealt with.
async fn consider(world: &World, handle: &Handle, branch: &str, head: &CommitId) -> bool {
    if has_run(&handle.app(), branch, head) {
        return true;
    }
    let followed = match world.pipeline.plan(head).await {
        Ok((_, project)) => {
            project.environments.iter().any(|e| e.branch.as_deref() == Some(branch))
        }
        // The run says what is wrong, if the branch was followed until now.
        Err(PlanError::Mistakes(_)) => {
            was_followed(&handle.app(), branch) || is_the_first(world, handle, branch).await
        }
        Err(PlanError::Failed(error)) => {
            tracing::warn!(%branch, %error, "cannot read the head of a branch");
            return false;
        }
    };
    if !followed {
        return true;
    }
    // Somebody may have asked for it while the head was read.
    if has_run(&handle.app(), branch, head) {
        return true;
    }
    let Ok(by) = Identity::new(format!("(branch {branch})")) else { return true };
    let event = Event::RunRequested {
        commit: head.clone(),
        branch: Some(branch.into()),
        deploy_to: None,
        by,
    };
    handle.offer(event).await.is_ok()
}

fn has_run(app: &App, branch: &str, head: &CommitId) -> bool {
    app.runs.values().any(|run| run.commit == *head && run.branch.as_deref() == Some(branch))
}

/// Where no commit was ever understood, nobody knows which branch is to be followed: most likely the one that is
/// checked out, and whoever waits for its commit has to hear what is wrong with it.
async fn is_the_first(world: &World, handle: &Handle, branch: &str) -> bool {
    handle.app().runs.values().all(|run| run.plan.is_none())
        && world.pipeline.checked_out().await.as_deref() == Some(branch)
}

fn was_followed(app: &App, branch: &str) -> bool {
    app.runs.values().any(|run| run.branch.as_deref() == Some(branch))
}
