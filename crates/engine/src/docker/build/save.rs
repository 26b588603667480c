//! An image as a file: for tools that may not ask the Engine.

use std::path::Path;
use std::time::Duration;

use domain::Digest;
use futures_util::TryStreamExt;
use tokio::io::AsyncWriteExt;

use super::images::by_id;
use super::{BuildError, ImageBuilder};

/// An Engine that sends nothing for so long has stopped.
const SILENCE: Duration = Duration::from_secs(120);

impl ImageBuilder {
    /// Writes the image to `into`, as `docker save` does. The file is whole or not there; only its owner can read it.
    pub async fn save(&self, id: &Digest, into: &Path) -> Result<(), BuildError> {
        let part = into.with_extension("part");
        let failed =
            |e: std::io::Error| BuildError::Broken(format!("writing {}: {e}", part.display()));
        let mut open = tokio::fs::OpenOptions::new();
        let open = open.write(true).create(true).truncate(true).mode(0o600);
        let mut file = open.open(&part).await.map_err(failed)?;
        let name = by_id(id);
        let mut pieces = std::pin::pin!(self.docker.export_image(&name));
        loop {
            let piece = tokio::time::timeout(SILENCE, pieces.try_next()).await;
            let silent = || BuildError::Broken(format!("the Engine sent nothing for {SILENCE:?}"));
            let Some(piece) = piece.map_err(|_| silent())?? else { break };
            file.write_all(&piece).await.map_err(failed)?;
        }
        file.flush().await.map_err(failed)?;
        tokio::fs::rename(&part, into).await.map_err(failed)
    }
}
