//! What a scanner looks at.

use std::path::{Path, PathBuf};

use domain::slot::{ArtifactRef, Location};
use engine::docker::build::ImageBuilder;

use super::bench::{Bench, Halt};

/// Something that a tool can read without a Docker Engine, which nobody but us may ask.
#[derive(Debug, Clone)]
pub(super) enum Subject {
    /// CycloneDX.
    Bill(PathBuf),
    /// As `docker save` writes it.
    Archive(PathBuf),
    Folder(PathBuf),
}

impl Bench<'_> {
    /// The artifact as tools can read it: an image is saved into a file.
    pub async fn subject(&self, service: &str, artifact: &ArtifactRef) -> Result<Subject, Halt> {
        let Location::Image { image, .. } = &artifact.location else {
            let Location::Folder(folder) = &artifact.location else {
                return Err(Halt::unavailable(format!(
                    "{service} is nothing that can be looked at"
                )));
            };
            return Ok(Subject::Folder(folder.clone()));
        };
        let archive = self.input(&format!("{service}.tar"));
        if !archive.exists() {
            self.say(&format!("saving the image {image}"));
            self.save(artifact, &archive).await.map_err(|why| {
                Halt::unavailable(format!(
                    "the image {image} of {service} cannot be looked at: {why}"
                ))
            })?;
            self.hand_over(&archive)?;
        }
        Ok(Subject::Archive(archive))
    }

    async fn save(&self, artifact: &ArtifactRef, archive: &Path) -> Result<(), String> {
        let builder = ImageBuilder::connect().await.map_err(|e| e.to_string())?;
        builder.save(&artifact.digest, archive).await.map_err(|e| e.to_string())
    }
}
