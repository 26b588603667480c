//! The image that is run: found by digest, pulled only where it is missing, with what it says of itself.

use std::collections::BTreeSet;
use std::time::Duration;

use bollard::auth::DockerCredentials;
use bollard::query_parameters::{
    CreateImageOptions, CreateImageOptionsBuilder, ListContainersOptionsBuilder,
    ListImagesOptionsBuilder, RemoveImageOptions,
};
use domain::Digest;
use domain::slot::{ArtifactRef, Location};
use futures_util::StreamExt;

use super::DockerEngine;
use super::build::{Credentials, registry_of};
use super::connect::{Trouble, is_conflict, is_done, is_missing};
use super::labels;
use crate::EngineError;

/// A pull that says nothing for so long is given up.
const SILENCE: Duration = Duration::from_secs(120);

/// What an image says about how it wants to be run.
#[derive(Debug, Clone, Default)]
pub(super) struct Facts {
    /// By digest: what the name means now.
    pub(super) id: String,
    /// TCP ports, ascending.
    pub(super) exposes: Vec<u16>,
    /// Paths.
    pub(super) volumes: Vec<String>,
}

impl DockerEngine {
    /// The image of this name or id, if the Engine has it.
    pub(super) async fn facts(&self, image: &str) -> Result<Option<Facts>, Trouble> {
        let found = match self.docker().await?.inspect_image(image).await {
            Ok(found) => found,
            Err(error) if is_missing(&error) => return Ok(None),
            Err(error) => return Err(self.trouble(error)),
        };
        let config = found.config.unwrap_or_default();
        let ports = config.exposed_ports.unwrap_or_default();
        let mut exposes: Vec<u16> = ports.iter().filter_map(|port| tcp(port)).collect();
        exposes.sort_unstable();
        let mut volumes = config.volumes.unwrap_or_default();
        volumes.sort();
        Ok(Some(Facts { id: found.id.unwrap_or_default(), exposes, volumes }))
    }

    /// The image of a release, by its digest and nothing else.
    pub(super) async fn artifact(&self, artifact: &ArtifactRef) -> Result<Facts, Trouble> {
        let Location::Image { image, pushed } = &artifact.location else {
            return Err(Trouble::refused("its artifact is a folder, not an image"));
        };
        let id = format!("sha256:{}", artifact.digest);
        if let Some(facts) = self.facts(&id).await? {
            return Ok(facts);
        }
        if let Some(pushed) = pushed {
            self.pull(pushed).await?;
            if let Some(facts) = self.facts(&id).await? {
                return Ok(facts);
            }
        }
        let short = &artifact.digest.as_str()[..12];
        Err(Trouble::refused(format!(
            "the image {image} ({short}) is not on this Docker Engine any more; build the release again, or set `registry:` so that images are kept elsewhere too"
        )))
    }

    /// The image of this name; pulled if the Engine does not have it.
    pub(super) async fn ensure_image(&self, image: &str) -> Result<Facts, Trouble> {
        if let Some(facts) = self.facts(image).await? {
            return Ok(facts);
        }
        self.pull(image).await?;
        let facts = self.facts(image).await?;
        facts.ok_or_else(|| {
            Trouble::refused(format!("the image {image} was pulled, and is not there"))
        })
    }

    async fn pull(&self, image: &str) -> Result<(), Trouble> {
        let cannot = |why: &str| {
            Trouble::refused(format!(
                "the image {image} cannot be pulled: {}; check its name and tag, run `docker login` if it is private, or bring it here with `docker load` where no registry is reachable",
                why.trim_end_matches('.')
            ))
        };
        let login = Credentials::from_env().of(registry_of(image)).await;
        let credentials = login.map(|login| match login.token {
            true => DockerCredentials { identitytoken: Some(login.secret), ..Default::default() },
            false => DockerCredentials {
                username: Some(login.user),
                password: Some(login.secret),
                ..Default::default()
            },
        });
        let options: CreateImageOptions =
            CreateImageOptionsBuilder::new().from_image(&with_tag(image)).build();
        let docker = self.docker().await?;
        let mut progress = Box::pin(docker.create_image(Some(options), None, credentials));
        loop {
            match tokio::time::timeout(SILENCE, progress.next()).await {
                Err(_) => return Err(cannot(&format!("no progress for {SILENCE:?}"))),
                Ok(None) => return Ok(()),
                Ok(Some(Ok(step))) => {
                    let failed = step.error_detail.and_then(|detail| detail.message);
                    if let Some(why) = failed {
                        return Err(cannot(&why));
                    }
                }
                Ok(Some(Err(error))) => match self.trouble(error) {
                    Trouble::Refused(why) => return Err(cannot(&why)),
                    lost => return Err(lost),
                },
            }
        }
    }

    /// Removes images of this installation, except those in `keep` and those that a container is of. Answers which went.
    pub async fn prune(&self, keep: &BTreeSet<Digest>) -> Result<Vec<Digest>, EngineError> {
        let pruned = self.prune_images(keep).await;
        pruned.map_err(|trouble| EngineError::new("removing old images", trouble.to_string()))
    }

    async fn prune_images(&self, keep: &BTreeSet<Digest>) -> Result<Vec<Digest>, Trouble> {
        let docker = self.docker().await?;
        let ours = labels::filter(&[(labels::STATE, &self.state)]);
        let options = ListImagesOptionsBuilder::new().filters(&ours).build();
        let images = docker.list_images(Some(options)).await;
        let images = images.map_err(|error| self.trouble(error))?;
        let everything = ListContainersOptionsBuilder::new().all(true).build();
        let containers = docker.list_containers(Some(everything)).await;
        let containers = containers.map_err(|error| self.trouble(error))?;
        let used: BTreeSet<String> = containers.into_iter().filter_map(|c| c.image_id).collect();
        let mut gone = Vec::new();
        for image in images.into_iter().filter(|image| !used.contains(&image.id)) {
            let hex = image.id.trim_start_matches("sha256:");
            let Some(digest) = Digest::new(hex).ok().filter(|digest| !keep.contains(digest)) else {
                continue;
            };
            // By each of its names; the last one takes the image along. One without a name goes by its id.
            let mut names: Vec<String> = image.repo_tags.clone();
            names.retain(|name| !name.contains("<none>"));
            if names.is_empty() {
                names.push(image.id.clone());
            }
            let mut removed = true;
            for name in names {
                match docker.remove_image(&name, None::<RemoveImageOptions>, None).await {
                    // Somebody uses it since we looked, or builds on it: it goes another time.
                    Err(error) if is_conflict(&error) => removed = false,
                    Err(error) if !is_done(&error) => return Err(self.trouble(error)),
                    _ => {}
                }
            }
            if removed {
                gone.push(digest);
            }
        }
        Ok(gone)
    }
}

/// `80` of `80/tcp`; no UDP.
fn tcp(port: &str) -> Option<u16> {
    let (number, protocol) = port.split_once('/').unwrap_or((port, "tcp"));
    (protocol == "tcp").then(|| number.parse().ok()).flatten()
}

/// Without a tag all of them would be pulled.
fn with_tag(image: &str) -> String {
    let last = image.rsplit('/').next().unwrap_or(image);
    if last.contains(':') || last.contains('@') {
        image.to_owned()
    } else {
        format!("{image}:latest")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_without_a_tag_means_the_latest() {
        assert_eq!(with_tag("localhost:5000/tea"), "localhost:5000/tea:latest");
        assert_eq!(with_tag("redis:7-alpine"), "redis:7-alpine");
        assert_eq!(with_tag("tea@sha256:00"), "tea@sha256:00");
    }

    #[test]
    fn only_tcp_ports_answer() {
        assert_eq!(["80/tcp", "53/udp", "8000"].map(tcp), [Some(80), None, Some(8000)]);
    }
}
