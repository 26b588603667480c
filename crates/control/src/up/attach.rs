//! Brings a project up and stays with it: hands on what its containers write until the last of them has ended.

use std::time::{SystemTime, UNIX_EPOCH};

use engine::EngineError;
use engine::docker::project::{Line, ProjectEngine};
use futures_util::stream::FuturesUnordered;
use futures_util::{StreamExt, TryFutureExt, future};
use tokio::sync::mpsc;

use super::{Event, Options, Project, Running, Say, UpError, bring_up};

/// Containers whose log nobody has begun to read yet.
const NEWS: usize = 64;

/// Returns when every container has ended and stays so.
pub async fn attached(
    engine: &ProjectEngine,
    project: &Project,
    options: &Options,
    say: &Say,
) -> Result<(), UpError> {
    // Of containers that run already, only what they write from now on.
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let since = i32::try_from(now).unwrap_or(0);
    let (started, news) = mpsc::channel(NEWS);
    let bring = bring_up(engine, project, options, say, started);
    let follow = follow(engine, news, since, say).map_err(UpError::from);
    future::try_join(bring, follow).await.map(|_| ())
}

async fn follow(
    engine: &ProjectEngine,
    mut news: mpsc::Receiver<Running>,
    since: i32,
    say: &Say,
) -> Result<(), EngineError> {
    let mut all = FuturesUnordered::new();
    let mut more = true;
    loop {
        tokio::select! {
            running = news.recv(), if more => match running {
                Some(running) => all.push(one(engine, running, since, say)),
                None => more = false,
            },
            Some(ended) = all.next() => ended?,
            else => return Ok(()),
        }
    }
}

async fn one(
    engine: &ProjectEngine,
    running: Running,
    since: i32,
    say: &Say,
) -> Result<(), EngineError> {
    let Running { service, name, id, .. } = running;
    let mut hand_on = |line: Line| {
        let Line { stream, text } = line;
        say(Event::Line { service: service.clone(), name: name.clone(), stream, text });
    };
    let phase = engine.follow(&id, since, &mut hand_on).await?;
    say(Event::Ended { name, phase });
    Ok(())
}
