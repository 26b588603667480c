//! What there is of a project, as its labels say: for who has only its folder.

use std::path::Path;

use engine::docker::project::{FOLDER, Line, Look, PROJECT, ProjectEngine};
use futures_util::future::try_join_all;

use super::UpError;
use super::down::label;

/// A container that `up` made, running or not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    pub project: String,
    pub service: String,
    pub name: String,
    pub id: String,
    pub look: Look,
}

/// The containers of this folder, by name.
pub async fn standing(engine: &ProjectEngine, folder: &Path) -> Result<Vec<Standing>, UpError> {
    let mut all = Vec::new();
    for found in engine.containers(&[(FOLDER, &label(folder)?)]).await? {
        // One that was removed meanwhile is none.
        let Some(look) = engine.look(&found.id).await? else { continue };
        let project = found.labels.get(PROJECT).cloned().unwrap_or_default();
        let (id, service, name) = (found.id, found.service, found.name);
        all.push(Standing { project, service, name, id, look });
    }
    all.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(all)
}

/// Hands on the last lines of each, and with `on` what they write until the last of them has ended.
pub async fn show_logs(
    engine: &ProjectEngine,
    all: &[Standing],
    lines: usize,
    on: bool,
    say: impl Fn(&Standing, Line) + Send + Sync,
) -> Result<(), UpError> {
    let say = &say;
    let each = all
        .iter()
        .map(|of| async move { engine.show(&of.id, lines, on, &mut |line| say(of, line)).await });
    try_join_all(each).await?;
    Ok(())
}
