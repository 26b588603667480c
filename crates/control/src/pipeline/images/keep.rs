//! Which images stay on the Engine: those that a release may still need.

use std::collections::{BTreeMap, BTreeSet};

use domain::{CommitId, Digest};
use engine::docker::build::{BuildError, Image, ImageBuilder, by_id};

use super::{Images, STATE};

/// What is needed of the images of this installation.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Needed {
    pub images: BTreeSet<Digest>,
    /// Tags of other commits go, even where their image stays.
    pub commits: BTreeSet<CommitId>,
}

impl Images {
    /// Removes the images of this installation that are not needed any more; `needed` is asked once nothing is being
    /// made, and may say that it does not know. What a container uses stays. How many went.
    pub async fn keep(&self, needed: impl FnOnce() -> Option<Needed>) -> Result<usize, BuildError> {
        let builder = self.builder().await?;
        let Ok(_alone) = self.making.try_write() else { return Ok(0) };
        let Some(needed) = needed() else { return Ok(0) };
        let ours = BTreeMap::from([(STATE.to_owned(), self.state().to_owned())]);
        let mut gone = 0;
        for image in builder.labelled(&ours).await? {
            let stays = needed.images.contains(&image.id) || self.recently_used(&image.id);
            gone += usize::from(tidy(&builder, &image, stays, &needed.commits).await?);
        }
        Ok(gone)
    }
}

/// Takes the tags of commits that are gone; the last tag that goes takes the image with it. Whether it went.
async fn tidy(
    builder: &ImageBuilder,
    image: &Image,
    stays: bool,
    commits: &BTreeSet<CommitId>,
) -> Result<bool, BuildError> {
    let stale = |tag: &&String| {
        let commit = tag.rsplit_once(':').and_then(|(_, tag)| CommitId::new(tag).ok());
        commit.is_some_and(|commit| !stays || !commits.contains(&commit))
    };
    let going: Vec<&String> = image.tags.iter().filter(stale).collect();
    // The last name of an image that stays is left to it, whatever it says.
    let spared = usize::from(stays && going.len() == image.tags.len());
    for tag in going.iter().skip(spared) {
        builder.remove(tag).await?;
    }
    if stays || going.len() < image.tags.len() {
        return Ok(false);
    }
    builder.remove(&by_id(&image.id)).await
}
