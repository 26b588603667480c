//! What can be known without a server: its log is folded. It is only read, so that a server may begin meanwhile.

use std::path::Path;

use domain::Timestamp;
use domain::app::App;
use store::Store;

use super::{Exit, Failure};

/// The state as the log has it.
pub async fn app(state: &Path) -> Result<App, Failure> {
    if !state.join("events.db").is_file() {
        return Err(Failure::new(
            Exit::Failed,
            format!("{} knows nothing of an app yet", state.display()),
            "start a server with `launchway server`, or build with `launchway run`",
        ));
    }
    let store = Store::open_to_read(state).await?;
    let (mut app, mut seq) = (App::default(), 0);
    loop {
        let entries = store.after(seq, 1000).await?;
        let Some(last) = entries.last() else { return Ok(app) };
        seq = last.seq;
        for entry in &entries {
            let at: Timestamp = entry.at;
            app.step(&entry.event, at)?;
        }
    }
}
