//! Images that are there: found, tagged, pushed, pulled and removed.

use std::collections::{BTreeMap, HashMap};

use bollard::auth::DockerCredentials;
use bollard::query_parameters::{
    CreateImageOptionsBuilder, ListImagesOptionsBuilder, PushImageOptionsBuilder,
    RemoveImageOptionsBuilder, TagImageOptionsBuilder,
};
use domain::Digest;
use futures_util::TryStreamExt;

use super::{BuildError, ImageBuilder, registry_of};

/// An image of the Engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    pub id: Digest,
    pub tags: Vec<String>,
    /// `name@sha256:...`, where it was pushed to or pulled from.
    pub pushed: Vec<String>,
    pub labels: BTreeMap<String, String>,
    /// Bytes.
    pub size: u64,
}

/// The digest in `sha256:...`.
pub(super) fn id(text: &str) -> Result<Digest, BuildError> {
    let hex = text.strip_prefix("sha256:").unwrap_or(text);
    Digest::new(hex)
        .map_err(|error| BuildError::Broken(format!("`{text}` is no image's id: {error}")))
}

/// How an image is named by its digest.
pub fn by_id(id: &Digest) -> String {
    format!("sha256:{id}")
}

impl ImageBuilder {
    /// The image of this name or id, if the Engine has it.
    pub async fn image(&self, name: &str) -> Result<Option<Image>, BuildError> {
        let found = match self.docker.inspect_image(name).await {
            Err(error) if missing(&error) => return Ok(None),
            found => found?,
        };
        let labels = found.config.and_then(|config| config.labels).unwrap_or_default();
        Ok(Some(Image {
            id: id(&found.id.unwrap_or_default())?,
            tags: found.repo_tags.unwrap_or_default(),
            pushed: found.repo_digests.unwrap_or_default(),
            labels: labels.into_iter().collect(),
            size: u64::try_from(found.size.unwrap_or_default()).unwrap_or_default(),
        }))
    }

    /// The images that carry all of these labels.
    pub async fn labelled(
        &self,
        labels: &BTreeMap<String, String>,
    ) -> Result<Vec<Image>, BuildError> {
        let wanted = labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let filters = HashMap::from([("label".to_owned(), wanted)]);
        let options = ListImagesOptionsBuilder::default().filters(&filters).build();
        let found = self.docker.list_images(Some(options)).await?;
        let image = |summary: bollard::models::ImageSummary| {
            Ok(Image {
                id: id(&summary.id)?,
                tags: summary.repo_tags,
                pushed: summary.repo_digests,
                labels: summary.labels.into_iter().collect(),
                size: u64::try_from(summary.size).unwrap_or_default(),
            })
        };
        found.into_iter().map(image).collect()
    }

    /// Gives the image one more name.
    pub async fn tag(&self, id: &Digest, name: &str) -> Result<(), BuildError> {
        let (repository, tag) = parted(name);
        let options = TagImageOptionsBuilder::default().repo(repository).tag(tag).build();
        Ok(self.docker.tag_image(&by_id(id), Some(options)).await?)
    }

    /// Takes a name from an image, or the image itself if it is named by its id. What a container uses stays; what
    /// is not there is gone already. Whether it is gone now.
    pub async fn remove(&self, name: &str) -> Result<bool, BuildError> {
        let options = RemoveImageOptionsBuilder::default().force(false).build();
        match self.docker.remove_image(name, Some(options), None).await {
            Err(error) if missing(&error) => Ok(true),
            Err(bollard::errors::Error::DockerResponseServerError { status_code: 409, .. }) => {
                Ok(false)
            }
            removed => Ok(removed.map(|_| true)?),
        }
    }

    /// Pushes `name` to its registry; `repository@sha256:...`, by which it can be pulled.
    pub async fn push(
        &self,
        name: &str,
        log: &mut (dyn FnMut(&str) + Send),
    ) -> Result<String, BuildError> {
        let (repository, tag) = parted(name);
        let options = PushImageOptionsBuilder::default().tag(tag).build();
        let login = self.login(registry_of(repository)).await;
        let mut said = std::pin::pin!(self.docker.push_image(repository, Some(options), login));
        while let Some(step) = said.try_next().await? {
            if let Some(detail) = step.error_detail {
                return Err(BuildError::Failed {
                    said: detail.message.unwrap_or_default(),
                    at: None,
                });
            }
            // Bars draw themselves again and again.
            if let (Some(status), None) =
                (step.status, step.progress_detail.and_then(|bar| bar.total))
            {
                log(&status);
            }
        }
        let pushed = self.image(name).await?.map(|image| image.pushed).unwrap_or_default();
        let here = format!("{repository}@");
        pushed.into_iter().find(|digest| digest.starts_with(&here)).ok_or_else(|| {
            BuildError::Broken(format!(
                "{name} was pushed, but the Engine does not know its digest"
            ))
        })
    }

    /// Pulls an image by its name, which may be `repository@sha256:...`.
    pub async fn pull(
        &self,
        name: &str,
        log: &mut (dyn FnMut(&str) + Send),
    ) -> Result<Image, BuildError> {
        let (repository, tag) = parted(name);
        let options = CreateImageOptionsBuilder::default().from_image(repository).tag(tag).build();
        let login = self.login(registry_of(repository)).await;
        let mut said = std::pin::pin!(self.docker.create_image(Some(options), None, login));
        while let Some(step) = said.try_next().await? {
            if let Some(detail) = step.error_detail {
                return Err(BuildError::Failed {
                    said: detail.message.unwrap_or_default(),
                    at: None,
                });
            }
            if let (Some(status), None) =
                (step.status, step.progress_detail.and_then(|bar| bar.total))
            {
                log(&status);
            }
        }
        let image = self.image(name).await?;
        image.ok_or_else(|| BuildError::Broken(format!("{name} was pulled and is not there")))
    }

    async fn login(&self, registry: &str) -> Option<DockerCredentials> {
        let login = self.credentials.of(registry).await?;
        let mut credentials =
            DockerCredentials { serveraddress: Some(registry.to_owned()), ..Default::default() };
        match login.token {
            true => credentials.identitytoken = Some(login.secret),
            false => {
                (credentials.username, credentials.password) =
                    (Some(login.user), Some(login.secret));
            }
        }
        Some(credentials)
    }
}

/// `repository:tag` or `repository@digest`, parted; without either it is `latest`.
fn parted(name: &str) -> (&str, &str) {
    if let Some((repository, digest)) = name.split_once('@') {
        return (repository, digest);
    }
    match name.rsplit_once(':') {
        Some((repository, tag)) if !tag.contains('/') => (repository, tag),
        _ => (name, "latest"),
    }
}

fn missing(error: &bollard::errors::Error) -> bool {
    matches!(error, bollard::errors::Error::DockerResponseServerError { status_code: 404, .. })
}

#[cfg(test)]
mod tests {
    use super::parted;

    #[test]
    fn a_name_is_a_repository_and_a_tag_or_a_digest() {
        assert_eq!(parted("redis"), ("redis", "latest"));
        assert_eq!(parted("127.0.0.1:5000/a/b"), ("127.0.0.1:5000/a/b", "latest"));
        assert_eq!(parted("127.0.0.1:5000/a/b:c"), ("127.0.0.1:5000/a/b", "c"));
        assert_eq!(parted("a/b@sha256:00"), ("a/b", "sha256:00"));
    }
}
