//! The story that `launchway demo` tells: a real application from its first commit to production,
//! through a bad release, a killed server and a rollback, under traffic that must not notice.

mod edits;
mod scan;
mod stage;
mod story;
mod summary;

use std::path::PathBuf;

use domain::config::EngineKind;

pub use stage::DemoError;
pub use summary::Summary;

use stage::Stage;
use story::Story;

/// What the demo is told.
#[derive(Debug, Clone)]
pub struct DemoConfig {
    /// The example application.
    pub source: PathBuf,
    /// What its environments run on.
    pub engine: EngineKind,
    /// Leave everything running at the end.
    pub stay: bool,
}

/// Tells the whole story. What it started is stopped again, whatever happened, unless it is to stay.
pub async fn demo(config: &DemoConfig) -> Result<Summary, DemoError> {
    let stage = Stage::set(&config.source, config.engine)?;
    let mut story = Story::begin(stage).await?;
    let told = tokio::select! {
        told = story.tell() => told,
        () = interrupted() => Err(DemoError::Interrupted),
    };
    story.end(told.err().as_ref(), config.stay).await
}

/// The summary for people, on standard error.
pub fn say_summary(summary: &Summary) {
    story::say("");
    for step in &summary.steps {
        let verdict = if step.ok { "ok  " } else { "FAIL" };
        story::say(&format!("{verdict} {:20} {}", step.name, step.seen));
    }
    if let Some(why) = &summary.stopped {
        story::say(&format!("The story stopped: {why}"));
    }
    let rollback = summary.rollback_ms.map_or("none".into(), |ms| format!("{ms} ms"));
    story::say(&format!(
        "{} requests, {} failed outside the bad release, slowest rollback {rollback}, {} {} left",
        summary.sent,
        summary.failed_outside_bad_release,
        summary.left_running,
        match summary.engine {
            EngineKind::Process => "processes",
            EngineKind::Docker => "processes and containers",
        }
    ));
    story::say(&format!(
        "{} WebSockets and {} streams of events: {} polite closes, {} abnormal ones, {} failed opens",
        summary.websockets,
        summary.event_streams,
        summary.polite_closes,
        summary.abnormal_closes,
        summary.failed_opens
    ));
}

async fn interrupted() {
    use tokio::signal::unix::{SignalKind, signal};
    let Ok(mut terminate) = signal(SignalKind::terminate()) else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        _ = terminate.recv() => {}
    }
}
