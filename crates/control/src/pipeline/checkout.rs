//! The clean checkout of a run: made once, shared by its steps, removed at its end.

use std::fs;
use std::path::{Path, PathBuf};

use domain::CommitId;

use super::error::PipelineError;
use super::files::{RunAs, blocking, folder_of, give_tree, remove_tree};
use super::layout::Layout;
use super::repository::Repository;

/// The checkout of `scope` (a run), made if it is not there. The caller holds the scope's lock.
pub(crate) async fn ensure(
    layout: &Layout,
    repository: &Repository,
    scope: &str,
    commit: &CommitId,
    owner: Option<RunAs>,
) -> Result<PathBuf, PipelineError> {
    let folder = layout.run(scope);
    let checkout = folder.join("checkout");
    if checkout.is_dir() {
        return Ok(checkout);
    }
    // Before anything that has to be cleared away: it is what is looked for then.
    folder_of(&layout.temporary(scope), owner)?;
    let fresh = folder.join("checkout.new");
    export_fresh(repository, commit, "", &fresh, owner).await?;
    fs::rename(&fresh, &checkout)
        .map_err(|e| PipelineError::new(format!("placing the checkout of {scope}"), e))?;
    Ok(checkout)
}

/// Writes `part` of the commit to `into`, replacing what a crash may have left there.
pub(crate) async fn export_fresh(
    repository: &Repository,
    commit: &CommitId,
    part: &str,
    into: &Path,
    owner: Option<RunAs>,
) -> Result<(), PipelineError> {
    let scratch = into.with_extension("index");
    for path in [into, &scratch] {
        clear(path).await?;
        folder_of(path, None)?;
    }
    repository.export(commit, part, into, &scratch).await?;
    clear(&scratch).await?;
    let Some(user) = owner else { return Ok(()) };
    let tree = into.to_path_buf();
    blocking(move || give_tree(&tree, user))
        .await
        .map_err(|e| PipelineError::new(format!("giving {} to the steps' user", into.display()), e))
}

/// Removes the tree at `path`.
pub(crate) async fn clear(path: &Path) -> Result<(), PipelineError> {
    let tree = path.to_path_buf();
    blocking(move || remove_tree(&tree))
        .await
        .map_err(|e| PipelineError::new(format!("removing {}", path.display()), e))
}
