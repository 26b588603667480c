//! What a run wants done: reading the commit, a step, cleaning up.

use std::sync::Arc;
use std::time::Duration;

use domain::RunId;
use domain::app::Event;
use domain::pipeline::{Run, RunAction, RunEvent};

use crate::control::Call;
use crate::pipeline::{PlanError, StepRequest};
use crate::world::World;

const PAUSE: Duration = Duration::from_secs(1);

pub async fn perform(world: &World, call: &Call, id: &RunId, action: &RunAction) -> Option<Event> {
    let run = call.app.runs.get(id)?;
    let event = match action {
        RunAction::Plan => plan(world, call, run).await?,
        RunAction::Step(name) => step(world, call, run, name).await?,
        RunAction::CleanUp => {
            while let Err(error) = world.pipeline.finish(id.as_str()).await {
                call.note(error.to_string());
                tokio::time::sleep(PAUSE).await;
            }
            RunEvent::CleanedUp
        }
    };
    Some(Event::Run { run: id.clone(), event })
}

async fn plan(world: &World, call: &Call, run: &Run) -> Option<RunEvent> {
    loop {
        let error = match world.pipeline.plan(&run.commit).await {
            Ok((commit, project)) => {
                return Some(RunEvent::Planned { commit, project: Arc::new(project) });
            }
            Err(PlanError::Mistakes(mistakes)) => return Some(RunEvent::Refused { mistakes }),
            Err(error) => error,
        };
        // A repository that cannot be read now may be readable in a moment.
        call.note(error.to_string());
        tokio::select! {
            () = call.cancel.cancelled() => return None,
            () = tokio::time::sleep(PAUSE) => {}
        }
    }
}

async fn step(world: &World, call: &Call, run: &Run, name: &domain::StepName) -> Option<RunEvent> {
    let plan = run.plan.as_ref()?;
    let step = plan.steps.iter().find(|step| step.planned.name == *name)?;
    let started = RunEvent::StepStarted { step: name.clone() };
    // Only for people: without it the step has a result all the same.
    let _unseen = call.handle.offer(Event::Run { run: run.id.clone(), event: started }).await;
    let (artifacts, images) = (run.artifacts(), run.images());
    let request = StepRequest {
        run: &run.id,
        commit: &run.commit,
        project: &plan.project,
        step: &step.planned,
        artifacts: &artifacts,
        images: &images,
    };
    let result = world.pipeline.step(request, call.cancel.clone()).await;
    Some(RunEvent::StepFinished { step: name.clone(), result: Box::new(result) })
}
