//! Performs actions. One action, one file; each may be repeated after a crash.

mod check;
mod drain;
mod evidence;
mod migrate;
mod prepare;
mod publish;
mod remove;
mod start;
mod step;
mod watch;

use std::sync::Arc;

use domain::app::{Action, Event};
use domain::rollout::{Evidence, Rollout, RolloutEvent};
use domain::{RolloutId, Timestamp};

use crate::control::{Call, Effects};
use crate::world::{Placed, World};

/// How an effect on a rollout ends: with its event, or with what it leaves behind of a failure.
type Effect = Result<RolloutEvent, Evidence>;

/// A rollout, its release and its environment, as an effect finds them.
struct Job<'a> {
    world: &'a World,
    call: &'a Call,
    rollout: &'a Rollout,
    placed: Placed<'a>,
}

/// The effects of a real server.
pub struct Performer {
    world: Arc<World>,
}

impl Performer {
    /// Effects that act on `world`.
    pub fn new(world: Arc<World>) -> Self {
        Self { world }
    }
}

impl Effects for Performer {
    fn perform(&self, call: Call) -> impl Future<Output = Option<Event>> + Send + 'static {
        let world = self.world.clone();
        async move {
            let cancel = call.cancel.clone();
            // Steps and checks stop their own jobs when cancelled; everything else can simply be dropped.
            if matches!(call.action, Action::Run { .. } | Action::Check { .. }) {
                return perform(&world, &call).await;
            }
            tokio::select! {
                () = cancel.cancelled() => None,
                event = perform(&world, &call) => event,
            }
        }
    }
}

async fn perform(world: &World, call: &Call) -> Option<Event> {
    match &call.action {
        Action::Run { run, action } => step::perform(world, call, run, action).await,
        Action::Publish { epoch } => publish::perform(world, call, *epoch).await,
        Action::Remove { environment, slot, release } => {
            remove::slot(world, call, environment, *slot, release).await
        }
        Action::TakeDown { environment, with_data } => {
            remove::environment(world, call, environment, *with_data).await
        }
        Action::Prepare { rollout }
        | Action::Migrate { rollout }
        | Action::Start { rollout, .. }
        | Action::Check { rollout, .. }
        | Action::Watch { rollout }
        | Action::Drain { rollout, .. } => {
            let event = for_rollout(world, call, rollout).await;
            let event = event.unwrap_or_else(|evidence| RolloutEvent::EffectFailed { evidence });
            Some(Event::Rollout { rollout: rollout.clone(), event })
        }
    }
}

async fn for_rollout(world: &World, call: &Call, id: &RolloutId) -> Effect {
    let rollout = call.app.rollouts.get(id);
    let rollout = rollout.ok_or_else(|| Evidence::of(format!("{id} is not known any more")))?;
    let placed = Placed::of(&call.app, &rollout.environment, &rollout.release)
        .map_err(|error| Evidence::of(error.to_string()))?;
    let job = Job { world, call, rollout, placed };
    match &call.action {
        Action::Prepare { .. } => prepare::perform(&job).await,
        Action::Migrate { .. } => migrate::perform(&job).await,
        Action::Start { slot, .. } => start::perform(&job, *slot).await,
        Action::Check { check, .. } => check::perform(&job, *check).await,
        Action::Watch { .. } => watch::perform(&job).await,
        Action::Drain { slot, .. } => drain::perform(&job, *slot).await,
        other => Err(Evidence::of(format!("{other:?} is not about a rollout"))),
    }
}

impl Job<'_> {
    fn since(&self) -> Timestamp {
        self.rollout.since
    }
}
